//! The one decision: which instance of a route gets a request, or why none. `pick`, `retry` and
//! `explain` all come through here.

use std::{sync::Arc, time::Duration};

use dataplane_protocol::{
    status::{Decision, InstanceKey},
    sync::{Breaker, Health},
    table::{Endpoint, Profile},
};

use slab::Slab;

use super::slot::Slot;
use crate::{
    breaker::Admission,
    catalogue::{Catalogue, Entries, Fit},
    models::{self, Knowledge},
    pick::Refusal,
    plan::{Member, Plan, Turns},
    rng::Rng,
    route::{self, Query},
    select::{self, Candidate, Policy, Standing},
    time::Mono,
};

/// Shortest wait that a client is told.
const SOONEST: Duration = Duration::from_secs(1);
/// While an instance is unhealthy it is probed at least this often.
const LONGEST_HEALTH_WAIT: Duration = Duration::from_secs(10);

/// What a decision looks at and does not change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene<'f> {
    pub(crate) plan: &'f Plan,
    pub(crate) slots: &'f Slab<Slot>,
    pub(crate) catalogue: &'f Catalogue,
    pub(crate) now: Mono,
}

/// Working space, kept so that a decision allocates nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) candidates: Vec<Candidate>,
    /// As `candidates`: how well each fits the model.
    matches: Vec<Match>,
    group: Vec<Candidate>,
    open: Vec<(Mono, usize)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) slot: usize,
    pub(crate) tier: u32,
    pub(crate) decision: Decision,
}

/// How an instance stands to the requested model; the best one found makes the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Match {
    Lists,
    ListsButForCase,
    /// It has no listing.
    Anything,
    /// It was not listed yet.
    NotKnown,
    Not,
}

pub(crate) fn decide(
    scene: &Scene<'_>,
    query: &Query<'_>,
    tried: &[InstanceKey],
    turns: &mut Turns,
    rng: &mut Rng,
    scratch: &mut Scratch,
) -> Result<Choice, Refusal> {
    let by_model = gather(scene, query, tried, scratch)?;
    let route = &scene.plan.route;
    let policy = Policy {
        balancer: route.balancer,
        when_all_open: route.breaker.as_ref().map(|policy| policy.when_all_open),
    };
    let Scratch {
        candidates, group, ..
    } = scratch;
    let Some((candidate, last_resort)) = select::choose(policy, candidates, group, turns, rng)
    else {
        return Err(unavailable(scene, query, candidates));
    };
    Ok(Choice {
        slot: candidate.slot,
        tier: candidate.tier,
        decision: if last_resort {
            Decision::LastResort
        } else {
            by_model
        },
    })
}

/// How `slot` stands to `model`; `found` is what the catalogue holds for it.
pub(crate) fn match_model(place: usize, slot: &Slot, model: &str, found: &Entries<'_>) -> Match {
    match found.fit(place) {
        Some(Fit::Exact) => return Match::Lists,
        Some(Fit::ButForCase) => return Match::ListsButForCase,
        None => {}
    }
    let policy = &slot.info.endpoint.models;
    match slot.models.knowledge(policy) {
        Knowledge::Complete => Match::Not,
        _ if !models::takes(policy, model) => Match::Not,
        Knowledge::Anything => Match::Anything,
        Knowledge::NotKnown => Match::NotKnown,
    }
}

/// Fills `scratch.candidates` with those that serve what is asked for.
fn gather(
    scene: &Scene<'_>,
    query: &Query<'_>,
    tried: &[InstanceKey],
    scratch: &mut Scratch,
) -> Result<Decision, Refusal> {
    scratch.candidates.clear();
    scratch.matches.clear();
    let found = query
        .model
        .map(|model| (model, scene.catalogue.find(model)));
    let mut reach = Reach::new(query);
    let mut best = Match::Not;
    let mut permission = Permission { query, last: None };
    let mut not_permitted = false;
    for (place, member) in scene.plan.members.iter().enumerate() {
        let Some(slot) = scene.slots.get(member.slot) else {
            continue;
        };
        if !reach.reaches(&slot.info.profile) {
            continue;
        }
        if !permission.is_given(&slot.info.endpoint) {
            not_permitted = true;
            continue;
        }
        let fit = match &found {
            Some((model, found)) => match_model(member.slot, slot, model, found),
            None => Match::Lists,
        };
        best = best.min(fit);
        scratch
            .candidates
            .push(candidate(scene, place, *member, slot, tried));
        scratch.matches.push(fit);
    }
    if scratch.candidates.is_empty() {
        return Err(if not_permitted {
            Refusal::NotPermitted
        } else {
            nobody(scene, query)
        });
    }
    if best == Match::Not {
        return Err(if absent_may_serve(scene, query) {
            unavailable(scene, query, &[])
        } else {
            Refusal::ModelNotFound
        });
    }
    let mut fits = scratch.matches.iter();
    scratch.candidates.retain(|_| fits.next() == Some(&best));
    mark_endpoints_tried(tried, &mut scratch.candidates);
    let_through(scene, scratch);
    Ok(match best {
        _ if query.model.is_none() => Decision::NoModel,
        Match::Lists | Match::ListsButForCase => Decision::ModelFound,
        Match::Anything | Match::NotKnown | Match::Not => Decision::ModelUnknownEndpoint,
    })
}

fn candidate(
    scene: &Scene<'_>,
    place: usize,
    member: Member,
    slot: &Slot,
    tried: &[InstanceKey],
) -> Candidate {
    let policy = scene.plan.route.breaker.as_ref();
    Candidate {
        slot: member.slot,
        member: place,
        target: member.target,
        tier: member.tier,
        weight: member.weight,
        standing: slot.standing(member.weight, policy, scene.now),
        healthy: slot.monitor.state() == Health::Healthy,
        ramp_permille: slot.ramp.permille(scene.now),
        in_flight: slot.load.in_flight,
        score: 0.0,
        tried: tried.contains(&slot.key()),
        endpoint_tried: false,
    }
}

fn mark_endpoints_tried(tried: &[InstanceKey], candidates: &mut [Candidate]) {
    if tried.is_empty() {
        return;
    }
    for siblings in candidates.chunk_by_mut(|a, b| a.target == b.target) {
        let any = siblings.iter().any(|candidate| candidate.tried);
        for candidate in siblings {
            candidate.endpoint_tried = any;
        }
    }
}

/// Where more of the route's instances are out by their breaker than the policy allows, those
/// open longest are let through.
fn let_through(scene: &Scene<'_>, scratch: &mut Scratch) {
    let is_open = |candidate: &Candidate| matches!(candidate.standing, Standing::Open { .. });
    let Some(policy) = &scene.plan.route.breaker else {
        return;
    };
    if policy.max_ejected_percent >= 100 || !scratch.candidates.iter().any(is_open) {
        return;
    }
    scratch.open.clear();
    for (place, member) in scene.plan.members.iter().enumerate() {
        if let Some(slot) = scene.slots.get(member.slot)
            && let Admission::No { since, .. } = slot.breaker.admission(policy, scene.now)
        {
            scratch.open.push((since, place));
        }
    }
    let allowed = scene.plan.members.len() * policy.max_ejected_percent as usize / 100;
    let excess = scratch.open.len().saturating_sub(allowed);
    scratch.open.sort_unstable();
    for (_, place) in scratch.open.iter().take(excess) {
        let at = scratch
            .candidates
            .binary_search_by_key(place, |candidate| candidate.member);
        if let Some(candidate) = at.ok().and_then(|at| scratch.candidates.get_mut(at))
            && is_open(candidate)
        {
            let saturated = scene
                .slots
                .get(candidate.slot)
                .and_then(|slot| slot.saturation.until(scene.now));
            candidate.standing =
                saturated.map_or(Standing::LetThrough, |until| Standing::Saturated { until });
        }
    }
}

/// No instance is within reach of the prefix and dialect. An endpoint that merely has none now
/// is another matter than none of that type.
fn nobody(scene: &Scene<'_>, query: &Query<'_>) -> Refusal {
    let mut absent = scene.plan.targets.iter().filter(|target| {
        target.absent.is_some() && route::reaches(&target.profile, query.prefix, query.dialect)
    });
    if absent.next().is_none() {
        Refusal::NoEndpoint
    } else if query.model.is_some() && !absent_may_serve(scene, query) {
        Refusal::ModelNotFound
    } else {
        unavailable(scene, query, &[])
    }
}

/// Whether an endpoint that has no instance now served the model when it had, or was never
/// asked: then the model is not unknown, only away.
fn absent_may_serve(scene: &Scene<'_>, query: &Query<'_>) -> bool {
    let Some(model) = query.model else {
        return false;
    };
    scene.plan.targets.iter().any(|target| {
        let policy = &target.endpoint.models;
        target.absent.as_ref().is_some_and(|absent| {
            route::reaches(&target.profile, query.prefix, query.dialect)
                && (absent.lists(model)
                    || (absent.knowledge(policy) != Knowledge::Complete
                        && models::takes(policy, model)))
        })
    })
}

/// With the soonest time that one of `candidates` may be back: the end of its saturation or
/// open breaker, else its next probe.
fn unavailable(scene: &Scene<'_>, query: &Query<'_>, candidates: &[Candidate]) -> Refusal {
    let ends = candidates
        .iter()
        .filter_map(|candidate| match candidate.standing {
            // Its trial may end at any time.
            Standing::Open { .. } if is_half_open(scene, candidate) => Some(scene.now),
            Standing::Saturated { until } | Standing::Open { until, .. } => Some(until),
            _ => None,
        });
    let wait = ends.min().map(|until| until.since(scene.now));
    let retry_after = wait
        .unwrap_or_else(|| health_wait(scene, candidates))
        .max(SOONEST);
    if query.model.is_some() {
        Refusal::ModelUnavailable { retry_after }
    } else {
        Refusal::Unavailable { retry_after }
    }
}

fn is_half_open(scene: &Scene<'_>, candidate: &Candidate) -> bool {
    let slot = scene.slots.get(candidate.slot);
    slot.is_some_and(|slot| slot.breaker.state() == Breaker::HalfOpen)
}

fn health_wait(scene: &Scene<'_>, candidates: &[Candidate]) -> Duration {
    let intervals = candidates.iter().filter_map(|candidate| {
        let slot = scene.slots.get(candidate.slot)?;
        Some(Duration::from_millis(slot.info.endpoint.health.interval_ms))
    });
    intervals
        .min()
        .map_or(LONGEST_HEALTH_WAIT, |wait| wait.min(LONGEST_HEALTH_WAIT))
}

/// Which endpoints take the request. An endpoint's instances stand together, so it is asked once.
struct Permission<'s, 'q> {
    query: &'s Query<'q>,
    last: Option<(&'s Arc<Endpoint>, bool)>,
}

impl<'s> Permission<'s, '_> {
    fn is_given(&mut self, endpoint: &'s Arc<Endpoint>) -> bool {
        match self.last {
            Some((last, answer)) if Arc::ptr_eq(last, endpoint) => answer,
            _ => {
                let answer = self.query.is_permitted_at(endpoint);
                self.last = Some((endpoint, answer));
                answer
            }
        }
    }
}

/// Which profiles the request can reach. Neighbours mostly share one, so the last answer is
/// kept.
struct Reach<'s, 'q> {
    query: &'s Query<'q>,
    last: Option<(&'s Arc<Profile>, bool)>,
}

impl<'s, 'q> Reach<'s, 'q> {
    fn new(query: &'s Query<'q>) -> Self {
        Self { query, last: None }
    }

    fn reaches(&mut self, profile: &'s Arc<Profile>) -> bool {
        match self.last {
            Some((last, answer)) if Arc::ptr_eq(last, profile) => answer,
            _ => {
                let answer = route::reaches(profile, self.query.prefix, self.query.dialect);
                self.last = Some((profile, answer));
                answer
            }
        }
    }
}
