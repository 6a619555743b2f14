//! The fleet as people see it. Nothing here changes anything.

use std::{collections::BTreeSet, time::Duration};

use dataplane_protocol::{
    Dialect,
    sync::{Breaker, Health},
    table::Scheme,
};

use super::{Fleet, Live, slot::Slot};
use crate::{
    models::Knowledge,
    pick::InstanceInfo,
    plan::{Member, Plan, PlannedTarget},
    route,
    select::Standing,
    time::Mono,
    view::{FleetView, InstanceView, ModelView, PlaceView, RouteView, TargetView},
};

impl Fleet {
    /// Everything that status pages, metrics, reports and the terminal show.
    pub fn view(&self, now: Mono) -> FleetView {
        let instances = (self.slots.iter().enumerate())
            .map(|(place, slot)| self.instance_view(place, slot, now))
            .collect();
        let routes = (self.plans.iter().zip(&self.live))
            .map(|(plan, live)| self.route_view(plan, live, now))
            .collect();
        FleetView {
            namespace: self.table.namespace.clone(),
            instances,
            routes,
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
            for place in places.filter(|place| self.is_routed(*place)) {
                let Some(slot) = self.slots.get(place) else {
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

    /// The routes that use the instance at `place`, in order of precedence.
    fn uses(&self, place: usize) -> impl Iterator<Item = (&Plan, &Member)> {
        let uses = self.uses.get(place).into_iter().flatten();
        uses.filter_map(|at| {
            let plan = self.plans.get(at.plan)?;
            Some((plan, plan.members.get(at.member)?))
        })
    }

    fn is_routed(&self, place: usize) -> bool {
        self.uses(place).any(|(_, member)| member.weight > 0)
    }

    fn instance_view(&self, place: usize, slot: &Slot, now: Mono) -> InstanceView {
        let info = &slot.info;
        let policy = &info.endpoint.models;
        let why_not = self.why_not(place, slot, now);
        let knows = slot.models.knowledge(policy) == Knowledge::Complete;
        let ahead = |at: Mono| millis(at.since(now));
        InstanceView {
            endpoint: info.endpoint.id.clone(),
            instance: info.instance.id.clone(),
            key: info.key,
            profile: info.profile.name.clone(),
            url: url(info),
            places: self.places(place),
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

    fn places(&self, place: usize) -> Vec<PlaceView> {
        let targets = self.uses(place).filter_map(|(plan, member)| {
            let target = plan.targets.get(member.target)?;
            Some(PlaceView {
                route: plan.route.id.clone(),
                tier: target.tier,
                priority: target.priority,
                weight: target.weight,
            })
        });
        targets.collect()
    }

    /// Empty when some route can send it a request; else the first route's reason.
    fn why_not(&self, place: usize, slot: &Slot, now: Mono) -> String {
        let mut first = None;
        for (plan, member) in self.uses(place) {
            let standing = slot.standing(member.weight, plan.route.breaker.as_ref(), now);
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

    fn route_view(&self, plan: &Plan, live: &Live, now: Mono) -> RouteView {
        let (recent_requests, recent_retries) = live.budget.recent(now);
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

    fn target_view(
        &self,
        plan: &Plan,
        place: usize,
        target: &PlannedTarget,
        now: Mono,
    ) -> TargetView {
        let members = || plan.members.iter().filter(|member| member.target == place);
        let policy = plan.route.breaker.as_ref();
        let usable = members().filter(|member| {
            let slot = self.slots.get(member.slot);
            slot.is_some_and(|slot| slot.standing(member.weight, policy, now).is_selectable())
        });
        TargetView {
            endpoint: target.endpoint.id.clone(),
            tier: target.tier,
            priority: target.priority,
            weight: target.weight,
            instances: members().count(),
            usable: usable.count(),
        }
    }
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
    let (port, base) = (instance.port, &info.endpoint.base_path);
    if instance.host.contains(':') {
        format!("{scheme}://[{}]:{port}{base}", instance.host)
    } else {
        format!("{scheme}://{}:{port}{base}", instance.host)
    }
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
