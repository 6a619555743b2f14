//! What is known of the cluster, by namespace, and which namespaces changed.
//!
//! In: apply, delete and reset of [`Item`]s, each from one [`Source`]. Out: the namespaces to
//! compile, their objects and facts, and the sources they need. Pure. A change marks only its own
//! namespace; one that changes nothing that a table is made of (our own status writes, a pod's
//! annotations) marks none.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use compile::{
    AcceptedForms, Compiled, Facts, Kind, Objects, compile,
    facts::{PodFact, ServiceFact, Unlisted},
};
use crds::{LlmEndpoint, LlmEndpointSpec, OllaRoute, common::is_subdomain};
use dataplane_protocol::Secret;

use super::forms::Forms;
pub use super::item::{Decoded, Fact, Item, ServiceEntry, SliceEntry, Source};

#[derive(Debug, Default)]
pub struct Index {
    namespaces: HashMap<String, Namespace>,
    /// Sources whose first list is in.
    listed: HashSet<Source>,
    /// Those whose first list is late.
    given_up: HashSet<Source>,
    dirty: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Namespace {
    endpoints: Forms<LlmEndpoint>,
    routes: Forms<OllaRoute>,
    services: BTreeMap<String, ServiceEntry>,
    slices: BTreeMap<String, SliceEntry>,
    pods: BTreeMap<String, PodFact>,
    secrets: BTreeMap<String, BTreeMap<String, Secret>>,
}

impl Index {
    /// Whether it changed what a table is made of.
    pub fn apply(&mut self, item: Item) -> bool {
        let Item {
            namespace,
            name,
            fact,
        } = item;
        let known = self.namespaces.entry(namespace.clone()).or_default();
        let changed = known.insert(name, fact);
        if changed {
            self.dirty.insert(namespace);
        }
        changed
    }

    /// Whether it changed what a table is made of.
    pub fn delete(&mut self, source: &Source, namespace: &str, name: &str) -> bool {
        let Some(known) = self.namespaces.get_mut(namespace) else {
            return false;
        };
        let changed = known.remove(source, name);
        if changed {
            self.dirty.insert(namespace.to_owned());
        }
        self.drop_if_empty(namespace);
        changed
    }

    /// `items` is all that `source` has: what is missing in it is gone. Marks the source listed.
    pub fn reset(&mut self, source: &Source, items: Vec<Item>) {
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

    /// Sources that this namespace's endpoints need beside our own kinds: their newest forms, and
    /// those that may be in use until these are accepted.
    pub fn needs(&self, namespace: &str) -> BTreeSet<Source> {
        let mut needs = BTreeSet::new();
        let Some(known) = self.namespaces.get(namespace) else {
            return needs;
        };
        for endpoint in known.endpoints.each() {
            add_needs(&endpoint.spec, namespace, &mut needs);
        }
        needs
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
            .filter(|(_, known)| known.occupied())
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

    /// The table of a namespace and the verdicts on its objects. What is accepted is remembered.
    pub fn compile(&mut self, namespace: &str) -> Compiled {
        let mut none = Namespace::default();
        let unlisted = self.unlisted(namespace);
        let known = self.namespaces.get_mut(namespace).unwrap_or(&mut none);
        let facts = known.facts(unlisted);
        let compiled = compile(namespace, &known.objects(), &facts);
        let Namespace {
            endpoints, routes, ..
        } = known;
        endpoints.learn(&compiled.verdicts, Kind::LlmEndpoint);
        routes.learn(&compiled.verdicts, Kind::OllaRoute);
        compiled
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
                .map(|known| known.names(source))
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

impl Namespace {
    /// Whether it changed what a table is made of.
    fn insert(&mut self, name: String, fact: Fact) -> bool {
        match fact {
            Fact::Endpoint(object) => {
                let changed = replace(&mut self.endpoints.newest, name.clone(), object);
                self.endpoints.forget_if_replaced(&name);
                changed
            }
            Fact::Route(object) => {
                let changed = replace(&mut self.routes.newest, name.clone(), object);
                self.routes.forget_if_replaced(&name);
                changed
            }
            Fact::Service(service) => {
                replace(&mut self.services, name.clone(), service) && self.targets(&name)
            }
            Fact::Slice(slice) => {
                let before = self.slices.get(&name).map(|slice| slice.service.clone());
                let used = self.targets(&slice.service)
                    || before.is_some_and(|before| self.targets(&before));
                replace(&mut self.slices, name, slice) && used
            }
            Fact::Pod(pod) => {
                let used =
                    self.selects(&pod) || self.pods.get(&name).is_some_and(|pod| self.selects(pod));
                replace(&mut self.pods, name, pod) && used
            }
            Fact::Secret(values) => replace(&mut self.secrets, name, values),
        }
    }

    fn remove(&mut self, source: &Source, name: &str) -> bool {
        match source {
            Source::Endpoints => self.endpoints.remove(name),
            Source::Routes => self.routes.remove(name),
            Source::Services(_) => self.services.remove(name).is_some() && self.targets(name),
            Source::Slices(_) => {
                let gone = self.slices.remove(name);
                gone.is_some_and(|slice| self.targets(&slice.service))
            }
            Source::Pods(_) => {
                let gone = self.pods.remove(name);
                gone.is_some_and(|pod| self.selects(&pod))
            }
            Source::Secret { .. } => self.secrets.remove(name).is_some(),
        }
    }

    /// Whether some endpoint's target is this Service. Others come and go as they like: nothing
    /// is compiled for them.
    fn targets(&self, service: &str) -> bool {
        let mut targets = self
            .endpoints
            .each()
            .filter_map(|it| it.spec.service.as_ref());
        targets.any(|target| target.name == service)
    }

    /// Whether some endpoint selects this pod.
    fn selects(&self, pod: &PodFact) -> bool {
        let mut targets = self
            .endpoints
            .each()
            .filter_map(|it| it.spec.pod_selector.as_ref());
        targets.any(|target| target.selector.matches(&pod.labels))
    }

    fn names(&self, source: &Source) -> Vec<String> {
        match source {
            Source::Endpoints => self.endpoints.newest.keys().cloned().collect(),
            Source::Routes => self.routes.newest.keys().cloned().collect(),
            Source::Services(_) => self.services.keys().cloned().collect(),
            Source::Slices(_) => self.slices.keys().cloned().collect(),
            Source::Pods(_) => self.pods.keys().cloned().collect(),
            Source::Secret { .. } => self.secrets.keys().cloned().collect(),
        }
    }

    fn occupied(&self) -> bool {
        !self.endpoints.newest.is_empty() || !self.routes.newest.is_empty()
    }

    fn is_empty(&self) -> bool {
        !self.occupied()
            && self.services.is_empty()
            && self.slices.is_empty()
            && self.pods.is_empty()
            && self.secrets.is_empty()
    }

    fn objects(&self) -> Objects {
        let endpoints = self.endpoints.unreadable(Kind::LlmEndpoint);
        let routes = self.routes.unreadable(Kind::OllaRoute);
        Objects {
            endpoints: self.endpoints.readable(),
            routes: self.routes.readable(),
            unreadable: endpoints.chain(routes).collect(),
            accepted: AcceptedForms {
                endpoints: self.endpoints.accepted.clone(),
                routes: self.routes.accepted.clone(),
            },
        }
    }

    fn facts(&self, unlisted: Unlisted) -> Facts {
        Facts {
            unlisted,
            in_cluster: true,
            services: self.services(),
            pods: self.pods.clone(),
            secrets: self.secrets.clone(),
        }
    }

    /// The Services that endpoints name, with their slices.
    fn services(&self) -> BTreeMap<String, ServiceFact> {
        let mut services: BTreeMap<String, ServiceFact> = self
            .endpoints
            .each()
            .filter_map(|endpoint| endpoint.spec.service.as_ref())
            .filter_map(|target| self.services.get_key_value(&target.name))
            .map(|(name, entry)| {
                let fact = ServiceFact {
                    external_name: entry.external_name.clone(),
                    ports: entry.ports.clone(),
                    slices: Vec::new(),
                };
                (name.clone(), fact)
            })
            .collect();
        for entry in self.slices.values() {
            let family = self
                .services
                .get(&entry.service)
                .and_then(|service| service.family.as_ref());
            if family.is_none_or(|family| *family == entry.family)
                && let Some(service) = services.get_mut(&entry.service)
            {
                service.slices.push(entry.slice.clone());
            }
        }
        services
    }
}

fn replace<T: PartialEq>(map: &mut BTreeMap<String, T>, name: String, value: T) -> bool {
    if map.get(&name) == Some(&value) {
        return false;
    }
    map.insert(name, value);
    true
}

fn add_needs(spec: &LlmEndpointSpec, namespace: &str, needs: &mut BTreeSet<Source>) {
    if spec.service.is_some() {
        needs.insert(Source::Services(namespace.to_owned()));
        needs.insert(Source::Slices(namespace.to_owned()));
    }
    if spec.pod_selector.is_some() {
        needs.insert(Source::Pods(namespace.to_owned()));
    }
    let Some(auth) = &spec.auth else { return };
    // The name goes into a field selector. What no Secret can be named is refused by compile, and
    // asking the API server for it would fail for ever.
    for (_, name) in auth.secrets().filter(|(_, name)| is_subdomain(name)) {
        needs.insert(Source::Secret {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests;
