//! Which endpoints depend on what. In: each endpoint's specs. Out: the endpoints that a changed
//! Service, Secret or pod concerns, without a look at the others.

use std::collections::{BTreeMap, BTreeSet};

use crds::LlmEndpointSpec;

type Labels = BTreeMap<String, String>;

/// Something that an endpoint depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dependency {
    Service(String),
    Secret(String),
    /// Pods with this label; a selector stands under one of its labels.
    Label(String, String),
    /// Pods that a selector picks without naming a label's value.
    AnyPod,
}

/// Names of endpoints by what they use, and the other way round.
#[derive(Debug, Default)]
pub(crate) struct Dependencies {
    users: BTreeMap<Dependency, BTreeSet<String>>,
    of: BTreeMap<String, BTreeSet<Dependency>>,
    version: u64,
}

impl Dependencies {
    /// `specs`: all forms of the endpoint that may be in use; none when it is gone.
    pub(crate) fn set<'a>(
        &mut self,
        endpoint: &str,
        specs: impl Iterator<Item = &'a LlmEndpointSpec>,
    ) {
        let uses: BTreeSet<Dependency> = specs.flat_map(uses_of).collect();
        let before = self.of.remove(endpoint).unwrap_or_default();
        self.version += u64::from(uses != before);
        for gone in before.difference(&uses) {
            if let Some(users) = self.users.get_mut(gone) {
                users.remove(endpoint);
                if users.is_empty() {
                    self.users.remove(gone);
                }
            }
        }
        for used in uses.difference(&before) {
            let users = self.users.entry(used.clone()).or_default();
            users.insert(endpoint.to_owned());
        }
        if !uses.is_empty() {
            self.of.insert(endpoint.to_owned(), uses);
        }
    }

    pub(crate) fn users<'s>(
        &'s self,
        used: &Dependency,
    ) -> impl Iterator<Item = &'s str> + use<'s> {
        let users = self.users.get(used);
        users.into_iter().flatten().map(String::as_str)
    }

    /// Endpoints that may select a pod with these labels, and no others with such a selector.
    pub(crate) fn may_select<'s>(&'s self, labels: &'s Labels) -> impl Iterator<Item = &'s str> {
        labels
            .iter()
            .flat_map(|(key, value)| self.users(&Dependency::Label(key.clone(), value.clone())))
            .chain(self.users(&Dependency::AnyPod))
    }

    /// Grows when something is used that was not, or not any more.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn services(&self) -> bool {
        let first = self.users.keys().next();
        matches!(first, Some(Dependency::Service(_)))
    }

    pub(crate) fn pods(&self) -> bool {
        let last = self.users.keys().next_back();
        matches!(last, Some(Dependency::Label(..) | Dependency::AnyPod))
    }

    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        let secrets = self.users.range(Dependency::Secret(String::new())..);
        secrets.map_while(|(used, _)| match used {
            Dependency::Secret(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

fn uses_of(spec: &LlmEndpointSpec) -> Vec<Dependency> {
    let mut uses = Vec::new();
    if let Some(target) = &spec.service {
        uses.push(Dependency::Service(target.name.clone()));
    }
    if let Some(target) = &spec.pod_selector {
        // Any label will do: a pod that fits has them all.
        let label = target.selector.match_labels.first_key_value();
        uses.push(label.map_or(Dependency::AnyPod, |(key, value)| {
            Dependency::Label(key.clone(), value.clone())
        }));
    }
    let secrets = spec.auth.iter().flat_map(crds::auth::AuthSpec::secrets);
    uses.extend(secrets.map(|(_, name)| Dependency::Secret(name.to_owned())));
    uses
}
