//! What the table has of one endpoint, and how that follows its object and its pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crds::{LlmEndpoint, Port, endpoint::PodSelectorTarget};
use dataplane_protocol::{
    EndpointId, InstanceId, Resource, ResourceKey,
    table::{Instance, Profile},
};

use super::{Namespace, table::TableEntry};
use crate::{
    Form, Kind, Verdict,
    endpoint::{self, EndpointParts},
    instances::{id_of_pod, of_pod, usable_pods},
    profile,
    route::created,
};

/// What is remembered of an endpoint that is in the table.
#[derive(Debug, Default)]
pub(super) struct EndpointState {
    pub(super) accepted: bool,
    profiles: Vec<Arc<Profile>>,
    instances: BTreeSet<InstanceId>,
    /// Present if these are the pods that it selects.
    pods: Option<PodSelectorTarget>,
}

/// Whether it has all that the endpoint is made of.
fn is_known(part: Option<&EndpointParts>) -> bool {
    part.is_some_and(|part| part.known.is_some())
}

fn instances_of(part: Option<&EndpointParts>) -> usize {
    let known = part.and_then(|part| part.known.as_ref());
    known.map_or(0, |(_, instances)| instances.len())
}

impl EndpointState {
    pub(super) fn has_instances(&self) -> bool {
        !self.instances.is_empty()
    }
}

impl Namespace {
    /// Makes these endpoints anew. Whether one is accepted now that was not, or the other way
    /// round.
    pub(super) fn build(&mut self, names: BTreeSet<String>) -> bool {
        if names.is_empty() {
            return false;
        }
        let made: Vec<_> = {
            let usable = usable_pods(&self.facts);
            let mut taken = self.instances;
            self.oldest_first(names)
                .into_iter()
                .map(|name| {
                    taken -= self.built.get(&name).map_or(0, |it| it.instances.len());
                    let room = self.most_instances.saturating_sub(taken);
                    let made = self.compile_forms(&name, |object| {
                        endpoint::compile(object, &self.facts, &usable, room)
                    });
                    taken += made
                        .as_ref()
                        .map_or(0, |(_, part)| instances_of(part.as_ref()));
                    (name, made)
                })
                .collect()
        };
        let mut changed = false;
        for (name, made) in made {
            let before = (self.is_accepted(&name), self.offer(&name));
            match made {
                Some((verdict, part)) => self.take(&name, verdict, part),
                None => self.drop_endpoint(&name),
            }
            changed |= self.is_accepted(&name) != before.0;
            if self.offer(&name) != before.1 {
                self.reach.changed.insert(name);
            }
        }
        changed
    }

    /// After a restart the same ones have room that had it before.
    fn oldest_first(&self, names: BTreeSet<String>) -> Vec<String> {
        let mut names: Vec<String> = names.into_iter().collect();
        if names.len() > 1 {
            names.sort_by_cached_key(|name| {
                let object = self.endpoints.newest.get(name).and_then(Form::object);
                let created = object.and_then(|object| created(&object.metadata));
                (created.is_none(), created)
            });
        }
        names
    }

    /// Room that has become free goes to endpoints that had too little. As [`build`](Self::build).
    pub(super) fn fill(&mut self) -> bool {
        let mut changed = false;
        while self.instances < self.most_instances
            && let Some(name) = self.cut.pop_first()
        {
            changed |= self.build([name.clone()].into());
            if self.cut.contains(&name) {
                break;
            }
        }
        changed
    }

    /// Whether a form of the endpoint is in the table.
    pub(super) fn is_accepted(&self, name: &str) -> bool {
        self.built.get(name).is_some_and(|built| built.accepted)
    }

    fn drop_endpoint(&mut self, name: &str) {
        self.drop_verdict(Kind::LlmEndpoint, name);
        let none = Some(BTreeMap::new());
        self.place(name, TableEntry::Nothing, none, EndpointState::default());
        self.built.remove(name);
        self.cut.remove(name);
    }

    /// By its newest form or, where that is refused or waits for a list, by the one that was
    /// accepted last; nothing if it is gone.
    fn compile_forms(
        &self,
        name: &str,
        compile: impl Fn(&LlmEndpoint) -> (Verdict, Option<EndpointParts>),
    ) -> Option<(Verdict, Option<EndpointParts>)> {
        let (mut verdict, mut part) = match self.endpoints.newest.get(name)? {
            Form::Object(object) => compile(object),
            Form::Unreadable(object) => (Verdict::unreadable(object), None),
        };
        if !is_known(part.as_ref())
            && let Some(older) = self.endpoints.accepted.get(name)
            && older.metadata.generation != Some(verdict.generation)
        {
            let older = compile(older);
            if part.is_none() || is_known(older.1.as_ref()) {
                part = older.1;
                verdict = verdict.with_in_use(&older.0);
            }
        }
        Some((verdict, part))
    }

    fn take(&mut self, name: &str, verdict: Verdict, part: Option<EndpointParts>) {
        // One that waits for a list takes the place of none that does not.
        let is_first = !self.endpoints.accepted.contains_key(name);
        if verdict.accepted.is_ok()
            && (is_first || verdict.in_use.is_none() && is_known(part.as_ref()))
            && let Some(object) = self.endpoints.newest.get(name).and_then(Form::object)
        {
            let accepted = object.clone();
            self.endpoints.accepted.insert(name.to_owned(), accepted);
            self.note_uses(name);
        }
        if part.as_ref().is_some_and(|part| part.is_cut) {
            self.cut.insert(name.to_owned());
        } else {
            self.cut.remove(name);
        }
        match part {
            Some(part) => {
                let (endpoint, instances) = part.known.unzip();
                let endpoint = endpoint.map_or(TableEntry::Unknown, |endpoint| {
                    TableEntry::Known(Resource::Endpoint(Arc::new(endpoint)))
                });
                let instances = instances.map(|list| {
                    let by_id = list.into_iter().map(|it| (it.id.clone(), it));
                    by_id.collect::<BTreeMap<_, _>>()
                });
                let built = EndpointState {
                    accepted: true,
                    profiles: profile::with_detected(&part.profile).collect(),
                    instances: BTreeSet::new(),
                    pods: part.pods,
                };
                self.place(name, endpoint, instances, built);
            }
            None => self.place(name, TableEntry::Unknown, None, EndpointState::default()),
        }
        self.put_verdict(verdict);
    }

    /// `instances`: those that it has now; `None` if they are not known.
    fn place(
        &mut self,
        name: &str,
        endpoint: TableEntry,
        instances: Option<BTreeMap<InstanceId, Instance>>,
        mut built: EndpointState,
    ) {
        let id = EndpointId::from(name);
        if matches!(endpoint, TableEntry::Known(_)) {
            self.endpoints.note_used(name);
        }
        let unknown = self.endpoints.may_be_in_use(name);
        let or_nothing = |entry| match entry {
            TableEntry::Unknown if !unknown => TableEntry::Nothing,
            entry => entry,
        };
        self.put(ResourceKey::Endpoint(id.clone()), or_nothing(endpoint));
        let before = self.built.remove(name).unwrap_or_default();
        let known = instances.is_some();
        let instances = instances.unwrap_or_default();
        for gone in before
            .instances
            .iter()
            .filter(|gone| !instances.contains_key(*gone))
        {
            let key = ResourceKey::Instance(id.clone(), gone.clone());
            self.put(key, TableEntry::Nothing);
        }
        let all = if known {
            TableEntry::Nothing
        } else {
            TableEntry::Unknown
        };
        self.put(ResourceKey::Instances(id.clone()), or_nothing(all));
        built.instances = instances.keys().cloned().collect();
        self.instances -= before.instances.len();
        self.instances += built.instances.len();
        for instance in instances.into_values() {
            self.put_instance(&id, instance);
        }
        self.count_profiles(&before.profiles, &built.profiles);
        self.built.insert(name.to_owned(), built);
    }

    /// These pods have changed, and nothing else that the endpoint depends on. False where more than
    /// these pods is to be looked at.
    pub(super) fn move_pods(&mut self, name: &str, pods: &BTreeSet<String>) -> bool {
        let before = self.offer(name);
        let Some(mut built) = self.built.remove(name) else {
            return false;
        };
        let mut target = built.pods.clone();
        let count = built.instances.len();
        if let Some(target) = &target {
            let endpoint = EndpointId::from(name);
            for pod in pods {
                let fact = self.facts.pods.get(pod);
                let instance = fact.and_then(|fact| of_pod(name, target, pod, fact));
                let id = id_of_pod(name, pod);
                if let Some(instance) = instance {
                    self.put_instance(&endpoint, instance);
                    built.instances.insert(id);
                } else if built.instances.remove(&id) {
                    let key = ResourceKey::Instance(endpoint.clone(), id);
                    self.put(key, TableEntry::Nothing);
                }
            }
            let key = (Kind::LlmEndpoint, name.to_owned());
            if let Some(verdict) = self.verdicts.get(&key) {
                let instances = built.instances.len() as u32;
                self.put_verdict(Verdict {
                    instances,
                    ..verdict.clone()
                });
            }
        }
        self.instances -= count;
        self.instances += built.instances.len();
        if self.instances > self.most_instances {
            target = None;
        }
        // Of a named port that no pod has, more is to be said.
        let moved = target.is_some_and(|target| {
            !built.instances.is_empty() || matches!(target.port, Port::Number(_))
        });
        self.built.insert(name.to_owned(), built);
        if self.offer(name) != before {
            self.reach.changed.insert(name.to_owned());
        }
        moved
    }

    fn put_instance(&mut self, endpoint: &EndpointId, instance: Instance) {
        let key = ResourceKey::Instance(endpoint.clone(), instance.id.clone());
        let resource = Resource::Instance {
            endpoint: endpoint.clone(),
            instance: Arc::new(instance),
        };
        self.put(key, TableEntry::Known(resource));
    }

    fn count_profiles(&mut self, before: &[Arc<Profile>], now: &[Arc<Profile>]) {
        for profile in now {
            *self.profiles.entry(profile.name.clone()).or_default() += 1;
            let key = ResourceKey::Profile(profile.name.clone());
            self.put(key, TableEntry::Known(Resource::Profile(profile.clone())));
        }
        for profile in before {
            let count = self.profiles.entry(profile.name.clone()).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.profiles.remove(&profile.name);
                self.put(
                    ResourceKey::Profile(profile.name.clone()),
                    TableEntry::Nothing,
                );
            }
        }
    }
}
