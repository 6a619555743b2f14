//! The objects and facts of one namespace, and the table that they make, kept up to date change by
//! change: what does not depend on a change is not looked at again.
//!
//! ```text
//! set_endpoint, set_pod, … ─▶ stale ─▶ update ─▶ resources and verdicts, and which of them changed
//! ```

mod endpoints;
mod reachability;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use crds::{LlmEndpoint, OllaRoute};
use dataplane_protocol::{ResourceKey, RouteId, SetId, resource::ResourceSet};

use self::{endpoints::EndpointState, reachability::Reachability, table::TableEntry};
use crate::{
    Facts, Form, Kind,
    conflicts::Routes,
    dependencies::{Dependencies, Dependency},
    facts::{PodFact, SecretFact, ServiceFact, ServicePort, SliceFact, Unlisted},
    form::{Forms, SetOutcome},
    instances::MOST_INSTANCES,
    verdict::Verdicts,
};

/// Whatever order its objects and facts were set in, it makes what
/// [`compile`](crate::compile()) makes of them, but for forms that were accepted before.
#[derive(Debug)]
pub struct Namespace {
    endpoints: Forms<LlmEndpoint>,
    routes: Forms<OllaRoute>,
    facts: Facts,
    services: BTreeMap<String, Service>,
    slices: BTreeMap<String, Slice>,
    /// Names of slices by Service.
    slices_of: BTreeMap<String, BTreeSet<String>>,
    uses: Dependencies,
    stale: Stale,
    built: BTreeMap<String, EndpointState>,
    /// Of all endpoints.
    instances: usize,
    most_instances: usize,
    /// Endpoints that had no room for all of theirs.
    cut: BTreeSet<String>,
    candidates: Routes,
    sets: BTreeSet<SetId>,
    reach: Reachability,
    /// How many endpoints use each.
    profiles: BTreeMap<String, usize>,
    resources: ResourceSet,
    verdicts: Verdicts,
    updated: Changes,
}

/// A Service without its slices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub ports: Vec<ServicePort>,
    /// Of type ExternalName: the name outside of the cluster.
    pub external_name: Option<String>,
    /// `IPv4` or `IPv6`: the Service's first family. Slices of the other one hold the same pods
    /// again, and count only where this one has no address.
    pub family: Option<String>,
}

/// An EndpointSlice of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    pub service: String,
    pub family: String,
    pub slice: Arc<SliceFact>,
}

/// What an update has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub resources: BTreeSet<ResourceKey>,
    pub verdicts: BTreeSet<(Kind, String)>,
}

/// What is to be looked at again.
#[derive(Debug, Default)]
struct Stale {
    endpoints: BTreeSet<String>,
    /// Of endpoints that have not changed otherwise.
    pods: BTreeMap<String, BTreeSet<String>>,
    routes: bool,
    /// Endpoints that came or went, or their labels.
    sets: bool,
}

impl Namespace {
    /// `in_cluster`: as [`Facts::in_cluster`].
    pub fn new(in_cluster: bool) -> Self {
        Self::with(Facts {
            in_cluster,
            ..Facts::default()
        })
    }

    pub(crate) fn with(facts: Facts) -> Self {
        Self {
            endpoints: Forms::default(),
            routes: Forms::default(),
            facts,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            uses: Dependencies::default(),
            stale: Stale::default(),
            built: BTreeMap::new(),
            instances: 0,
            most_instances: MOST_INSTANCES,
            cut: BTreeSet::new(),
            candidates: Routes::default(),
            sets: BTreeSet::new(),
            reach: Reachability::default(),
            profiles: BTreeMap::new(),
            resources: ResourceSet::default(),
            verdicts: Verdicts::default(),
            updated: Changes::default(),
        }
    }

    /// `None` deletes it, as with all that can be set. Whether the table or a verdict may be
    /// another now.
    pub fn set_endpoint(&mut self, name: &str, form: Option<Form<LlmEndpoint>>) -> bool {
        let labels = form.as_ref().map(|form| form.labels().cloned());
        let SetOutcome::Changed(before) = self.endpoints.set(name, form) else {
            return false;
        };
        let before = before.as_ref().map(|form| form.labels().cloned());
        self.stale.sets |= before != labels;
        self.note_uses(name);
        self.stale.endpoints.insert(name.to_owned());
        true
    }

    pub fn set_route(&mut self, name: &str, form: Option<Form<OllaRoute>>) -> bool {
        let SetOutcome::Changed(_) = self.routes.set(name, form) else {
            return false;
        };
        match self.routes.newest.get(name) {
            Some(form) => {
                let may_be_in_use = self.routes.may_be_in_use(name);
                self.candidates.set(name, form, may_be_in_use);
            }
            None => {
                self.candidates.delete(name);
                self.put(ResourceKey::Route(RouteId::from(name)), TableEntry::Nothing);
                self.drop_verdict(Kind::OllaRoute, name);
            }
        }
        self.stale.routes = true;
        true
    }

    /// The object that is set next has been made since all others were set: no data plane has a form
    /// of it. Without this, one that is refused is taken for one that may have been accepted before
    /// this process looked at it.
    pub fn note_created(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::LlmEndpoint => self.endpoints.note_created(name),
            Kind::OllaRoute => self.routes.note_created(name),
        }
    }

    /// Of a route that is set next, for the first time: its status says that this generation lost
    /// its requests to another route.
    pub fn note_lost_route(&mut self, name: &str, generation: i64) {
        self.candidates.note_lost(name, generation);
    }

    pub fn set_service(&mut self, name: &str, service: Option<Service>) -> bool {
        if self.services.get(name) == service.as_ref() {
            return false;
        }
        match service {
            Some(service) => self.services.insert(name.to_owned(), service),
            None => self.services.remove(name),
        };
        self.service_changed(name)
    }

    pub fn set_slice(&mut self, name: &str, slice: Option<Slice>) -> bool {
        if self.slices.get(name) == slice.as_ref() {
            return false;
        }
        let now = slice.as_ref().map(|slice| slice.service.clone());
        let before = match slice {
            Some(slice) => self.slices.insert(name.to_owned(), slice),
            None => self.slices.remove(name),
        };
        let before = before.map(|slice| slice.service);
        if let Some(before) = before
            .as_ref()
            .filter(|before| Some(*before) != now.as_ref())
            && let Some(slices) = self.slices_of.get_mut(before)
        {
            slices.remove(name);
            if slices.is_empty() {
                self.slices_of.remove(before);
            }
        }
        if let Some(now) = &now {
            let slices = self.slices_of.entry(now.clone()).or_default();
            slices.insert(name.to_owned());
        }
        let concerned: BTreeSet<String> = before.into_iter().chain(now).collect();
        let concerned = concerned.iter();
        concerned.fold(false, |used, service| self.service_changed(service) | used)
    }

    pub fn set_pod(&mut self, name: &str, pod: Option<PodFact>) -> bool {
        if self.facts.pods.get(name) == pod.as_ref() {
            return false;
        }
        let before = match pod.clone() {
            Some(pod) => self.facts.pods.insert(name.to_owned(), pod),
            None => self.facts.pods.remove(name),
        };
        let mut users = BTreeSet::new();
        for pod in before.iter().chain(&pod) {
            let may = self.uses.may_select(&pod.labels);
            let select = may.filter(|endpoint| self.selects(endpoint, pod));
            users.extend(select.map(str::to_owned));
        }
        let used = !users.is_empty();
        for endpoint in users {
            let pods = self.stale.pods.entry(endpoint).or_default();
            pods.insert(name.to_owned());
        }
        used
    }

    pub fn set_secret(&mut self, name: &str, secret: Option<SecretFact>) -> bool {
        if self.facts.secrets.get(name) == secret.as_ref() {
            return false;
        }
        match secret {
            Some(secret) => self.facts.secrets.insert(name.to_owned(), secret),
            None => self.facts.secrets.remove(name),
        };
        self.users_are_stale(&Dependency::Secret(name.to_owned()))
    }

    /// What is not known at all, until it is.
    pub fn set_unlisted(&mut self, unlisted: Unlisted) {
        if self.facts.unlisted != unlisted {
            self.facts.unlisted = unlisted;
            self.stale
                .endpoints
                .extend(self.endpoints.newest.keys().cloned());
        }
    }

    /// Makes of what was set since the last time the table that it means.
    pub fn update(&mut self) -> Changes {
        let stale = mem::take(&mut self.stale);
        let (moved, mut made) = (stale.pods, stale.endpoints);
        let moved = moved.into_iter();
        let moved: Vec<_> = moved
            .filter(|(endpoint, _)| !made.contains(endpoint))
            .collect();
        for (endpoint, pods) in moved {
            if !self.move_pods(&endpoint, &pods) {
                made.insert(endpoint);
            }
        }
        let mut accepted = self.build(made);
        accepted |= self.fill();
        let chosen = stale.routes || stale.sets;
        let judged = if chosen || accepted {
            self.judge_routes(accepted, stale.sets)
        } else {
            Vec::new()
        };
        if chosen {
            self.choose_sets(stale.sets);
        }
        let sets = self.weigh_sets(chosen);
        self.place_routes(judged);
        self.judge_reach(&sets);
        mem::take(&mut self.updated)
    }

    pub fn resources(&self) -> &ResourceSet {
        &self.resources
    }

    pub fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    /// Grows when its endpoints use something that they did not use, or not any more.
    pub fn uses_version(&self) -> u64 {
        self.uses.version()
    }

    /// Whether an endpoint has a Service as its target, by a form that may be in use.
    pub fn uses_services(&self) -> bool {
        self.uses.services()
    }

    /// Whether an endpoint selects pods.
    pub fn uses_pods(&self) -> bool {
        self.uses.pods()
    }

    /// Secrets that endpoints name.
    pub fn used_secrets(&self) -> impl Iterator<Item = &str> {
        self.uses.secrets()
    }

    /// Whether it holds an object of ours.
    pub fn is_occupied(&self) -> bool {
        !self.endpoints.newest.is_empty() || !self.routes.newest.is_empty()
    }

    /// Whether nothing is in it nor in its table.
    pub fn is_empty(&self) -> bool {
        !self.is_occupied()
            && self.resources.is_empty()
            && self.services.is_empty()
            && self.slices.is_empty()
            && self.facts.pods.is_empty()
            && self.facts.secrets.is_empty()
    }

    pub fn endpoint_names(&self) -> impl Iterator<Item = &str> {
        self.endpoints.newest.keys().map(String::as_str)
    }

    pub fn route_names(&self) -> impl Iterator<Item = &str> {
        self.routes.newest.keys().map(String::as_str)
    }

    pub fn service_names(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    pub fn slice_names(&self) -> impl Iterator<Item = &str> {
        self.slices.keys().map(String::as_str)
    }

    pub fn pod_names(&self) -> impl Iterator<Item = &str> {
        self.facts.pods.keys().map(String::as_str)
    }

    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.facts.secrets.keys().map(String::as_str)
    }

    fn note_uses(&mut self, name: &str) {
        let forms = self.endpoints.of(name);
        self.uses.set(name, forms.map(|endpoint| &endpoint.spec));
    }

    /// Whether a form of the endpoint that may be in use selects the pod.
    fn selects(&self, endpoint: &str, pod: &PodFact) -> bool {
        let mut targets = (self.endpoints.of(endpoint))
            .filter_map(|endpoint| endpoint.spec.pod_selector.as_ref());
        targets.any(|target| target.selector.matches(&pod.labels))
    }

    /// Whether some endpoint's target is this Service.
    fn service_changed(&mut self, name: &str) -> bool {
        match self.services.get(name) {
            Some(service) => {
                let slices = self.slices_of.get(name).into_iter().flatten();
                let slices = slices.filter_map(|name| self.slices.get(name));
                let slices: Vec<&Slice> = slices.collect();
                let is_first = |it: &&Slice| service.family.as_ref() == Some(&it.family);
                let has_address = |it: &Slice| !it.slice.addresses.is_empty();
                let first = slices.iter().any(|it| is_first(it) && has_address(it));
                let slices = slices.into_iter().filter(|it| !first || is_first(it));
                let fact = ServiceFact {
                    external_name: service.external_name.clone(),
                    ports: service.ports.clone(),
                    slices: slices.map(|it| it.slice.clone()).collect(),
                };
                self.facts.services.insert(name.to_owned(), fact);
            }
            None => {
                self.facts.services.remove(name);
            }
        }
        self.users_are_stale(&Dependency::Service(name.to_owned()))
    }

    /// Whether there are any.
    fn users_are_stale(&mut self, used: &Dependency) -> bool {
        let mut users = self.uses.users(used).map(str::to_owned).peekable();
        let any = users.peek().is_some();
        self.stale.endpoints.extend(users);
        any
    }
}

#[cfg(test)]
mod tests;
