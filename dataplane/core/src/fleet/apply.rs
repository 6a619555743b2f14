//! A new table takes effect: live state of instances that stayed is kept, routes are resolved to
//! the instances behind them.

use std::{collections::HashMap, sync::Arc};

use dataplane_protocol::{
    EndpointId, InstanceId, RouteId, RoutingTable,
    table::{Endpoint, Instance, Profile, Route},
};

use super::{AUTO, Fleet, Live, Use, slot::Slot};
use crate::{
    catalogue::Catalogue,
    models::Models,
    order::Event,
    pick::{InstanceInfo, InstanceKey},
    plan::{Member, Plan, PlannedTarget, Turns},
    route::Rules,
    time::Mono,
};

type Old = HashMap<(EndpointId, InstanceId), Slot>;

impl Fleet {
    /// Decides by `table` from here on. An instance that has the same id and address in the same
    /// endpoint keeps its health, breaker, load and models; one that is gone is told by
    /// [`Event::Gone`], and its running tickets end quietly.
    pub fn apply(&mut self, table: Arc<RoutingTable>, now: Mono) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.pending);
        let turns = self.turns_by_name();
        let mut old: Old = std::mem::take(&mut self.slots)
            .into_iter()
            .map(|slot| (name_of(&slot.info), slot))
            .collect();
        self.table = table.clone();
        for endpoint in table.endpoints.values() {
            let instances = table.instances.get(&endpoint.id);
            for instance in instances.iter().flat_map(|list| list.iter()) {
                let slot = self.slot_for(endpoint, instance, &mut old, now, &mut events);
                self.slots.push(slot);
            }
        }
        self.keep_absent(&old);
        events.extend(gone(old));
        self.by_key = (self.slots.iter().enumerate())
            .map(|(place, slot)| (slot.key(), place))
            .collect();
        self.agenda.clear();
        for (place, slot) in self.slots.iter_mut().enumerate() {
            slot.reschedule(place, &mut self.agenda);
        }
        let lists = self.slots.iter().map(|slot| slot.models.serves());
        self.catalogue = Catalogue::of(lists);
        self.plans = self.plans_of(&table);
        self.rules = Rules::of(self.plans.iter().map(|plan| &plan.route));
        self.uses = uses_of(&self.plans, self.slots.len());
        self.live = (self.plans.iter())
            .map(|plan| live_of(plan, &self.slots, turns.get(&plan.route.id)))
            .collect();
        events
    }

    fn slot_for(
        &mut self,
        endpoint: &Arc<Endpoint>,
        instance: &Instance,
        old: &mut Old,
        now: Mono,
        events: &mut Vec<Event>,
    ) -> Slot {
        let profile = profile_of(&self.table, &endpoint.profile);
        let name = (endpoint.id.clone(), instance.id.clone());
        if let Some(mut slot) = old.remove(&name) {
            if slot.info.instance == *instance {
                let detected = &slot.info.profile.name;
                let known = self.table.profiles.get(detected).cloned();
                let profile = known
                    .filter(|_| endpoint.profile == AUTO && slot.info.endpoint.profile == AUTO)
                    .unwrap_or(profile);
                slot.adopt(endpoint, &profile, now, events);
                return slot;
            }
            old.insert(name, slot);
        }
        let key = InstanceKey(self.next_key);
        self.next_key = self.next_key.wrapping_add(1);
        let info = InstanceInfo {
            key,
            endpoint: endpoint.clone(),
            instance: instance.clone(),
            profile,
        };
        Slot::new(info, now)
    }

    /// Remembers what endpoints served that have no instance in this table.
    fn keep_absent(&mut self, old: &Old) {
        let mut before = std::mem::take(&mut self.absent);
        for (id, endpoint) in &self.table.endpoints {
            let present = self
                .table
                .instances
                .get(id)
                .is_some_and(|list| !list.is_empty());
            if present {
                continue;
            }
            let last = old.iter().find(|((of, _), _)| of == id);
            let mut models = last
                .map(|(_, slot)| slot.models.clone())
                .or_else(|| before.remove(id))
                .unwrap_or_else(|| Models::new(&endpoint.models));
            models.adopt(&endpoint.models);
            self.absent.insert(id.clone(), models);
        }
    }

    fn plans_of(&self, table: &RoutingTable) -> Vec<Plan> {
        let mut by_endpoint: HashMap<&EndpointId, Vec<usize>> = HashMap::new();
        for (place, slot) in self.slots.iter().enumerate() {
            by_endpoint
                .entry(&slot.info.endpoint.id)
                .or_default()
                .push(place);
        }
        let routes = table.routes.iter();
        routes
            .map(|route| self.plan(route, table, &by_endpoint))
            .collect()
    }

    fn plan(
        &self,
        route: &Arc<Route>,
        table: &RoutingTable,
        by_endpoint: &HashMap<&EndpointId, Vec<usize>>,
    ) -> Plan {
        let mut plan = Plan {
            route: route.clone(),
            targets: Vec::new(),
            members: Vec::new(),
        };
        for target in table.targets(route) {
            let Some(endpoint) = table.endpoints.get(&target.endpoint) else {
                continue;
            };
            let slots = by_endpoint.get(&target.endpoint).into_iter().flatten();
            plan.members.extend(slots.map(|slot| Member {
                slot: *slot,
                target: plan.targets.len(),
                tier: target.tier,
                weight: target.weight,
            }));
            plan.targets.push(PlannedTarget {
                endpoint: endpoint.clone(),
                profile: profile_of(table, &endpoint.profile),
                tier: target.tier,
                priority: target.priority,
                weight: target.weight,
                absent: self.absent.get(&target.endpoint).cloned(),
            });
        }
        plan
    }

    fn turns_by_name(&mut self) -> HashMap<RouteId, Remembered> {
        let mut all = HashMap::new();
        for (plan, live) in self.plans.iter().zip(std::mem::take(&mut self.live)) {
            let targets = plan.targets.iter().zip(&live.turns.targets);
            let members = plan.members.iter().zip(&live.turns.members);
            let remembered = Remembered {
                targets: targets
                    .map(|(target, sum)| (target.endpoint.id.clone(), (target.weight, *sum)))
                    .collect(),
                members: members
                    .filter_map(|(member, sum)| Some((self.slots.get(member.slot)?.key(), *sum)))
                    .collect(),
                live,
            };
            all.insert(plan.route.id.clone(), remembered);
        }
        all
    }
}

/// A route's turns by names that outlive a table, so that the rotation goes on where it was.
#[derive(Debug)]
struct Remembered {
    /// Weight and sum.
    targets: HashMap<EndpointId, (u32, i64)>,
    members: HashMap<InstanceKey, i64>,
    live: Live,
}

fn live_of(plan: &Plan, slots: &[Slot], remembered: Option<&Remembered>) -> Live {
    let target = |id| remembered.and_then(|all| all.targets.get(id)).copied();
    let member = |key| remembered.and_then(|all| all.members.get(&key)).copied();
    // A sum run up under a large weight would be a debt of many rounds under a small one.
    let same_weights = plan.targets.iter().all(|planned| {
        target(&planned.endpoint.id).is_none_or(|(weight, _)| weight == planned.weight)
    });
    let targets = plan.targets.iter();
    let members = plan.members.iter();
    Live {
        turns: Turns {
            targets: targets
                .map(|planned| target(&planned.endpoint.id).filter(|_| same_weights))
                .map(|known| known.map_or(0, |(_, sum)| sum))
                .collect(),
            members: members
                .map(|planned| {
                    let slot = slots.get(planned.slot);
                    slot.and_then(|slot| member(slot.key())).unwrap_or(0)
                })
                .collect(),
        },
        budget: remembered
            .map(|all| all.live.budget.clone())
            .unwrap_or_default(),
    }
}

fn uses_of(plans: &[Plan], slots: usize) -> Vec<Vec<Use>> {
    let mut uses = vec![Vec::new(); slots];
    for (place, plan) in plans.iter().enumerate() {
        for (member, planned) in plan.members.iter().enumerate() {
            if let Some(of_slot) = uses.get_mut(planned.slot) {
                of_slot.push(Use {
                    plan: place,
                    member,
                });
            }
        }
    }
    uses
}

fn name_of(info: &InstanceInfo) -> (EndpointId, InstanceId) {
    (info.endpoint.id.clone(), info.instance.id.clone())
}

fn gone(old: Old) -> Vec<Event> {
    let mut keys: Vec<_> = old.into_values().map(|slot| slot.key()).collect();
    keys.sort_unstable();
    keys.into_iter().map(|key| Event::Gone { key }).collect()
}

/// A table is complete, so the profile is there. One that were not would be reached by no
/// prefix and no dialect, only by requests that ask for neither.
fn profile_of(table: &RoutingTable, name: &str) -> Arc<Profile> {
    table.profiles.get(name).cloned().unwrap_or_else(|| {
        Arc::new(Profile {
            name: name.to_owned(),
            prefixes: Vec::new(),
            dialects: Vec::new(),
            health_paths: Vec::new(),
            listings: Vec::new(),
        })
    })
}
