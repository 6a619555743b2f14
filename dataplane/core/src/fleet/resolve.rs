//! Routes of the table, resolved to the instances behind them, and what each remembers across
//! that. A route is resolved anew when it, its set or one of its endpoints changes; an instance
//! that comes or goes is only put into its place.

use std::{collections::HashMap, mem, sync::Arc};

use dataplane_protocol::{EndpointId, RouteId, table::Route};

use super::{
    Fleet,
    apply::{EndpointState, Work},
};
use crate::{
    plan::{Member, Plan, TargetPlan, Turns},
    retry::Budget,
};

/// A route's plan, and what changes with each request.
#[derive(Debug)]
pub(super) struct RouteState {
    pub(super) plan: Plan,
    pub(super) turns: Turns,
    pub(super) budget: Budget,
    /// Endpoints that its selection names, whether they are there or not.
    names: Vec<EndpointId>,
}

impl RouteState {
    fn new(route: Arc<Route>) -> Self {
        Self {
            plan: Plan {
                route,
                targets: Vec::new(),
                members: Vec::new(),
            },
            turns: Turns::default(),
            budget: Budget::default(),
            names: Vec::new(),
        }
    }

    /// The endpoint at place `target` has other instances.
    fn exchange(&mut self, target: usize, of: &EndpointState) {
        let range = self.plan.members_of(target);
        let Some(planned) = self.plan.targets.get_mut(target) else {
            return;
        };
        planned.absent.clone_from(&of.absent);
        let members: Vec<_> = members(of, target, planned).collect();
        let slots = self.plan.members.iter().map(|member| member.slot);
        let before = slots.zip(self.turns.members.iter().copied());
        let before: HashMap<usize, i64> = before.skip(range.start).take(range.len()).collect();
        let sums = members.iter().map(|member| before.get(&member.slot));
        let sums: Vec<_> = sums.map(|sum| sum.copied().unwrap_or(0)).collect();
        self.turns.members.splice(range.clone(), sums);
        self.plan.members.splice(range, members);
    }
}

impl Fleet {
    pub(super) fn place_route(&mut self, route: Arc<Route>, work: &mut Work) {
        let place = self.routes.get(&route.id).copied();
        let place = place.unwrap_or_else(|| {
            let place = self.plans.insert(RouteState::new(route.clone()));
            self.routes.insert(route.id.clone(), place);
            place
        });
        let Some(state) = self.plans.get_mut(place) else {
            return;
        };
        let before = mem::replace(&mut state.plan.route, route.clone());
        self.leave_order(&before, place, work.many);
        self.order.insert(route.precedence(), place);
        if !work.many {
            self.rules.insert(place, &route);
        }
        if let Some(set) = &route.endpoints.set {
            self.set_users.entry(set.clone()).or_default().insert(place);
        }
        work.replan.insert(place);
    }

    pub(super) fn remove_route(&mut self, id: &RouteId, work: &mut Work) {
        let Some(place) = self.routes.remove(id) else {
            return;
        };
        work.replan.remove(&place);
        if let Some(state) = self.plans.try_remove(place) {
            self.leave_order(&state.plan.route, place, work.many);
            self.forget_names(&state.names, place);
        }
    }

    fn leave_order(&mut self, route: &Route, place: usize, many: bool) {
        self.order.remove(&route.precedence());
        if !many {
            self.rules.remove(route);
        }
        if let Some(set) = &route.endpoints.set
            && let Some(users) = self.set_users.get_mut(set)
        {
            users.remove(&place);
            if users.is_empty() {
                self.set_users.remove(set);
            }
        }
    }

    fn forget_names(&mut self, names: &[EndpointId], place: usize) {
        for name in names {
            if let Some(users) = self.users.get_mut(name) {
                users.remove(&place);
                if users.is_empty() {
                    self.users.remove(name);
                }
            }
        }
    }

    /// Brings the plans of all routes that an update concerns up to date.
    pub(super) fn resolve(&mut self, work: &mut Work) {
        let replan = mem::take(&mut work.replan);
        for id in mem::take(&mut work.moved) {
            let (Some(of), Some(users)) = (self.endpoints.get(&id), self.users.get(&id)) else {
                continue;
            };
            for (place, target) in users {
                if let Some(target) = target
                    && !replan.contains(place)
                    && let Some(state) = self.plans.get_mut(*place)
                {
                    state.exchange(*target, of);
                }
            }
        }
        for place in replan {
            self.replan(place);
        }
    }

    fn replan(&mut self, place: usize) {
        let Some(route) = self.plans.get(place).map(|it| it.plan.route.clone()) else {
            return;
        };
        let selection = &route.endpoints;
        let set = selection.set.as_ref().and_then(|id| self.sets.get(id));
        let of_set = set.iter().flat_map(|set| &set.members);
        let single = selection.refs.iter().map(|named| &named.endpoint);
        let names: Vec<_> = of_set.chain(single).cloned().collect();
        let plan = self.plan(route);
        let Some(state) = self.plans.get_mut(place) else {
            return;
        };
        state.turns = turns_after(&state.plan, &state.turns, &plan);
        state.plan = plan;
        let before = mem::replace(&mut state.names, names.clone());
        self.forget_names(&before, place);
        for name in names {
            self.users.entry(name).or_default().insert(place, None);
        }
        let targets = self.plans.get(place).map(|it| &it.plan.targets);
        for (at, target) in targets.into_iter().flatten().enumerate() {
            if let Some(users) = self.users.get_mut(&target.endpoint.id) {
                users.insert(place, Some(at));
            }
        }
    }

    fn plan(&self, route: Arc<Route>) -> Plan {
        let selection = &route.endpoints;
        let set = selection.set.as_ref().and_then(|id| self.sets.get(id));
        let endpoint = |id: &EndpointId| self.endpoints.get(id).map(|it| it.endpoint.as_ref());
        let targets = selection.targets(set.map(AsRef::as_ref), endpoint);
        let mut plan = Plan {
            route: route.clone(),
            targets: Vec::with_capacity(targets.len()),
            members: Vec::new(),
        };
        for target in targets {
            let Some(of) = self.endpoints.get(&target.endpoint) else {
                continue;
            };
            let planned = TargetPlan {
                endpoint: of.endpoint.clone(),
                profile: of.profile.clone(),
                tier: target.tier,
                priority: target.priority,
                weight: target.weight,
                absent: of.absent.clone(),
            };
            plan.members
                .extend(members(of, plan.targets.len(), &planned));
            plan.targets.push(planned);
        }
        plan
    }
}

fn members<'e>(
    of: &'e EndpointState,
    target: usize,
    planned: &TargetPlan,
) -> impl Iterator<Item = Member> + use<'e> {
    let (tier, weight) = (planned.tier, planned.weight);
    of.places.iter().map(move |(_, slot)| Member {
        slot: *slot,
        target,
        tier,
        weight,
    })
}

/// The rotation goes on where it was, for those that stayed.
fn turns_after(old: &Plan, turns: &Turns, new: &Plan) -> Turns {
    let targets = old.targets.iter().zip(&turns.targets);
    let targets: HashMap<&EndpointId, (u32, i64)> = targets
        .map(|(target, sum)| (&target.endpoint.id, (target.weight, *sum)))
        .collect();
    let members = old.members.iter().zip(&turns.members);
    let members: HashMap<usize, i64> = members.map(|(member, sum)| (member.slot, *sum)).collect();
    let known = |target: &TargetPlan| targets.get(&target.endpoint.id).copied();
    // A sum run up under a large weight would be a debt of many rounds under a small one.
    let all = new.targets.iter();
    let same_weights =
        (all.clone()).all(|target| known(target).is_none_or(|(weight, _)| weight == target.weight));
    Turns {
        targets: all
            .map(|target| known(target).filter(|_| same_weights))
            .map(|known| known.map_or(0, |(_, sum)| sum))
            .collect(),
        members: (new.members.iter())
            .map(|member| members.get(&member.slot).copied().unwrap_or(0))
            .collect(),
    }
}
