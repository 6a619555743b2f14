//! A whole fleet in virtual time: scripted backends break in every way we know, tables change,
//! clients leave, and after each step the promises of the design are checked. One seed is one
//! run; a failing one prints its seed and its last steps. Replay it with `SIM_SEED=n`;
//! look further with `SIM_RUNS=n`.

#[path = "fleet/common.rs"]
mod common;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use common::{breaker, query, route, serving, table};
use dataplane_core::{
    Cause, Decision, Event, Failure, Fleet, FleetView, InstanceKey, InstanceView, Listed, Mono,
    Order, Outcome, Pick, Probed, Ticket,
};
use dataplane_protocol::{
    RoutingTable,
    sync::{Breaker, Health},
    table::{Balancer, BreakerPolicy, Discovery, HealthMode, WhenAllOpen},
};

const RUNS: u64 = 24;
const STEPS_SHOWN: usize = 40;
/// Virtual seconds with faults in each run.
const TROUBLE_S: u64 = 1_500;
const FIRST_TOKEN: Duration = Duration::from_secs(30);
const OPEN_FOR: Duration = Duration::from_secs(20);
const MAX_OPEN_FOR: Duration = Duration::from_mins(1);
const ATTEMPTS: u32 = 3;
const MODEL: &str = "phi";

#[test]
fn promises_hold_through_every_kind_of_trouble() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_RUNS").unwrap_or(RUNS),
    };
    for seed in seeds {
        let mut sim = Sim::new(seed);
        sim.run_until(Mono::from_millis(TROUBLE_S * 1_000));
        sim.heal();
        sim.settle();
        sim.check_the_way_back();
        sim.drain();
        assert!(
            sim.answered > 1_000,
            "the run was a real one: {}",
            sim.answered
        );
    }
}

/// What a backend does with requests, until its next change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Good,
    Refuses,
    Hangs,
    Resets,
    Fails,
    Full,
    Truncates,
}

#[derive(Debug)]
enum Step {
    Arrive,
    FirstByte(u64),
    End(u64, Outcome),
    Probed(InstanceKey, Probed),
    Listed(InstanceKey),
    ChangeMood,
    ChangeTable,
}

/// An attempt under way.
struct Flight {
    ticket: Ticket,
    tried: Vec<InstanceKey>,
    model: Option<&'static str>,
    answered: bool,
    /// Its breaker was not closed when it was sent, and it was no last resort.
    trial: bool,
}

struct Sim {
    seed: u64,
    random: u64,
    fleet: Fleet,
    now: Mono,
    queue: BinaryHeap<Reverse<(Mono, u64)>>,
    steps: BTreeMap<u64, Step>,
    serial: u64,
    flights: BTreeMap<u64, Flight>,
    moods: BTreeMap<String, Mood>,
    trouble: bool,
    /// Trials under way of each half-open breaker, and when the last began.
    trials: BTreeMap<InstanceKey, (BTreeSet<u64>, Mono)>,
    balancer: Balancer,
    /// Absent: a route without breaker.
    when_all_open: Option<WhenAllOpen>,
    permits: u32,
    pods: usize,
    /// When the last attempt ended that met a bad mood.
    last_fault: Mono,
    answered: u64,
    log: VecDeque<String>,
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} failed; its last steps:", self.seed);
            for line in &self.log {
                eprintln!("  {line}");
            }
        }
    }
}

impl Sim {
    fn new(seed: u64) -> Self {
        let balancers = [
            Balancer::Priority,
            Balancer::RoundRobin,
            Balancer::LeastConnections,
        ];
        let policies = [
            Some(WhenAllOpen::TryBest),
            Some(WhenAllOpen::Fail),
            None,
            Some(WhenAllOpen::TryBest),
        ];
        let mut sim = Self {
            seed,
            random: seed,
            fleet: Fleet::new(seed),
            now: Mono::default(),
            queue: BinaryHeap::new(),
            steps: BTreeMap::new(),
            serial: 0,
            flights: BTreeMap::new(),
            moods: BTreeMap::new(),
            trouble: true,
            trials: BTreeMap::new(),
            balancer: balancers[(seed % 3) as usize],
            when_all_open: policies[(seed / 3 % 4) as usize],
            permits: 1 + (seed / 12 % 2) as u32 * 2,
            pods: 2,
            last_fault: Mono::default(),
            answered: 0,
            log: VecDeque::new(),
        };
        sim.apply();
        sim.after(0, Step::Arrive);
        sim.after(5_000, Step::ChangeMood);
        sim.after(50_000, Step::ChangeTable);
        sim
    }

    /// Two endpoints in the preferred tier, a spare, and a cloud that is not probed.
    fn table(&self) -> RoutingTable {
        let mut listing = serving("a", &[]);
        listing.models.discovery = Some(Discovery {
            listings: vec![],
            interval_ms: 30_000,
        });
        let mut cloud = serving("cloud", &[MODEL]);
        cloud.health.mode = HealthMode::Passive;
        let mut only = route(
            "r",
            self.balancer,
            &[
                ("a", 0, 100),
                ("b", 0, 100),
                ("c", 1, 100),
                ("cloud", 2, 100),
            ],
        );
        let mut policy = breaker();
        policy.open_for_ms = OPEN_FOR.as_millis() as u64;
        policy.max_open_for_ms = MAX_OPEN_FOR.as_millis() as u64;
        policy.failure_percent = Some(60);
        policy.min_requests = 10;
        policy.half_open_requests = self.permits;
        only.breaker = self.when_all_open.map(|when_all_open| BreakerPolicy {
            when_all_open,
            ..policy
        });
        only.failover.attempts = ATTEMPTS;
        table(
            vec![
                (listing, self.pods),
                (serving("b", &[]), 1),
                (serving("c", &[MODEL]), 1),
                (cloud, 1),
            ],
            vec![only],
        )
    }

    fn apply(&mut self) {
        let table = Arc::new(self.table());
        self.note(format!("table with {} pods of a", self.pods));
        let events = self.fleet.apply(table, self.now);
        self.take(events);
    }

    fn run_until(&mut self, end: Mono) {
        loop {
            let step = self.queue.peek().map(|Reverse((at, _))| *at);
            let due = self.fleet.next_due().map(|at| at.max(self.now));
            let Some(next) = step.into_iter().chain(due).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = next;
            if due == Some(next) {
                self.carry_out_orders();
            } else if let Some(Reverse((_, id))) = self.queue.pop()
                && let Some(step) = self.steps.remove(&id)
            {
                self.step(step);
            }
        }
        self.now = end;
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Arrive => {
                self.arrive();
                let gap = 50 + self.random(400);
                self.after(gap, Step::Arrive);
            }
            Step::FirstByte(id) => {
                if let Some(flight) = self.flights.get_mut(&id) {
                    flight.answered = true;
                    let events = self.fleet.first_byte(&flight.ticket, self.now);
                    self.note(format!("#{id} first byte"));
                    self.take(events);
                }
            }
            Step::End(id, outcome) => self.end(id, outcome),
            Step::Probed(key, result) => {
                let events = self.fleet.probed(key, result, self.now);
                self.take(events);
            }
            Step::Listed(key) => {
                let result = if self.one_in(4) && self.trouble {
                    Listed::Failed {
                        reason: "timed out".into(),
                    }
                } else {
                    Listed::Models {
                        models: common::names(&[MODEL]),
                        detected: None,
                    }
                };
                let events = self.fleet.listed(key, result, self.now);
                self.take(events);
            }
            Step::ChangeMood => self.change_mood(),
            Step::ChangeTable => {
                if self.trouble {
                    self.pods = self.random(4) as usize;
                    self.apply();
                }
                let gap = 20_000 + self.random(100_000);
                self.after(gap, Step::ChangeTable);
            }
        }
    }

    fn change_mood(&mut self) {
        if self.trouble {
            let names: Vec<_> = self.view().instances.into_iter().collect();
            let chosen = self.random(names.len() as u64) as usize;
            let mood = match self.random(12) {
                0 => Mood::Refuses,
                1 => Mood::Hangs,
                2 => Mood::Resets,
                3 => Mood::Fails,
                4 => Mood::Full,
                5 => Mood::Truncates,
                _ => Mood::Good,
            };
            let name = names[chosen].instance.to_string();
            self.note(format!("{name} now {mood:?}"));
            self.moods.insert(name, mood);
        }
        let gap = 1_000 + self.random(20_000);
        self.after(gap, Step::ChangeMood);
    }

    fn carry_out_orders(&mut self) {
        for order in self.fleet.due(self.now) {
            match order {
                Order::Probe { instance, .. } => {
                    let mood = self.mood(instance.instance.id.as_str());
                    let bad = || Probed::Bad {
                        reason: format!("{mood:?}"),
                    };
                    let (wait, result) = match mood {
                        Mood::Refuses => (1, bad()),
                        Mood::Hangs => (5_000, bad()),
                        _ => (5, Probed::Good { path: 0 }),
                    };
                    // Now and then the shell loses one: it must be asked again.
                    if !self.trouble || !self.one_in(20) {
                        self.after(wait, Step::Probed(instance.key, result));
                    }
                }
                Order::List { instance } => self.after(20, Step::Listed(instance.key)),
            }
        }
    }

    fn arrive(&mut self) {
        let model = self.one_in(3).then_some(MODEL);
        let before = self.view();
        match self.fleet.pick(&query(model), self.now) {
            Ok(pick) => {
                if pick.decision == Decision::LastResort {
                    let able = before
                        .instances
                        .iter()
                        .find(|i| i.usable && serves(i, model));
                    assert!(able.is_none(), "last resort beside {able:?}");
                }
                assert_eq!(pick.attempt, 1);
                self.start(pick, Vec::new(), model, &before);
            }
            Err(refusal) => {
                self.note(format!("refused: {}", refusal.reason()));
                let mut serving = before.instances.iter().filter(|i| serves(i, model));
                let alive = serving.find(|i| self.may_be_asked(i));
                assert!(alive.is_none(), "{refusal:?} though {alive:?} may answer");
                assert!(refusal.retry_after().is_none_or(|wait| wait.as_secs() >= 1));
            }
        }
    }

    /// An attempt was given out: it must be allowed, then it meets its backend.
    fn start(
        &mut self,
        pick: Pick,
        mut tried: Vec<InstanceKey>,
        model: Option<&'static str>,
        before: &FleetView,
    ) {
        self.serial += 1;
        let id = self.serial;
        let key = pick.ticket.key();
        let name = pick.instance.instance.id.to_string();
        let view = before
            .instances
            .iter()
            .find(|view| view.key == key)
            .expect("it is known");
        self.note(format!(
            "#{id} attempt {} to {name}, {:?}",
            pick.attempt, pick.decision
        ));
        assert_ne!(
            view.health,
            Health::Unhealthy,
            "an unhealthy one was picked"
        );
        assert!(serves(view, model), "it does not serve the model");
        assert!(!tried.contains(&key), "tried twice");
        assert!(pick.attempt <= ATTEMPTS, "too many attempts");
        assert_eq!(pick.attempt as usize, tried.len() + 1);
        // Half-open may be: a permit was free, and only saturation made it the last resort.
        let shut = view.breaker == Breaker::Open && view.breaker_reopens_in_ms != Some(0);
        let may_fail = self.when_all_open == Some(WhenAllOpen::Fail);
        assert!(!(shut && may_fail), "the policy says to fail: {view:?}");
        let trial = view.breaker != Breaker::Closed && pick.decision != Decision::LastResort;
        if trial {
            self.check_trial(key, id, view);
        }
        tried.push(key);
        let flight = Flight {
            ticket: pick.ticket,
            tried,
            model,
            answered: false,
            trial,
        };
        self.flights.insert(id, flight);
        self.meet(id, &name);
    }

    fn check_trial(&mut self, key: InstanceKey, id: u64, view: &InstanceView) {
        assert!(
            view.breaker == Breaker::HalfOpen || view.breaker_reopens_in_ms == Some(0),
            "sent through an open breaker: {view:?}"
        );
        let (out, last) = self.trials.entry(key).or_default();
        if view.breaker == Breaker::Open {
            out.clear();
        }
        assert!(
            out.len() < self.permits as usize || self.now.since(*last) >= OPEN_FOR,
            "more half-open trials than permits"
        );
        out.insert(id);
        *last = self.now;
    }

    fn meet(&mut self, id: u64, name: &str) {
        let latency = 20 + self.random(300);
        let stream = latency + self.random(3_000);
        let failure = |failure| Step::End(id, Outcome::Failure(failure));
        if self.one_in(20) {
            return self.after(latency / 2, Step::End(id, Outcome::Cancelled));
        }
        match self.mood(name) {
            Mood::Good => {
                self.after(latency, Step::FirstByte(id));
                self.after(stream, Step::End(id, Outcome::Success));
            }
            Mood::Refuses => self.after(1, failure(Failure::Connect)),
            Mood::Hangs => {
                let wait = FIRST_TOKEN.as_millis() as u64;
                self.after(wait, failure(Failure::FirstTokenTimeout));
            }
            Mood::Resets => self.after(latency, failure(Failure::Reset)),
            Mood::Fails => self.after(latency, failure(Failure::Status(503))),
            Mood::Full => {
                let asked = 1 + self.random(15);
                let retry_after = self.one_in(2).then(|| Duration::from_secs(asked));
                self.after(latency, Step::End(id, Outcome::Saturated { retry_after }));
            }
            Mood::Truncates => {
                self.after(latency, Step::FirstByte(id));
                self.after(stream, failure(Failure::Truncated));
            }
        }
    }

    fn end(&mut self, id: u64, outcome: Outcome) {
        // Cut before, when its instance went unhealthy.
        let Some(flight) = self.flights.remove(&id) else {
            return;
        };
        self.note(format!("#{id} ends: {outcome:?}"));
        let key = flight.ticket.key();
        if flight.trial
            && let Some((out, _)) = self.trials.get_mut(&key)
        {
            out.remove(&id);
        }
        self.answered += u64::from(outcome == Outcome::Success);
        if !matches!(outcome, Outcome::Success | Outcome::Cancelled) {
            self.last_fault = self.now;
        }
        let events = self.fleet.finish(flight.ticket, outcome, self.now);
        let cause = match outcome {
            Outcome::Failure(Failure::Connect) => Some(Cause::ConnectFailure),
            Outcome::Failure(Failure::Reset) => Some(Cause::Reset),
            Outcome::Failure(Failure::FirstTokenTimeout) => Some(Cause::FirstTokenTimeout),
            Outcome::Failure(Failure::Status(status)) => Some(Cause::Status(status)),
            Outcome::Saturated { .. } => Some(Cause::Status(429)),
            _ => None,
        };
        if let Some(cause) = cause {
            self.retry(flight.tried, flight.model, cause);
        }
        self.take(events);
    }

    fn retry(&mut self, tried: Vec<InstanceKey>, model: Option<&'static str>, cause: Cause) {
        let before = self.view();
        if let Some(pick) = self.fleet.retry(&query(model), &tried, cause, self.now) {
            return self.start(pick, tried, model, &before);
        }
        self.note(format!("no retry after {}", cause.label()));
        if cause == Cause::ConnectFailure && tried.len() < ATTEMPTS as usize {
            let mut others = before
                .instances
                .iter()
                .filter(|i| serves(i, model) && !tried.contains(&i.key) && self.may_be_asked(i));
            let other = others.next();
            assert!(other.is_none(), "no retry though {other:?} is left");
        }
    }

    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            self.note(format!("{event:?}"));
            match event {
                Event::CutUnanswered { key } => self.cut(key),
                Event::Gone { key } => {
                    self.trials.remove(&key);
                }
                _ => {}
            }
        }
    }

    fn cut(&mut self, key: InstanceKey) {
        let of_key = |flight: &Flight| flight.ticket.key() == key && !flight.answered;
        let ids: Vec<_> = self
            .flights
            .iter()
            .filter(|(_, flight)| of_key(flight))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(flight) = self.flights.get(&id) else {
                continue;
            };
            let (tried, model) = (flight.tried.clone(), flight.model);
            self.end(id, Outcome::Cancelled);
            self.retry(tried, model, Cause::Unhealthy);
        }
    }

    /// All is well from here on.
    fn heal(&mut self) {
        self.trouble = false;
        self.moods.clear();
        self.pods = 2;
        self.note("healed".into());
        self.apply();
    }

    /// Until the longest that recovery may take has passed since the last fault was seen: a
    /// health interval, an open breaker, the ramp. A backend's own wish to rest comes before.
    fn settle(&mut self) {
        let asked = Duration::from_secs(16);
        let bound = Duration::from_secs(11) + MAX_OPEN_FOR + Duration::from_secs(10);
        self.run_until(self.now + FIRST_TOKEN + asked);
        let end = (self.last_fault + bound).max(self.now);
        self.run_until(end);
        assert!(
            end >= self.last_fault + bound,
            "a fault after all was healed"
        );
    }

    fn check_the_way_back(&mut self) {
        for view in self.view().instances {
            assert!(view.usable, "not back: {view:?}");
            // A tier without traffic has nobody to try whether it is well again.
            if self.balancer != Balancer::Priority || view.places.iter().any(|p| p.tier == 0) {
                let back = (view.breaker, view.ramp_permille);
                assert_eq!(back, (Breaker::Closed, 1_000), "{view:?}");
            }
        }
        let mut shares: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..400 {
            let pick = self
                .fleet
                .pick(&query(None), self.now)
                .expect("all are usable");
            *shares
                .entry(pick.instance.endpoint.id.to_string())
                .or_default() += 1;
            let events = self.fleet.finish(pick.ticket, Outcome::Success, self.now);
            self.take(events);
        }
        self.note(format!("shares at the end: {shares:?}"));
        let even = |names: &[&str], count: u32| {
            let each = names
                .iter()
                .map(|name| shares.get(*name).copied().unwrap_or(0));
            each.into_iter().all(|share| share.abs_diff(count) <= 4)
        };
        match self.balancer {
            Balancer::Priority => assert!(even(&["a", "b"], 200), "{shares:?}"),
            Balancer::RoundRobin => assert!(even(&["a", "b", "c", "cloud"], 100), "{shares:?}"),
            // What is still in flight decides.
            Balancer::LeastConnections => assert!(!shares.is_empty()),
        }
    }

    /// Every attempt ends; nothing may be left in flight.
    fn drain(&mut self) {
        for id in self.flights.keys().copied().collect::<Vec<_>>() {
            self.end(id, Outcome::Cancelled);
        }
        assert!(self.flights.is_empty());
        for view in self.view().instances {
            assert_eq!(view.in_flight, 0, "{view:?}");
        }
    }

    /// The fleet as it says it is, checked against what is really under way.
    fn view(&self) -> FleetView {
        let view = self.fleet.view(self.now);
        for instance in &view.instances {
            let real = self
                .flights
                .values()
                .filter(|f| f.ticket.key() == instance.key);
            assert_eq!(instance.in_flight as usize, real.count(), "{instance:?}");
        }
        view
    }

    /// Whether the policy lets an instance be asked, be it as a last resort.
    fn may_be_asked(&self, view: &InstanceView) -> bool {
        let shut = view.breaker != Breaker::Closed && view.breaker_reopens_in_ms != Some(0);
        let kept_shut = self.when_all_open == Some(WhenAllOpen::Fail) && shut;
        view.health != Health::Unhealthy && !kept_shut
    }

    fn mood(&self, name: &str) -> Mood {
        self.moods.get(name).copied().unwrap_or(Mood::Good)
    }

    fn after(&mut self, millis: u64, step: Step) {
        self.serial += 1;
        let at = self.now + Duration::from_millis(millis);
        self.queue.push(Reverse((at, self.serial)));
        self.steps.insert(self.serial, step);
    }

    fn note(&mut self, what: String) {
        if self.log.len() == STEPS_SHOWN {
            self.log.pop_front();
        }
        self.log.push_back(format!(
            "{:>10.3} s  {what}",
            self.now.as_micros() as f64 / 1e6
        ));
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    }

    fn one_in(&mut self, cases: u64) -> bool {
        self.random(cases) == 0
    }
}

/// Whether an instance is a candidate for the model, by what it is known to list.
fn serves(view: &InstanceView, model: Option<&str>) -> bool {
    model.is_none_or(|model| {
        let models = view.models.as_ref();
        models.is_some_and(|models| models.iter().any(|name| name.as_str() == model))
    })
}
