//! The fleet as people see it. Nothing here changes anything.

use std::{collections::BTreeSet, time::Duration};

use dataplane_protocol::{
    Dialect,
    status::{InstanceView, PlaceView},
    sync::{Breaker, Health, InstanceReport},
    table::Scheme,
};

use super::{Fleet, resolve::RouteState, slot::Slot};
use crate::{
    models::Knowledge,
    pick::InstanceInfo,
    plan::{Plan, TargetPlan},
    route,
    select::Standing,
    time::Mono,
    view::{FleetView, ModelView, RouteView, TargetView},
};

impl Fleet {
    /// Everything that status pages, metrics, reports and the terminal show.
    pub fn view(&self, now: Mono) -> FleetView {
        let places = self.endpoints.values().flat_map(|state| &state.places);
        let instances = places
            .filter_map(|(_, place)| self.slots.get(*place))
            .map(|slot| self.instance_view(slot, now))
            .collect();
        let routes = self.in_order();
        let routes = routes.map(|state| self.route_view(state, now)).collect();
        FleetView {
            namespace: self.namespace.clone(),
            instances,
            routes,
        }
    }

    /// What operators hear of each instance; sorted as those of the [view](Self::view).
    pub fn reports(&self, now: Mono) -> Vec<InstanceReport> {
        let places = self.endpoints.values().flat_map(|state| &state.places);
        let slots = places.filter_map(|(_, place)| self.slots.get(*place));
        slots.map(|slot| self.report(slot, now)).collect()
    }

    fn report(&self, slot: &Slot, now: Mono) -> InstanceReport {
        let usable = self.uses(slot).any(|(plan, target)| {
            let policy = plan.route.breaker.as_ref();
            slot.standing(target.weight, policy, now).is_selectable()
        });
        // Only where it is wanted: there are thousands, and mostly they can be used.
        let why_not = || why_not(&self.uses_in_order(slot), slot, now);
        InstanceReport {
            endpoint: slot.info.endpoint.id.clone(),
            instance: slot.info.instance.id.clone(),
            health: slot.monitor.state(),
            breaker: slot.breaker.state(),
            reason: if usable { String::new() } else { why_not() },
        }
    }

    /// Models for clients: those that at least one instance serves which some route leads to and
    /// which is neither unhealthy nor waiting for its credential. Sorted by name without regard
    /// to case. A full or broken (open) one is still listed: it comes back by itself.
    pub fn models(&self, prefix: Option<&str>, dialect: Option<Dialect>) -> Vec<ModelView> {
        let mut views = Vec::new();
        for (name, places) in self.catalogue.iter() {
            let mut endpoints = BTreeSet::new();
            let mut types = BTreeSet::new();
            let mut instances = 0;
            let mut usable = 0;
            for place in places {
                let Some(slot) = self.slots.get(place).filter(|it| self.is_routed(it)) else {
                    continue;
                };
                if !route::reaches(&slot.info.profile, prefix, dialect) {
                    continue;
                }
                instances += 1;
                if slot.monitor.state() != Health::Unhealthy && !slot.info.is_withheld() {
                    usable += 1;
                    endpoints.insert(slot.info.endpoint.id.clone());
                    types.insert(slot.info.profile.name.clone());
                }
            }
            if usable > 0 {
                views.push(ModelView {
                    name: name.clone(),
                    endpoints: endpoints.into_iter().collect(),
                    types: types.into_iter().collect(),
                    instances,
                    usable,
                });
            }
        }
        views
    }

    /// In order of precedence.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &RouteState> {
        let places = self.order.values();
        places.filter_map(|place| self.plans.get(*place))
    }

    /// The routes that use an instance, and its endpoint as a target of each.
    fn uses(&self, slot: &Slot) -> impl Iterator<Item = (&Plan, &TargetPlan)> {
        let users = self.users.get(&slot.info.endpoint.id).into_iter().flatten();
        users.filter_map(|(place, target)| {
            let plan = &self.plans.get(*place)?.plan;
            Some((plan, plan.targets.get((*target)?)?))
        })
    }

    /// The same, in order of precedence.
    fn uses_in_order(&self, slot: &Slot) -> Vec<(&Plan, &TargetPlan)> {
        let mut uses: Vec<_> = self.uses(slot).collect();
        if uses.len() > 1 {
            uses.sort_by_cached_key(|(plan, _)| plan.route.precedence());
        }
        uses
    }

    fn is_routed(&self, slot: &Slot) -> bool {
        self.uses(slot).any(|(_, target)| target.weight > 0)
    }

    fn instance_view(&self, slot: &Slot, now: Mono) -> InstanceView {
        let info = &slot.info;
        let policy = &info.endpoint.models;
        let uses = self.uses_in_order(slot);
        let why_not = why_not(&uses, slot, now);
        let knows = slot.models.knowledge(policy) == Knowledge::Complete;
        let ahead = |at: Mono| millis(at.since(now));
        InstanceView {
            endpoint: info.endpoint.id.clone(),
            instance: info.instance.id.clone(),
            key: info.key,
            profile: info.profile.name.clone(),
            url: url(info),
            places: places(&uses),
            health: slot.monitor.state(),
            health_reason: slot.monitor.reason().to_owned(),
            breaker: slot.breaker.state(),
            breaker_reopens_in_ms: slot.breaker.reopens().map(ahead),
            saturated_for_ms: slot.saturation.until(now).map(ahead),
            in_flight: slot.load.in_flight,
            requests: slot.load.requests,
            failures: slot.load.failures,
            first_byte_ms_ewma: slot.load.first_byte_ms(),
            ramp_permille: slot.ramp.permille(now),
            models: (knows || !slot.models.serves().is_empty())
                .then(|| slot.models.serves().to_vec()),
            models_reason: slot.models.reason(policy),
            last_listing_ago_ms: slot.models.last().map(|at| millis(now.since(at))),
            usable: why_not.is_empty(),
            why_not,
            last_probe_ago_ms: slot.monitor.last().map(|at| millis(now.since(at))),
            next_probe_in_ms: slot.monitor.next().map(ahead),
        }
    }

    fn route_view(&self, state: &RouteState, now: Mono) -> RouteView {
        let plan = &state.plan;
        let (recent_requests, recent_retries) = state.budget.recent(now);
        let targets = plan.targets.iter().enumerate();
        RouteView {
            route: plan.route.id.clone(),
            balancer: plan.route.balancer,
            targets: targets
                .map(|(place, target)| self.target_view(plan, place, target, now))
                .collect(),
            recent_requests,
            recent_retries,
        }
    }

    fn target_view(&self, plan: &Plan, place: usize, target: &TargetPlan, now: Mono) -> TargetView {
        let members = plan.members.get(plan.members_of(place));
        let members = members.unwrap_or_default();
        let policy = plan.route.breaker.as_ref();
        let usable = members.iter().filter(|member| {
            let slot = self.slots.get(member.slot);
            slot.is_some_and(|slot| slot.standing(member.weight, policy, now).is_selectable())
        });
        TargetView {
            endpoint: target.endpoint.id.clone(),
            tier: target.tier,
            priority: target.priority,
            weight: target.weight,
            instances: members.len(),
            usable: usable.count(),
        }
    }
}

fn places(uses: &[(&Plan, &TargetPlan)]) -> Vec<PlaceView> {
    let place = |(plan, target): &(&Plan, &TargetPlan)| PlaceView {
        route: plan.route.id.clone(),
        tier: target.tier,
        priority: target.priority,
        weight: target.weight,
    };
    uses.iter().map(place).collect()
}

/// Empty when some route can send it a request; else the first route's reason.
fn why_not(uses: &[(&Plan, &TargetPlan)], slot: &Slot, now: Mono) -> String {
    let mut first = None;
    for (plan, target) in uses {
        let standing = slot.standing(target.weight, plan.route.breaker.as_ref(), now);
        if standing.is_selectable() {
            return String::new();
        }
        first.get_or_insert(standing);
    }
    first.map_or_else(
        || "no route leads here".to_owned(),
        |standing| why(standing, slot, now),
    )
}

/// A standing in words.
pub(super) fn why(standing: Standing, slot: &Slot, now: Mono) -> String {
    let seconds = |until: Mono| until.since(now).as_secs_f64().ceil();
    match standing {
        Standing::Selectable => match (slot.monitor.state(), slot.breaker.state()) {
            (_, Breaker::Open | Breaker::HalfOpen) => "breaker lets a trial through".to_owned(),
            (Health::Unknown, _) => "not probed yet".to_owned(),
            _ => "healthy".to_owned(),
        },
        Standing::LetThrough => {
            "breaker open, but too many of the route's instances are out".to_owned()
        }
        Standing::Saturated { until } => {
            format!("saturated, has room again in {} s", seconds(until))
        }
        Standing::Open { until, .. } if slot.breaker.state() == Breaker::HalfOpen => {
            format!(
                "breaker half-open, its trials are out for up to {} s",
                seconds(until)
            )
        }
        Standing::Open { until, .. } => format!("breaker open for {} s", seconds(until)),
        Standing::Unhealthy => format!("unhealthy: {}", slot.monitor.reason()),
        Standing::Withheld => "its credential is not here until the operator sends it".to_owned(),
        Standing::NoShare => "weight 0".to_owned(),
    }
}

fn url(info: &InstanceInfo) -> String {
    let instance = &info.instance;
    let scheme = match instance.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let (host, port) = (instance.host_in_url(), instance.port);
    format!("{scheme}://{host}:{port}{}", info.endpoint.base_path)
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
