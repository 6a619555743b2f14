//! What is known of the cluster, by namespace, and which namespaces changed.
//!
//! In: apply, delete and reset of [`CachedObject`]s, each from one [`Source`]. Out: the namespaces
//! to update, and the sources they need. Pure. A change marks only its own namespace; one that
//! changes nothing that a table is made of (our own status writes, a pod's annotations) marks none.

use std::collections::{BTreeSet, HashMap, HashSet};

use compile::{Changes, Namespace, facts::Unlisted};
use crds::{Reason, common::is_subdomain, condition};

pub use super::object::{CachedObject, ObjectData, Source};
use super::status::ObjectStatus;

#[derive(Debug, Default)]
pub struct Index {
    namespaces: HashMap<String, Namespace>,
    /// Sources whose first list is in.
    listed: HashSet<Source>,
    /// Those whose first list is late.
    given_up: HashSet<Source>,
    dirty: BTreeSet<String>,
}

impl Index {
    /// Whether it changed what a table is made of.
    pub fn apply(&mut self, item: CachedObject) -> bool {
        let CachedObject {
            namespace,
            name,
            data,
        } = item;
        let known = (self.namespaces)
            .entry(namespace.clone())
            .or_insert_with(|| Namespace::new(true));
        if let Some((kind, source)) = data.own_kind()
            && self.listed.contains(&source)
        {
            known.note_created(kind, &name);
        }
        let changed = insert(known, &name, data);
        if changed {
            self.dirty.insert(namespace);
        }
        changed
    }

    /// What the status of a route says that is [applied](Self::apply) next.
    pub fn note_status(&mut self, namespace: &str, route: &str, status: &ObjectStatus) {
        let accepted = status.condition(condition::ACCEPTED);
        let lost = accepted.filter(|it| it.reason == Reason::Conflicted.as_str());
        if let Some(generation) = lost.and_then(|it| it.observed_generation) {
            let known = (self.namespaces)
                .entry(namespace.to_owned())
                .or_insert_with(|| Namespace::new(true));
            known.note_lost_route(route, generation);
        }
    }

    /// Whether it changed what a table is made of.
    pub fn delete(&mut self, source: &Source, namespace: &str, name: &str) -> bool {
        let Some(known) = self.namespaces.get_mut(namespace) else {
            return false;
        };
        let changed = remove(known, source, name);
        if changed {
            self.dirty.insert(namespace.to_owned());
        }
        // What a last change took away is known to the namespace until it is updated.
        if !self.dirty.contains(namespace) {
            self.drop_if_empty(namespace);
        }
        changed
    }

    /// `items` is all that `source` has: what is missing in it is gone. Marks the source listed.
    pub fn reset(&mut self, source: &Source, items: Vec<CachedObject>) {
        let present: HashSet<(String, String)> = items
            .iter()
            .map(|item| (item.namespace.clone(), item.name.clone()))
            .collect();
        for (namespace, name) in self.names_of(source) {
            if !present.contains(&(namespace.clone(), name.clone())) {
                self.delete(source, &namespace, &name);
            }
        }
        for item in items {
            self.apply(item);
        }
        self.mark_listed(source);
    }

    /// The source is not waited for any longer: until it is listed, nothing is known of it.
    pub fn give_up(&mut self, source: &Source) {
        if !self.listed.contains(source) && self.given_up.insert(source.clone()) {
            self.dirty.extend(source.namespace().map(str::to_owned));
        }
    }

    /// Its watch has stopped: what came from it is forgotten.
    pub fn forget(&mut self, source: &Source) {
        self.listed.remove(source);
        self.given_up.remove(source);
        for (namespace, name) in self.names_of(source) {
            self.delete(source, &namespace, &name);
        }
    }

    /// Whether the Secret is there, as far as is known.
    pub fn has_secret(&self, namespace: &str, name: &str) -> bool {
        let known = self.namespaces.get(namespace);
        known.is_some_and(|known| known.secret_names().any(|it| it == name))
    }

    /// Sources that this namespace's endpoints need beside our own kinds: their newest forms, and
    /// those that may be in use until these are accepted.
    pub fn needs(&self, namespace: &str) -> BTreeSet<Source> {
        let mut needs = BTreeSet::new();
        let Some(known) = self.namespaces.get(namespace) else {
            return needs;
        };
        let namespace = || namespace.to_owned();
        if known.uses_services() {
            needs.insert(Source::Services(namespace()));
            needs.insert(Source::Slices(namespace()));
        }
        if known.uses_pods() {
            needs.insert(Source::Pods(namespace()));
        }
        // The name goes into a field selector. What no Secret can be named is refused by compile,
        // and asking the API server for it would fail for ever.
        let secrets = known.used_secrets().filter(|name| is_subdomain(name));
        needs.extend(secrets.map(|name| Source::Secret {
            namespace: namespace(),
            name: name.to_owned(),
        }));
        needs
    }

    /// Another number when [`needs`](Self::needs) may say something else.
    pub fn needs_version(&self, namespace: &str) -> u64 {
        let known = self.namespaces.get(namespace);
        known.map_or(0, Namespace::uses_version)
    }

    /// Whether both of our kinds have been listed.
    pub fn kinds_listed(&self) -> bool {
        self.listed.contains(&Source::Endpoints) && self.listed.contains(&Source::Routes)
    }

    /// Whether all that a table of this namespace is made of has been listed or given up.
    pub fn ready(&self, namespace: &str) -> bool {
        self.kinds_listed()
            && self
                .needs(namespace)
                .iter()
                .all(|source| self.listed.contains(source) || self.given_up.contains(source))
    }

    /// Namespaces that hold an object of ours.
    pub fn occupied(&self) -> BTreeSet<String> {
        self.namespaces
            .iter()
            .filter(|(_, known)| known.is_occupied())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Namespaces that changed since they were last [taken](Self::take_dirty).
    pub fn dirty(&self) -> &BTreeSet<String> {
        &self.dirty
    }

    /// Takes those for which `wanted` says yes; the others stay dirty.
    pub fn take_dirty(&mut self, wanted: impl Fn(&Self, &str) -> bool) -> Vec<String> {
        let dirty = std::mem::take(&mut self.dirty);
        let (taken, left): (Vec<_>, Vec<_>) =
            dirty.into_iter().partition(|name| wanted(self, name));
        self.dirty = left.into_iter().collect();
        taken
    }

    /// The namespace with its table and verdicts made of what is known now, and what that changed;
    /// nothing if nothing is known of it.
    pub fn update(&mut self, namespace: &str) -> Option<(&Namespace, Changes)> {
        let unlisted = self.unlisted(namespace);
        let known = self.namespaces.get_mut(namespace)?;
        known.set_unlisted(unlisted);
        let updated = known.update();
        Some((known, updated))
    }

    /// It has been updated: one that has become empty is forgotten.
    pub fn settle(&mut self, namespace: &str) {
        self.drop_if_empty(namespace);
    }

    fn unlisted(&self, namespace: &str) -> Unlisted {
        let mut unlisted = Unlisted::default();
        for source in self.needs(namespace) {
            if self.listed.contains(&source) {
                continue;
            }
            match source {
                Source::Endpoints | Source::Routes => {}
                Source::Services(_) | Source::Slices(_) => unlisted.services = true,
                Source::Pods(_) => unlisted.pods = true,
                Source::Secret { name, .. } => {
                    unlisted.secrets.insert(name);
                }
            }
        }
        unlisted
    }

    fn mark_listed(&mut self, source: &Source) {
        self.given_up.remove(source);
        if !self.listed.insert(source.clone()) {
            return;
        }
        // Whoever waited for it is compiled now, also when the list was empty.
        if let Some(namespace) = source.namespace() {
            self.dirty.insert(namespace.to_owned());
        } else {
            let occupied = self.occupied();
            self.dirty.extend(occupied);
        }
    }

    fn names_of(&self, source: &Source) -> Vec<(String, String)> {
        let of = |namespace: &String| {
            self.namespaces
                .get(namespace)
                .map(|known| names(known, source))
                .unwrap_or_default()
                .into_iter()
                .map(|name| (namespace.clone(), name))
                .collect::<Vec<_>>()
        };
        match source {
            Source::Endpoints | Source::Routes => self.namespaces.keys().flat_map(of).collect(),
            Source::Services(namespace) | Source::Slices(namespace) | Source::Pods(namespace) => {
                of(namespace)
            }
            Source::Secret { namespace, name } => vec![(namespace.clone(), name.clone())],
        }
    }

    fn drop_if_empty(&mut self, namespace: &str) {
        if self
            .namespaces
            .get(namespace)
            .is_some_and(Namespace::is_empty)
        {
            self.namespaces.remove(namespace);
        }
    }
}

/// Whether it may change what a table is made of, or a verdict.
fn insert(known: &mut Namespace, name: &str, data: ObjectData) -> bool {
    match data {
        ObjectData::Endpoint(form) => known.set_endpoint(name, Some(form)),
        ObjectData::Route(form) => known.set_route(name, Some(form)),
        ObjectData::Service(service) => known.set_service(name, Some(service)),
        ObjectData::Slice(slice) => known.set_slice(name, Some(slice)),
        ObjectData::Pod(pod) => known.set_pod(name, Some(pod)),
        ObjectData::Secret(secret) => known.set_secret(name, Some(secret)),
    }
}

fn remove(known: &mut Namespace, source: &Source, name: &str) -> bool {
    match source {
        Source::Endpoints => known.set_endpoint(name, None),
        Source::Routes => known.set_route(name, None),
        Source::Services(_) => known.set_service(name, None),
        Source::Slices(_) => known.set_slice(name, None),
        Source::Pods(_) => known.set_pod(name, None),
        Source::Secret { .. } => known.set_secret(name, None),
    }
}

fn names(known: &Namespace, source: &Source) -> Vec<String> {
    let all = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect();
    match source {
        Source::Endpoints => all(&mut known.endpoint_names()),
        Source::Routes => all(&mut known.route_names()),
        Source::Services(_) => all(&mut known.service_names()),
        Source::Slices(_) => all(&mut known.slice_names()),
        Source::Pods(_) => all(&mut known.pod_names()),
        Source::Secret { .. } => all(&mut known.secret_names()),
    }
}

#[cfg(test)]
mod tests;
