//! All instances' live state and the whole decision loop: what the shell asks, and what it
//! tells. One value with virtual time in its arguments, so that a simulation drives it exactly
//! as the data plane does.

mod apply;
mod decide;
mod edit;
mod explain;

mod resolve;
mod slot;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use dataplane_protocol::{
    EndpointId, RouteId, SetId,
    status::InstanceKey,
    sync::Health,
    table::{EndpointSet, Precedence, Profile},
};
use slab::Slab;

use self::{
    apply::EndpointState,
    decide::{Scene, Scratch},
    resolve::RouteState,
    slot::Slot,
};
use crate::{
    breaker::{Fault, Pass},
    catalogue::Catalogue,
    classify::Cause,
    classify::Outcome,
    order::{Event, ListingResult, Order, ProbeResult},
    pick::{Pick, Refusal, Ticket},
    retry,
    rng::Rng,
    route::{Query, Rules},
    time::Mono,
};

/// The data plane's state and judgment. Not shared: the shell keeps it behind one lock.
#[derive(Debug)]
pub struct Fleet {
    namespace: String,
    profiles: BTreeMap<String, Arc<Profile>>,
    sets: BTreeMap<SetId, Arc<EndpointSet>>,
    /// Those whose type is among `profiles`.
    endpoints: BTreeMap<EndpointId, EndpointState>,
    slots: Slab<Slot>,
    by_key: HashMap<InstanceKey, usize>,
    next_key: u32,
    /// When each slot next wants a probe or a listing, soonest first; as its `scheduled` says.
    agenda: BTreeSet<(Mono, usize)>,
    plans: Slab<RouteState>,
    /// Places in `plans`.
    routes: BTreeMap<RouteId, usize>,
    order: BTreeMap<Precedence, usize>,
    /// Routes that name an endpoint, there or not: places in `plans`, and of the endpoint in the
    /// plan's targets if it is there.
    users: HashMap<EndpointId, BTreeMap<usize, Option<usize>>>,
    /// Places in `plans` of the routes that select a set.
    set_users: HashMap<SetId, BTreeSet<usize>>,
    /// Which of `plans` takes a request.
    rules: Rules,
    catalogue: Catalogue,
    rng: Rng,
    scratch: Scratch,
    /// Events of calls that cannot return them; the next call that can does.
    pending: Vec<Event>,
}

/// How many objects the table in use has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub routes: usize,
    pub endpoints: usize,
    pub instances: usize,
}

impl Fleet {
    /// Empty: refuses everything with `NoRoute` until a table is applied. The same seed and the
    /// same calls give the same decisions.
    pub fn new(seed: u64) -> Self {
        Self {
            namespace: String::new(),
            profiles: BTreeMap::new(),
            sets: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            slots: Slab::new(),
            by_key: HashMap::new(),
            next_key: 0,
            agenda: BTreeSet::new(),
            plans: Slab::new(),
            routes: BTreeMap::new(),
            order: BTreeMap::new(),
            users: HashMap::new(),
            set_users: HashMap::new(),
            rules: Rules::default(),
            catalogue: Catalogue::default(),
            rng: Rng::new(seed),
            scratch: Scratch::default(),
            pending: Vec::new(),
        }
    }

    pub fn size(&self) -> Size {
        Size {
            routes: self.plans.len(),
            endpoints: self.endpoints.len(),
            instances: self.slots.len(),
        }
    }

    /// Whether the instance is in the table in use.
    pub fn has(&self, key: InstanceKey) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Where to send a request's first attempt, which counts for the retry budget.
    pub fn pick(&mut self, query: &Query<'_>, now: Mono) -> Result<Pick, Refusal> {
        let place = self.find_route(query).ok_or(Refusal::NoRoute)?;
        let pick = self.attempt(place, query, &[], now)?;
        // Only what is sent: requests that are refused would enlarge everybody's allowance.
        if let Some(state) = self.plans.get_mut(place) {
            state.budget.request(now);
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
        let state = self.plans.get(place)?;
        let policy = &state.plan.route.failover;
        if !retry::wanted(policy, cause, tried.len())
            || !state
                .budget
                .allows(policy.budget_percent, cause, tried.len(), now)
        {
            return None;
        }
        let pick = self.attempt(place, query, tried, now).ok()?;
        if let Some(state) = self.plans.get_mut(place) {
            state.budget.spend(cause, tried.len(), now);
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
    pub fn probed(&mut self, key: InstanceKey, result: ProbeResult, now: Mono) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.pending);
        if let Some((place, slot)) = slot_of(&self.by_key, &mut self.slots, key) {
            if matches!(result, ProbeResult::Good { .. }) {
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
    pub fn listed(&mut self, key: InstanceKey, result: ListingResult, now: Mono) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.pending);
        let Some((place, slot)) = slot_of(&self.by_key, &mut self.slots, key) else {
            return events;
        };
        if let ListingResult::Models {
            detected: Some(name),
            ..
        } = &result
            && slot.info.endpoint.profile == AUTO
            && let Some(profile) = self.profiles.get(name)
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
        let state = self.plans.get_mut(place).ok_or(Refusal::NoRoute)?;
        let plan = &state.plan;
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
            &mut state.turns,
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
    slots: &'s mut Slab<Slot>,
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
