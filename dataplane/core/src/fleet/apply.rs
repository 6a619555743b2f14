//! A new table takes effect: live state of instances that stayed is kept, routes are resolved to
//! the instances behind them. The cost is that of what changed and of the routes that use it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use dataplane_protocol::{
    EndpointId, InstanceId, RoutingTable,
    change::Change,
    status::InstanceKey,
    table::{Endpoint, Instance, Profile},
};

use super::{
    AUTO, Fleet,
    edit::{Edit, EndpointEdit, Settings},
    slot::Slot,
};
use crate::{
    catalogue::Catalogue, models::Models, order::Event, pick::InstanceInfo, route::Rules,
    time::Mono,
};

/// Of more endpoints or routes at once, the lists over all of them are made anew.
const MANY: usize = 64;

/// An endpoint of the table.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) endpoint: Arc<Endpoint>,
    /// Its type; `auto` until a listing tells, for each instance.
    pub(super) profile: Arc<Profile>,
    /// Its instances and where their slots are, sorted.
    pub(super) places: Vec<(InstanceId, usize)>,
    /// While it has no instances: what it served when it had some.
    pub(super) absent: Option<Models>,
}

impl EndpointState {
    pub(super) fn place(&self, id: &InstanceId) -> Option<usize> {
        let at = self.places.binary_search_by(|(known, _)| known.cmp(id));
        Some(self.places.get(at.ok()?)?.1)
    }
}

/// What one update has found to do and not done yet.
#[derive(Debug, Default)]
pub(super) struct Work {
    events: Vec<Event>,
    /// Slots of instances that left. They stay until the routes have let go of them, so that no
    /// place stands for two instances.
    gone: Vec<usize>,
    /// Endpoints that have other instances than before, and are the same otherwise.
    pub(super) moved: Vec<EndpointId>,
    /// Places of routes to resolve anew.
    pub(super) replan: BTreeSet<usize>,
    /// Lists over all instances and routes are made anew at the end, not kept up one by one.
    pub(super) many: bool,
}

impl Fleet {
    /// Decides by `table` from here on. An instance that has the same id and address in the same
    /// endpoint keeps its health, breaker, load and models; one that is gone is told by
    /// [`Event::Gone`], and its running tickets end quietly. An endpoint whose type is not in the
    /// table, which no table that was [checked](RoutingTable::check) has, is left out.
    pub fn apply(&mut self, table: Arc<RoutingTable>, now: Mono) -> Vec<Event> {
        self.edit(Edit::between(self, &table), now)
    }

    /// The same, where it is known what differs from the table in use. Whatever came before, the
    /// fleet decides as one that was given the whole table.
    pub fn apply_change(&mut self, change: Change, now: Mono) -> Vec<Event> {
        self.edit(Edit::of(change), now)
    }

    fn edit(&mut self, mut edit: Edit, now: Mono) -> Vec<Event> {
        let mut work = Work {
            events: mem::take(&mut self.pending),
            many: edit.endpoints.len().max(edit.routes.len()) > MANY,
            ..Work::default()
        };
        self.namespace = mem::take(&mut edit.namespace);
        self.take_profiles(&mut edit);
        for (id, of) in edit.endpoints {
            self.edit_endpoint(id, of, &mut work, now);
        }
        for (id, set) in edit.sets {
            let users = self.set_users.get(&id);
            work.replan.extend(users.into_iter().flatten());
            match set {
                Some(set) => self.sets.insert(id, set),
                None => self.sets.remove(&id),
            };
        }
        for (id, route) in edit.routes {
            match route {
                Some(route) => self.place_route(route, &mut work),
                None => self.remove_route(&id, &mut work),
            }
        }
        self.resolve(&mut work);
        self.let_go(&mut work);
        if work.many {
            let slots = self.slots.iter();
            self.catalogue =
                Catalogue::of(slots.map(|(place, slot)| (place, slot.models.serves())));
            let plans = self.plans.iter();
            self.rules = Rules::of(plans.map(|(place, it)| (place, &it.plan.route)));
        }
        work.events
    }

    /// Endpoints of a type that changed, and those that may have turned out to be of it, are
    /// looked at, too.
    fn take_profiles(&mut self, edit: &mut Edit) {
        let mut changed = BTreeSet::new();
        for (name, profile) in mem::take(&mut edit.profiles) {
            let before = match profile {
                Some(profile) => self.profiles.insert(name.clone(), profile),
                None => self.profiles.remove(&name),
            };
            if before.is_some() {
                changed.insert(name);
            }
        }
        if changed.is_empty() {
            return;
        }
        for (id, known) in &self.endpoints {
            let profile = &known.endpoint.profile;
            if profile == AUTO || changed.contains(profile) {
                let of = edit.endpoints.entry(id.clone()).or_default();
                if matches!(of.settings, Settings::Same) {
                    of.settings = Settings::Change(known.endpoint.clone());
                }
            }
        }
    }

    fn edit_endpoint(&mut self, id: EndpointId, edit: EndpointEdit, work: &mut Work, now: Mono) {
        let known = self.endpoints.remove(&id);
        let same = matches!(edit.settings, Settings::Same);
        let wanted = match edit.settings {
            Settings::Same => known.as_ref().map(|known| known.endpoint.clone()),
            Settings::Change(endpoint) => Some(endpoint),
            Settings::Remove => None,
        };
        let profile = |of: &Arc<Endpoint>| self.profiles.get(&of.profile).cloned();
        let wanted = wanted.and_then(|endpoint| Some((profile(&endpoint)?, endpoint)));
        if !same {
            let users = self.users.get(&id);
            work.replan
                .extend(users.into_iter().flat_map(BTreeMap::keys));
        }
        let Some((profile, endpoint)) = wanted else {
            let places = known.into_iter().flat_map(|known| known.places);
            work.gone.extend(places.map(|(_, place)| place));
            return;
        };
        let mut state = known.unwrap_or_else(|| EndpointState {
            endpoint: endpoint.clone(),
            profile: profile.clone(),
            places: Vec::new(),
            absent: None,
        });
        (state.endpoint, state.profile) = (endpoint, profile);
        let gone_before = work.gone.len();
        for (instance, address) in edit.instances {
            self.edit_instance(&mut state, instance, address, work, now);
        }
        if !same {
            for (_, place) in &state.places {
                self.adopt(&state, *place, work, now);
            }
        }
        let last = work.gone.get(gone_before).copied();
        self.remember_absent(&mut state, last);
        self.endpoints.insert(id.clone(), state);
        if same {
            work.moved.push(id);
        }
    }

    fn edit_instance(
        &mut self,
        state: &mut EndpointState,
        id: InstanceId,
        address: Option<Instance>,
        work: &mut Work,
        now: Mono,
    ) {
        let found = state.places.binary_search_by(|(known, _)| known.cmp(&id));
        let place = found
            .ok()
            .and_then(|at| state.places.get(at))
            .map(|it| it.1);
        let Some(instance) = address else {
            if let (Ok(at), Some(place)) = (found, place) {
                state.places.remove(at);
                work.gone.push(place);
            }
            return;
        };
        let slot = place.and_then(|place| self.slots.get(place));
        if slot.is_some_and(|slot| slot.info.instance == instance) {
            return;
        }
        let new = self.add_slot(state, instance, work.many, now);
        match found {
            Ok(at) => {
                work.gone.extend(place);
                if let Some(known) = state.places.get_mut(at) {
                    known.1 = new;
                }
            }
            Err(at) => state.places.insert(at, (id, new)),
        }
    }

    fn add_slot(
        &mut self,
        state: &EndpointState,
        instance: Instance,
        many: bool,
        now: Mono,
    ) -> usize {
        let key = InstanceKey::new(self.next_key);
        self.next_key = self.next_key.wrapping_add(1);
        let info = InstanceInfo {
            key,
            endpoint: state.endpoint.clone(),
            instance,
            profile: state.profile.clone(),
        };
        let entry = self.slots.vacant_entry();
        let place = entry.key();
        let slot = entry.insert(Slot::new(info, now));
        slot.schedule(place, &mut self.agenda);
        if !many {
            self.catalogue.replace(place, &[], slot.models.serves());
        }
        self.by_key.insert(key, place);
        place
    }

    /// The instance at `place` takes its endpoint's new settings.
    fn adopt(&mut self, state: &EndpointState, place: usize, work: &mut Work, now: Mono) {
        let Some(slot) = self.slots.get_mut(place) else {
            return;
        };
        let (was, is) = (&slot.info.endpoint.profile, &state.endpoint.profile);
        let detected = Some(&slot.info.profile.name).filter(|_| was == AUTO && is == AUTO);
        let detected = detected.and_then(|name| self.profiles.get(name));
        let profile = detected.unwrap_or(&state.profile).clone();
        let before = slot.models.serves().to_vec();
        slot.adopt(&state.endpoint, &profile, now, &mut work.events);
        slot.schedule(place, &mut self.agenda);
        if !work.many {
            self.catalogue.replace(place, &before, slot.models.serves());
        }
    }

    /// What an endpoint served that has no instance any more; `last` was one of them.
    fn remember_absent(&self, state: &mut EndpointState, last: Option<usize>) {
        if !state.places.is_empty() {
            state.absent = None;
            return;
        }
        let policy = &state.endpoint.models;
        let last = last.and_then(|place| self.slots.get(place));
        let mut models = last
            .map(|slot| slot.models.clone())
            .or_else(|| state.absent.take())
            .unwrap_or_else(|| Models::new(policy));
        models.adopt(policy);
        state.absent = Some(models);
    }

    fn let_go(&mut self, work: &mut Work) {
        let mut keys = Vec::new();
        for place in mem::take(&mut work.gone) {
            let Some(mut slot) = self.slots.try_remove(place) else {
                continue;
            };
            slot.unschedule(place, &mut self.agenda);
            if !work.many {
                self.catalogue.replace(place, slot.models.serves(), &[]);
            }
            self.by_key.remove(&slot.key());
            keys.push(slot.key());
        }
        keys.sort_unstable();
        let gone = keys.into_iter().map(|key| Event::Gone { key });
        work.events.extend(gone);
    }

    /// The table in use, made from its parts.
    pub fn table(&self) -> RoutingTable {
        let of_endpoint = |state: &EndpointState| -> Vec<Instance> {
            let slots = state.places.iter();
            let slots = slots.filter_map(|(_, place)| self.slots.get(*place));
            slots.map(|slot| slot.info.instance.clone()).collect()
        };
        let endpoints = self.endpoints.iter();
        RoutingTable {
            namespace: self.namespace.clone(),
            profiles: self.profiles.clone(),
            endpoints: endpoints
                .clone()
                .map(|(id, state)| (id.clone(), state.endpoint.clone()))
                .collect(),
            sets: self.sets.clone(),
            instances: endpoints
                .map(|(id, state)| (id.clone(), Arc::new(of_endpoint(state))))
                .collect(),
            routes: self.in_order().map(|it| it.plan.route.clone()).collect(),
            keep: BTreeSet::new(),
        }
    }
}
