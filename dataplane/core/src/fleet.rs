//! All instances' live state and the whole decision loop: what the shell asks, and what it
//! tells. One value with virtual time in its arguments, so that a simulation drives it exactly
//! as the data plane does.

mod apply;
mod decide;
mod explain;
mod look;
mod slot;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use dataplane_protocol::{EndpointId, RoutingTable, sync::Health};

use self::{
    decide::{Scene, Scratch},
    slot::Slot,
};
use crate::{
    breaker::{Fault, Pass},
    catalogue::Catalogue,
    classify::Cause,
    classify::Outcome,
    models::Models,
    order::{Event, Listed, Order, Probed},
    pick::{InstanceKey, Pick, Refusal, Ticket},
    plan::{Plan, Turns},
    retry::{self, Budget},
    rng::Rng,
    route::{Query, Rules},
    time::Mono,
};

/// The data plane's state and judgment. Not shared: the shell keeps it behind one lock.
#[derive(Debug)]
pub struct Fleet {
    table: Arc<RoutingTable>,
    slots: Vec<Slot>,
    by_key: HashMap<InstanceKey, usize>,
    next_key: u32,
    /// When each slot next wants a probe or a listing, soonest first; as its `scheduled` says.
    agenda: BTreeSet<(Mono, usize)>,
    /// As `slots`: the routes that use each.
    uses: Vec<Vec<Use>>,
    /// In order of precedence, as the table's routes.
    plans: Vec<Plan>,
    /// Which of `plans` takes a request.
    rules: Rules,
    /// As `plans`: what changes with each request.
    live: Vec<Live>,
    catalogue: Catalogue,
    /// What endpoints without instances served when they had some.
    absent: HashMap<EndpointId, Models>,
    rng: Rng,
    scratch: Scratch,
    /// Events of calls that cannot return them; the next call that can does.
    pending: Vec<Event>,
}

/// An instance's place in a route.
#[derive(Clone, Copy, Debug)]
struct Use {
    /// Place in `plans`.
    plan: usize,
    /// Place in the plan's members.
    member: usize,
}

/// What a route remembers between requests.
#[derive(Clone, Debug, Default)]
struct Live {
    turns: Turns,
    budget: Budget,
}

impl Fleet {
    /// Empty: refuses everything with `NoRoute` until a table is applied. The same seed and the
    /// same calls give the same decisions.
    pub fn new(seed: u64) -> Self {
        Self {
            table: Arc::default(),
            slots: Vec::new(),
            by_key: HashMap::new(),
            next_key: 0,
            agenda: BTreeSet::new(),
            uses: Vec::new(),
            plans: Vec::new(),
            rules: Rules::default(),
            live: Vec::new(),
            catalogue: Catalogue::default(),
            absent: HashMap::new(),
            rng: Rng::new(seed),
            scratch: Scratch::default(),
            pending: Vec::new(),
        }
    }

    /// The table in use.
    pub fn table(&self) -> &Arc<RoutingTable> {
        &self.table
    }

    /// Where to send a request's first attempt, which counts for the retry budget.
    pub fn pick(&mut self, query: &Query<'_>, now: Mono) -> Result<Pick, Refusal> {
        let place = self.find_route(query).ok_or(Refusal::NoRoute)?;
        let pick = self.attempt(place, query, &[], now)?;
        // Only what is sent: requests that are refused would enlarge everybody's allowance.
        if let Some(live) = self.live.get_mut(place) {
            live.budget.request(now);
        }
        Ok(pick)
    }

    /// Where to send the next attempt after `tried.len()` of them, the last ended by `cause`.
    /// None: policy, attempts or budget forbid it, nobody else is left, or the last one's answer
    /// has gone to the client. Spends budget only when there is one.
    pub fn retry(
        &mut self,
        query: &Query<'_>,
        tried: &[InstanceKey],
        last: &Ticket,
        cause: Cause,
        now: Mono,
    ) -> Option<Pick> {
        if last.committed {
            return None;
        }
        let place = self.find_route(query)?;
        let policy = &self.plans.get(place)?.route.failover;
        let budget = &self.live.get(place)?.budget;
        if !retry::wanted(policy, cause, tried.len())
            || !budget.allows(policy.budget_percent, cause, tried.len(), now)
        {
            return None;
        }
        let pick = self.attempt(place, query, tried, now).ok()?;
        if let Some(live) = self.live.get_mut(place) {
            live.budget.spend(cause, tried.len(), now);
        }
        Some(pick)
    }

    /// An answer began whose status blames nobody but the request. Closes a half-open breaker and
    /// records the time to first byte; the request still counts as in flight. Say it once for each ticket.
    pub fn first_byte(&mut self, ticket: &Ticket, now: Mono) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.pending);
        if let Some((_, slot)) = slot_of(&self.by_key, &mut self.slots, ticket.key) {
            slot.load.first_byte(now.since(ticket.started));
            slot.monitor.answered(&slot.info.endpoint.health);
            if let Some(change) = slot.breaker.answered(ticket.pass) {
                slot.breaker_changed(change, now, &mut events);
            }
        }
        events
    }

    /// An attempt ended. Quiet when its instance is gone.
    pub fn finish(&mut self, ticket: Ticket, outcome: Outcome, now: Mono) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.pending);
        let Some((place, slot)) = slot_of(&self.by_key, &mut self.slots, ticket.key) else {
            return events;
        };
        slot.load.end(matches!(outcome, Outcome::Failure(_)));
        match outcome {
            Outcome::Success => {
                slot.saturation.succeeded();
                slot.monitor.answered(&slot.info.endpoint.health);
                if let Some(change) = slot.breaker.succeeded(ticket.pass, now) {
                    slot.breaker_changed(change, now, &mut events);
                }
            }
            Outcome::Failure(cause) => {
                failed(slot, &ticket, cause, now, &mut events);
                slot.schedule(place, &mut self.agenda);
            }
            Outcome::Saturated { retry_after } => {
                slot.breaker.released(ticket.pass);
                slot.saturation.saturated(retry_after, now);
            }
            Outcome::Cancelled => slot.breaker.released(ticket.pass),
        }
        events
    }

    /// Probes and listings to carry out now. Each is handed out once, until its result came or
    /// twice the health timeout ([`LISTING_TIMEOUT`], if that is longer) passed. Instances whose
    /// credential is withheld are left alone.
    pub fn due(&mut self, now: Mono) -> Vec<Order> {
        let mut orders = Vec::new();
        while let Some((at, place)) = self.agenda.first().copied()
            && at <= now
        {
            let Some(slot) = self.slots.get_mut(place) else {
                self.agenda.pop_first();
                continue;
            };
            let health = &slot.info.endpoint.health;
            let timeout = Duration::from_millis(health.timeout_ms);
            if let Some(first_path) = slot.monitor.due(health, now) {
                orders.push(Order::Probe {
                    instance: slot.info.clone(),
                    first_path,
                    timeout,
                });
            }
            if slot.models.due((timeout * 2).max(LISTING_TIMEOUT), now) {
                orders.push(Order::List {
                    instance: slot.info.clone(),
                });
            }
            slot.schedule(place, &mut self.agenda);
        }
        orders
    }

    /// When [`Self::due`] will have something. It may lie in the past.
    pub fn next_due(&self) -> Option<Mono> {
        self.agenda.first().map(|(at, _)| *at)
    }

    /// A probe's result.
    pub fn probed(&mut self, key: InstanceKey, result: Probed, now: Mono) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.pending);
        if let Some((place, slot)) = slot_of(&self.by_key, &mut self.slots, key) {
            if matches!(result, Probed::Good { .. }) {
                slot.breaker.reached(now);
            }
            let policy = &slot.info.endpoint.health;
            if let Some(change) = slot.monitor.probed(policy, result, &mut self.rng, now) {
                slot.health_changed(change, now, &mut events);
            }
            slot.schedule(place, &mut self.agenda);
        }
        events
    }

    /// A listing's result. A late one of an instance that went unhealthy still counts: it is
    /// what the backend said.
    pub fn listed(&mut self, key: InstanceKey, result: Listed, now: Mono) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.pending);
        let Some((place, slot)) = slot_of(&self.by_key, &mut self.slots, key) else {
            return events;
        };
        if let Listed::Models {
            detected: Some(name),
            ..
        } = &result
            && slot.info.endpoint.profile == AUTO
            && let Some(profile) = self.table.profiles.get(name)
        {
            slot.detected(profile);
        }
        let policy = &slot.info.endpoint.models;
        if let Some(before) = slot.models.listed(policy, result, &mut self.rng, now) {
            self.catalogue.replace(place, &before, slot.models.serves());
            events.push(slot.models_event());
        }
        if slot.monitor.state() == Health::Unhealthy {
            slot.models.rest();
        }
        slot.schedule(place, &mut self.agenda);
        events
    }

    fn find_route(&self, query: &Query<'_>) -> Option<usize> {
        self.rules.find(query).map(|found| found.route)
    }

    fn attempt(
        &mut self,
        place: usize,
        query: &Query<'_>,
        tried: &[InstanceKey],
        now: Mono,
    ) -> Result<Pick, Refusal> {
        let (Some(plan), Some(live)) = (self.plans.get(place), self.live.get_mut(place)) else {
            return Err(Refusal::NoRoute);
        };
        let scene = Scene {
            plan,
            slots: &self.slots,
            catalogue: &self.catalogue,
            now,
        };
        let choice = decide::decide(
            &scene,
            query,
            tried,
            &mut live.turns,
            &mut self.rng,
            &mut self.scratch,
        )?;
        let Some(slot) = self.slots.get_mut(choice.slot) else {
            return Err(Refusal::NoRoute);
        };
        let pass = match &plan.route.breaker {
            None => Pass::Unjudged,
            Some(policy) => {
                let (pass, change) = slot.breaker.enter(policy, now);
                if let Some(change) = change {
                    slot.breaker_changed(change, now, &mut self.pending);
                }
                pass
            }
        };
        slot.load.begin();
        Ok(Pick {
            ticket: Ticket {
                key: slot.key(),
                route: plan.route.clone(),
                started: now,
                pass,
                committed: false,
                client: None,
                outages: slot.outages,
            },
            instance: slot.info.clone(),
            route: plan.route.clone(),
            tier: choice.tier,
            attempt: tried.len() as u32 + 1,
            decision: choice.decision,
        })
    }
}

/// A listing may be slow to make (GPUStack asks its workers), but must not hang. The next is not
/// handed out before.
pub const LISTING_TIMEOUT: Duration = Duration::from_secs(10);

/// The profile of endpoints whose type a listing tells.
const AUTO: &str = "auto";

fn slot_of<'s>(
    by_key: &HashMap<InstanceKey, usize>,
    slots: &'s mut [Slot],
    key: InstanceKey,
) -> Option<(usize, &'s mut Slot)> {
    let place = *by_key.get(&key)?;
    Some((place, slots.get_mut(place)?))
}

fn failed(slot: &mut Slot, ticket: &Ticket, cause: Cause, now: Mono, events: &mut Vec<Event>) {
    let health = &slot.info.endpoint.health;
    let doubt = match cause {
        Cause::ConnectFailure | Cause::ConnectTimeout => slot.monitor.connect_failed(health, now),
        Cause::Reset => {
            slot.monitor.reset(health, now);
            None
        }
        _ => None,
    };
    if let Some(change) = doubt {
        slot.health_changed(change, now, events);
    }
    let fault = Fault {
        label: cause.label(),
        provoked_by: ticket.client.filter(|_| cause.may_be_the_requests()),
    };
    if let Some(policy) = &ticket.route.breaker
        && let Some(change) = slot.breaker.failed(ticket.pass, policy, fault, now)
    {
        if cause.is_unsent() {
            slot.breaker.opened_unreached();
        }
        slot.breaker_changed(change, now, events);
    }
}
