//! What goes into the table: routes and sets, and each resource and verdict that is another now.

use std::{mem, sync::Arc};

use dataplane_protocol::{Resource, ResourceKey, RouteId, SetId};

use super::Namespace;
use crate::{
    Kind, Verdict,
    conflicts::{Placement, RouteResult},
    sets,
};

impl Namespace {
    pub(super) fn place_routes(&mut self, judged: Vec<RouteResult>) {
        for RouteResult {
            mut verdict,
            placed,
        } in judged
        {
            let place = match placed {
                Placement::Route(route) => {
                    verdict.reachable = self.reaches(&route);
                    TableEntry::Known(Resource::Route(route))
                }
                Placement::Unknown => TableEntry::Unknown,
                Placement::Nowhere => TableEntry::Nothing,
            };
            let key = ResourceKey::Route(RouteId::from(verdict.name.as_str()));
            self.put(key, place);
            self.put_verdict(verdict);
        }
    }

    pub(super) fn choose_sets(&mut self) {
        let newest = self.endpoints.newest.iter();
        let all = sets::Endpoints::of(newest.map(|(name, form)| (name.as_str(), form.labels())));
        let chosen = self.candidates.sets();
        let sets: Vec<_> = (chosen.into_iter())
            .map(|(id, selector)| all.set(id, selector))
            .collect();
        let ids = sets.iter().map(|set| set.id.clone()).collect();
        let before = mem::replace(&mut self.sets, ids);
        let gone: Vec<SetId> = before.difference(&self.sets).cloned().collect();
        for id in gone {
            self.put(ResourceKey::Set(id), TableEntry::Nothing);
        }
        for set in sets {
            let key = ResourceKey::Set(set.id.clone());
            self.put(key, TableEntry::Known(Resource::Set(Arc::new(set))));
        }
    }

    /// Puts it into the table, if it is not there as it is.
    pub(super) fn put(&mut self, key: ResourceKey, place: TableEntry) {
        let resources = &mut self.resources;
        match place {
            TableEntry::Known(resource) if resources.get(&key) == Some(&resource) => return,
            TableEntry::Known(resource) => resources.upsert(resource),
            TableEntry::Unknown if self.facts.in_cluster => {
                if resources.is_keep(&key) {
                    return;
                }
                resources.set_keep(key.clone());
            }
            TableEntry::Unknown | TableEntry::Nothing => {
                if !resources.remove(&key) {
                    return;
                }
            }
        }
        self.updated.resources.insert(key);
    }

    pub(super) fn put_verdict(&mut self, verdict: Verdict) {
        let key = (verdict.kind, verdict.name.clone());
        if self.verdicts.get(&key) != Some(&verdict) {
            self.updated.verdicts.insert(key.clone());
            self.verdicts.insert_mut(key, verdict);
        }
    }

    pub(super) fn drop_verdict(&mut self, kind: Kind, name: &str) {
        let key = (kind, name.to_owned());
        if self.verdicts.remove_mut(&key) {
            self.updated.verdicts.insert(key);
        }
    }
}

/// What the table has under a key.
pub(super) enum TableEntry {
    Known(Resource),
    /// To be kept by data planes.
    Unknown,
    Nothing,
}
