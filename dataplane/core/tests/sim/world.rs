//! The fleet, its table, its backends and their moods, and the queue of what happens when.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use dataplane_core::{
    Fleet, FleetView, InstanceKey, ListingResult, Mono, Order, Outcome, ProbeResult,
};
use dataplane_protocol::{
    RoutingTable,
    table::{Balancer, BreakerPolicy, Discovery, HealthMode, WhenAllOpen},
};

use crate::{
    common::{self, breaker, route, serving, table},
    requests::Flight,
};

const STEPS_SHOWN: usize = 40;
pub(crate) const OPEN_FOR: Duration = Duration::from_secs(20);
pub(crate) const MAX_OPEN_FOR: Duration = Duration::from_mins(1);
pub(crate) const ATTEMPTS: u32 = 3;
pub(crate) const MODEL: &str = "phi";

/// What a backend does with requests, until its next change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Good,
    Refuses,
    Hangs,
    Resets,
    Fails,
    Full,
    Truncates,
}

#[derive(Debug)]
pub(crate) enum Step {
    Arrive,
    FirstByte(u64),
    End(u64, Outcome),
    ProbeResult(InstanceKey, ProbeResult),
    ListingResult(InstanceKey),
    ChangeMood,
    ChangeTable,
}

pub(crate) struct Sim {
    pub(crate) seed: u64,
    pub(crate) random: u64,
    pub(crate) fleet: Fleet,
    pub(crate) now: Mono,
    pub(crate) queue: BinaryHeap<Reverse<(Mono, u64)>>,
    pub(crate) steps: BTreeMap<u64, Step>,
    pub(crate) serial: u64,
    pub(crate) flights: BTreeMap<u64, Flight>,
    pub(crate) moods: BTreeMap<String, Mood>,
    pub(crate) trouble: bool,
    /// Trials under way of each half-open breaker, and when the last began.
    pub(crate) trials: BTreeMap<InstanceKey, (BTreeSet<u64>, Mono)>,
    pub(crate) balancer: Balancer,
    /// Absent: a route without breaker.
    pub(crate) when_all_open: Option<WhenAllOpen>,
    pub(crate) permits: u32,
    pub(crate) pods: usize,
    /// When the last attempt ended that met a bad mood.
    pub(crate) last_fault: Mono,
    pub(crate) answered: u64,
    pub(crate) log: VecDeque<String>,
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
    pub(crate) fn new(seed: u64) -> Self {
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

    pub(crate) fn apply(&mut self) {
        let table = Arc::new(self.table());
        self.note(format!("table with {} pods of a", self.pods));
        let events = self.fleet.apply(table, self.now);
        self.take(events);
    }

    pub(crate) fn run_until(&mut self, end: Mono) {
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
                    flight.ticket.commit();
                    let events = self.fleet.first_byte(&flight.ticket, self.now);
                    self.note(format!("#{id} first byte"));
                    self.take(events);
                }
            }
            Step::End(id, outcome) => self.end(id, outcome),
            Step::ProbeResult(key, result) => {
                let events = self.fleet.probed(key, result, self.now);
                self.take(events);
            }
            Step::ListingResult(key) => {
                let result = if self.one_in(4) && self.trouble {
                    ListingResult::Failed {
                        reason: "timed out".into(),
                    }
                } else {
                    ListingResult::Models {
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
                    let bad = || ProbeResult::Bad {
                        reason: format!("{mood:?}"),
                    };
                    let (wait, result) = match mood {
                        Mood::Refuses => (1, bad()),
                        Mood::Hangs => (5_000, bad()),
                        _ => (5, ProbeResult::Good { path: 0 }),
                    };
                    // Now and then the shell loses one: it must be asked again.
                    if !self.trouble || !self.one_in(20) {
                        self.after(wait, Step::ProbeResult(instance.key, result));
                    }
                }
                Order::List { instance } => self.after(20, Step::ListingResult(instance.key)),
            }
        }
    }

    /// The fleet as it says it is, checked against what is really under way.
    pub(crate) fn view(&self) -> FleetView {
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

    pub(crate) fn mood(&self, name: &str) -> Mood {
        self.moods.get(name).copied().unwrap_or(Mood::Good)
    }

    pub(crate) fn after(&mut self, millis: u64, step: Step) {
        self.serial += 1;
        let at = self.now + Duration::from_millis(millis);
        self.queue.push(Reverse((at, self.serial)));
        self.steps.insert(self.serial, step);
    }

    pub(crate) fn note(&mut self, what: String) {
        if self.log.len() == STEPS_SHOWN {
            self.log.pop_front();
        }
        self.log.push_back(format!(
            "{:>10.3} s  {what}",
            self.now.as_micros() as f64 / 1e6
        ));
    }

    pub(crate) fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    }

    pub(crate) fn one_in(&mut self, cases: u64) -> bool {
        self.random(cases) == 0
    }
}
