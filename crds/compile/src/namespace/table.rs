//! What goes into the table: routes and sets, and each resource and verdict that is another now.

use std::{mem, sync::Arc};

use crds::{LabelSelector, LlmEndpoint};
use dataplane_protocol::{Resource, ResourceKey, RouteId, SetId};

use super::Namespace;
use crate::{
    Kind, Verdict,
    conflicts::{Placement, RouteResult},
    form::Forms,
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

    /// What has changed of them: all with `all`, which is for other reasons than these objects.
    /// `recount`: sets may have other members than they have in the table.
    pub(super) fn judge_routes(&mut self, all: bool, recount: bool) -> Vec<RouteResult> {
        let (built, resources) = (&self.built, &self.resources);
        let is_accepted = |name: &str| built.get(name).is_some_and(|built| built.accepted);
        let endpoints = endpoints_of(&self.endpoints);
        let mut room = sets::Room::new(&endpoints);
        let has_room = |id: &SetId, selector: Option<&LabelSelector>| {
            let known = match resources.get(&ResourceKey::Set(id.clone())) {
                Some(Resource::Set(set)) if !recount => Some(set.members.len()),
                _ => None,
            };
            room.admit(id, selector, known)
        };
        self.candidates
            .resolve_conflicts(all, is_accepted, has_room)
    }

    /// `recount`: as in [`judge_routes`](Self::judge_routes).
    pub(super) fn choose_sets(&mut self, recount: bool) {
        let endpoints = endpoints_of(&self.endpoints);
        let chosen = self.candidates.sets();
        let ids = chosen.keys().map(|id| (*id).clone()).collect();
        let sets: Vec<_> = (chosen.into_iter())
            .filter(|(id, _)| recount || !self.sets.contains(*id))
            .map(|(id, selector)| endpoints.set(id, selector))
            .filter(|set| {
                let known = self.resources.get(&ResourceKey::Set(set.id.clone()));
                !matches!(known, Some(Resource::Set(known)) if **known == *set)
            })
            .collect();
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

fn endpoints_of(forms: &Forms<LlmEndpoint>) -> sets::Endpoints<'_> {
    let newest = forms.newest.iter();
    sets::Endpoints::of(newest.map(|(name, form)| (name.as_str(), form.labels())))
}

/// What the table has under a key.
pub(super) enum TableEntry {
    Known(Resource),
    /// To be kept by data planes.
    Unknown,
    Nothing,
}
