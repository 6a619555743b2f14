//! What a new table means for the fleet, endpoint by endpoint and route by route: the same from a
//! whole table, which is compared with what the fleet has, and from a change, which is taken at its
//! word.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use dataplane_protocol::{
    EndpointId, InstanceId, Resource, ResourceKey, RouteId, RoutingTable, SetId,
    change::Change,
    table::{Endpoint, EndpointSet, Instance, Profile, Route},
};

use super::Fleet;

/// Absent values: removed.
#[derive(Debug, Default)]
pub(super) struct Edit {
    pub(super) namespace: String,
    pub(super) profiles: BTreeMap<String, Option<Arc<Profile>>>,
    pub(super) endpoints: BTreeMap<EndpointId, EndpointEdit>,
    pub(super) sets: BTreeMap<SetId, Option<Arc<EndpointSet>>>,
    pub(super) routes: BTreeMap<RouteId, Option<Arc<Route>>>,
}

#[derive(Debug, Default)]
pub(super) struct EndpointEdit {
    pub(super) settings: Settings,
    pub(super) instances: BTreeMap<InstanceId, Option<Instance>>,
}

/// What becomes of what all instances of an endpoint have in common.
#[derive(Debug, Default)]
pub(super) enum Settings {
    #[default]
    Same,
    Change(Arc<Endpoint>),
    Remove,
}

impl Edit {
    pub(super) fn of(change: Change) -> Self {
        let mut edit = Self {
            namespace: change.namespace,
            ..Self::default()
        };
        for resource in change.upserts {
            match resource {
                Resource::Profile(profile) => {
                    edit.profiles.insert(profile.name.clone(), Some(profile));
                }
                Resource::Endpoint(endpoint) => {
                    let of = edit.endpoints.entry(endpoint.id.clone()).or_default();
                    of.settings = Settings::Change(endpoint);
                }
                Resource::Set(set) => {
                    edit.sets.insert(set.id.clone(), Some(set));
                }
                Resource::Instance { endpoint, instance } => {
                    let of = edit.endpoints.entry(endpoint).or_default();
                    of.instances
                        .insert(instance.id.clone(), Some((*instance).clone()));
                }
                Resource::Route(route) => {
                    edit.routes.insert(route.id.clone(), Some(route));
                }
            }
        }
        for key in change.removes {
            match key {
                ResourceKey::Profile(name) => {
                    edit.profiles.insert(name, None);
                }
                ResourceKey::Endpoint(id) => {
                    edit.endpoints.entry(id).or_default().settings = Settings::Remove;
                }
                ResourceKey::Set(id) => {
                    edit.sets.insert(id, None);
                }
                ResourceKey::Instance(endpoint, id) => {
                    let of = edit.endpoints.entry(endpoint).or_default();
                    of.instances.insert(id, None);
                }
                ResourceKey::Route(id) => {
                    edit.routes.insert(id, None);
                }
                // Says that something is to be kept, and is nothing by itself.
                ResourceKey::Instances(_) => {}
            }
        }
        edit
    }

    /// From what `fleet` has to `table`.
    pub(super) fn between(fleet: &Fleet, table: &RoutingTable) -> Self {
        let mut edit = Self {
            namespace: table.namespace.clone(),
            profiles: differences(&fleet.profiles, &table.profiles),
            sets: differences(&fleet.sets, &table.sets),
            ..Self::default()
        };
        for (id, endpoint) in &table.endpoints {
            edit.compare_endpoint(fleet, endpoint, table.instances.get(id));
        }
        for id in fleet.endpoints.keys() {
            if !table.endpoints.contains_key(id) {
                let of = edit.endpoints.entry(id.clone()).or_default();
                of.settings = Settings::Remove;
            }
        }
        edit.compare_routes(fleet, &table.routes);
        edit
    }

    fn compare_endpoint(
        &mut self,
        fleet: &Fleet,
        endpoint: &Arc<Endpoint>,
        instances: Option<&Arc<Vec<Instance>>>,
    ) {
        let mut edit = EndpointEdit::default();
        let known = fleet.endpoints.get(&endpoint.id);
        if known.is_none_or(|known| known.endpoint != *endpoint) {
            edit.settings = Settings::Change(endpoint.clone());
        }
        let places = known.iter().flat_map(|known| &known.places);
        for (id, _) in places {
            edit.instances.insert(id.clone(), None);
        }
        for instance in instances.into_iter().flat_map(|list| list.iter()) {
            let place = known.and_then(|known| known.place(&instance.id));
            let slot = place.and_then(|place| fleet.slots.get(place));
            if slot.is_some_and(|slot| slot.info.instance == *instance) {
                edit.instances.remove(&instance.id);
            } else {
                edit.instances
                    .insert(instance.id.clone(), Some(instance.clone()));
            }
        }
        if !matches!(edit.settings, Settings::Same) || !edit.instances.is_empty() {
            self.endpoints.insert(endpoint.id.clone(), edit);
        }
    }

    fn compare_routes(&mut self, fleet: &Fleet, routes: &[Arc<Route>]) {
        let mut there = HashSet::new();
        for route in routes {
            there.insert(&route.id);
            let place = fleet.routes.get(&route.id);
            let known = place.and_then(|place| fleet.plans.get(*place));
            if known.is_none_or(|known| known.plan.route != *route) {
                self.routes.insert(route.id.clone(), Some(route.clone()));
            }
        }
        let all = fleet.routes.keys();
        let gone = all.filter(|id| !there.contains(id));
        self.routes.extend(gone.map(|id| (id.clone(), None)));
    }
}

/// What makes `new` of `old`.
fn differences<K: Ord + Clone, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> BTreeMap<K, Option<V>> {
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let gone = gone.map(|key| (key.clone(), None));
    let changed = new
        .iter()
        .filter(|(key, value)| old.get(*key) != Some(*value));
    let changed = changed.map(|(key, value)| (key.clone(), Some(value.clone())));
    gone.chain(changed).collect()
}
