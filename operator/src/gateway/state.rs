//! What is known of all gateways, and what is to be done about each. In: changes of the cluster's
//! objects, what became of writes, and whether a namespace has routes. Out: orders and statuses.
//! Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use crds::{OllaGatewayStatus, gateway::DataPlaneCounts};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::{
    plan::{Order, Plan, plan},
    render::{Child, ChildKind, render},
    settings::{Effective, Settings},
    status::{self, Facts},
    watch::{Change, ChildObject, GatewayObject, Key, Update},
    write::Written,
};

/// After a write that failed, doubled with each further one.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_mins(5);

/// What routes a namespace has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// Not known yet.
    Unknown,
    None,
    /// Some, and all of them are refused.
    Refused,
    InUse,
}

#[derive(Debug)]
pub struct State {
    settings: Settings,
    /// From a namespace's last route to the end of its gateway.
    removal_delay: Duration,
    gateways: BTreeMap<String, BTreeMap<String, Box<GatewayObject>>>,
    /// Namespaces that keep gateways out.
    disabled: BTreeSet<String>,
    children: HashMap<String, BTreeMap<ChildKind, ChildObject>>,
    progress: HashMap<String, Progress>,
    unlisted: BTreeSet<&'static str>,
    dirty: BTreeSet<String>,
}

/// Of one namespace.
#[derive(Debug, Default)]
struct Progress {
    /// Versions of what is known to be as it was applied.
    checked: BTreeMap<ChildKind, String>,
    /// Since when it has no route.
    unrouted: Option<Instant>,
    failure: Option<Failure>,
}

#[derive(Clone, Debug)]
struct Failure {
    problem: String,
    pause: Duration,
    until: Instant,
}

/// What is to be done about one namespace.
#[derive(Debug, Default)]
pub struct Decision {
    pub orders: Vec<Order>,
    /// When to look again, if nothing changes.
    pub again: Option<Instant>,
    off: Option<&'static str>,
    in_the_way: Vec<ChildKind>,
    refusal: Option<String>,
    tls: bool,
}

impl State {
    pub fn new(settings: Settings, removal_delay: Duration) -> Self {
        let kinds = ChildKind::ALL.map(ChildKind::as_str);
        let unlisted = kinds.into_iter().chain(["OllaGateway", "Namespace"]);
        Self {
            settings,
            removal_delay,
            gateways: BTreeMap::new(),
            disabled: BTreeSet::new(),
            children: HashMap::new(),
            progress: HashMap::new(),
            unlisted: unlisted.collect(),
            dirty: BTreeSet::new(),
        }
    }

    /// Whether all is listed that decisions are made of.
    pub fn is_listed(&self) -> bool {
        self.unlisted.is_empty()
    }

    pub fn take(&mut self, change: Change) {
        let dirty = &mut self.dirty;
        match change {
            Change::Gateway(update) => {
                let listed = "OllaGateway";
                self.unlisted
                    .retain(|it| *it != listed || !is_list(&update));
                take(&mut self.gateways, update, dirty);
            }
            Change::Namespace(update) => {
                self.unlisted
                    .retain(|it| *it != "Namespace" || !is_list(&update));
                let mut set = |(_, name): Key, disabled: bool| {
                    let changed = if disabled {
                        self.disabled.insert(name.clone())
                    } else {
                        self.disabled.remove(&name)
                    };
                    if changed {
                        dirty.insert(name);
                    }
                };
                match update {
                    Update::Apply(key, disabled) => set(key, disabled),
                    Update::Delete(key) => set(key, false),
                    Update::Reset(list) => list.into_iter().for_each(|(key, it)| set(key, it)),
                }
            }
            Change::Child(kind, update) => {
                self.unlisted
                    .retain(|it| *it != kind.as_str() || !is_list(&update));
                let mut set = |namespace: String, child: Option<ChildObject>| {
                    let children = self.children.entry(namespace.clone()).or_default();
                    match child {
                        Some(child) => children.insert(kind, child),
                        None => children.remove(&kind),
                    };
                    dirty.insert(namespace);
                };
                match update {
                    Update::Apply((namespace, _), child) => set(namespace, Some(child)),
                    Update::Delete((namespace, _)) => set(namespace, None),
                    Update::Reset(list) => {
                        let present: BTreeSet<String> = list
                            .iter()
                            .map(|((namespace, _), _)| namespace.clone())
                            .collect();
                        for (namespace, child) in list {
                            set(namespace.0, Some(child));
                        }
                        let gone: Vec<String> = self
                            .children
                            .iter()
                            .filter(|(namespace, children)| {
                                children.contains_key(&kind) && !present.contains(*namespace)
                            })
                            .map(|(namespace, _)| namespace.clone())
                            .collect();
                        for namespace in gone {
                            if let Some(children) = self.children.get_mut(&namespace) {
                                children.remove(&kind);
                            }
                            dirty.insert(namespace);
                        }
                    }
                }
                self.children.retain(|_, children| !children.is_empty());
            }
        }
    }

    /// Namespaces that changed since the last time.
    pub fn take_dirty(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.dirty)
    }

    pub fn mark(&mut self, namespace: &str) {
        self.dirty.insert(namespace.to_owned());
    }

    /// All that are to be looked at when nothing is known of what changed.
    pub fn namespaces(&self) -> BTreeSet<String> {
        let named = self.gateways.keys().chain(self.children.keys());
        named.chain(self.progress.keys()).cloned().collect()
    }

    /// Those with an OllaGateway.
    pub fn with_object(&self) -> impl Iterator<Item = &str> {
        self.gateways.keys().map(String::as_str)
    }

    /// Somebody may have changed what no watch tells of.
    pub fn recheck(&mut self) {
        for progress in self.progress.values_mut() {
            progress.checked.clear();
        }
        self.dirty.extend(self.children.keys().cloned());
    }

    pub fn note_written(&mut self, written: Written, now: Instant) {
        let progress = self.progress.entry(written.namespace.clone()).or_default();
        let children = self.children.entry(written.namespace.clone()).or_default();
        for (kind, now) in written.now {
            match now {
                Some(now) => {
                    progress.checked.insert(kind, now.seen.version.clone());
                    children.insert(kind, now);
                }
                None => {
                    progress.checked.remove(&kind);
                    children.remove(&kind);
                }
            }
        }
        if children.is_empty() {
            self.children.remove(&written.namespace);
        }
        progress.failure = written.problem.map(|problem| {
            let last = progress.failure.as_ref().map(|failure| failure.pause * 2);
            let pause = last.map_or(RETRY, |pause| pause.min(MAX_RETRY));
            let until = now + pause;
            Failure {
                problem,
                pause,
                until,
            }
        });
        self.dirty.insert(written.namespace);
    }

    /// Why the last write in the namespace failed.
    pub fn problem(&self, namespace: &str) -> Option<&str> {
        let failure = self.progress.get(namespace)?.failure.as_ref()?;
        Some(&failure.problem)
    }

    pub fn decide(&mut self, namespace: &str, routes: Routes, now: Instant) -> Decision {
        let own = self.oldest(namespace).map(|(_, object)| object);
        let spec = match own.map(|own| own.spec.as_ref()).transpose() {
            Ok(spec) => spec,
            Err(problem) => return Decision::refused(problem.clone()),
        };
        let effective = match self.settings.effective(spec) {
            Ok(effective) => effective,
            Err(refusal) => {
                return Decision::refused(format!("{}: {}", refusal.field, refusal.message));
            }
        };
        let has_gateway = self.has_gateway(namespace);
        let progress = self.progress.entry(namespace.to_owned()).or_default();
        let mut again = None;
        let off = if self.disabled.contains(namespace) {
            Some("the namespace is labelled olla.dev/gateway: disabled")
        } else if effective.spec.enabled == Some(false) {
            Some("spec.enabled is false")
        } else {
            None
        };
        if routes != Routes::None {
            progress.unrouted = None;
        }
        let (off, desired) = match (off, routes) {
            (Some(off), _) => (Some(off), Vec::new()),
            (None, Routes::InUse) => (None, self.rendered(namespace, &effective)),
            (None, Routes::None) => {
                let since = *progress.unrouted.get_or_insert(now);
                let ends = since + self.removal_delay;
                let stays = has_gateway && now < ends;
                again = stays.then_some(ends);
                let desired = if stays {
                    self.rendered(namespace, &effective)
                } else {
                    Vec::new()
                };
                (Some(NO_ROUTE), desired)
            }
            // Whether it had a gateway is all that is known.
            (None, Routes::Unknown | Routes::Refused) if has_gateway => {
                (None, self.rendered(namespace, &effective))
            }
            (None, Routes::Unknown | Routes::Refused) => (Some(NO_ROUTE), Vec::new()),
        };
        let seen = self.children.get(namespace).into_iter().flatten();
        let seen = seen
            .map(|(kind, child)| (*kind, child.seen.clone()))
            .collect();
        let progress = self.progress.entry(namespace.to_owned()).or_default();
        let Plan {
            mut orders,
            in_the_way,
        } = plan(&desired, &seen, &progress.checked);
        if let Some(failure) = progress.failure.as_ref().filter(|it| now < it.until) {
            if !orders.is_empty() {
                again = Some(again.map_or(failure.until, |at: Instant| at.min(failure.until)));
            }
            orders.clear();
        } else if orders.is_empty() {
            progress.failure = None;
        }
        if desired.is_empty() && orders.is_empty() && seen.is_empty() {
            self.progress.remove(namespace);
        }
        Decision {
            orders,
            again,
            off,
            in_the_way,
            refusal: None,
            tls: effective.spec.tls.is_some(),
        }
    }

    /// What the statuses of the namespace's OllaGateways should be, where they are not; by name.
    pub fn statuses(
        &self,
        namespace: &str,
        decision: &Decision,
        data_planes: &DataPlaneCounts,
        now: Timestamp,
    ) -> Vec<(String, OllaGatewayStatus)> {
        let Some((oldest, _)) = self.oldest(namespace) else {
            return Vec::new();
        };
        let none = BTreeMap::new();
        let children = self.children.get(namespace).unwrap_or(&none);
        let of = |kind| children.get(&kind).cloned().unwrap_or_default();
        let (deployment, service) = (of(ChildKind::Deployment), of(ChildKind::Service));
        let problem = self.problem(namespace).map(str::to_owned);
        let objects = self.gateways.get(namespace).into_iter().flatten();
        let desired = objects.map(|(name, object)| {
            let facts = Facts {
                generation: object.generation,
                older: (name != oldest).then_some(oldest),
                refusal: decision.refusal.clone(),
                off: decision.off,
                in_the_way: &decision.in_the_way,
                is_written: decision.orders.is_empty() && problem.is_none(),
                problem: problem.clone(),
                pods: deployment.pods,
                scheme: if decision.tls { "https" } else { "http" },
                load_balancers: &service.load_balancers,
                data_planes: Some(data_planes.clone()),
            };
            let status = status::desired(namespace, &facts, &object.status, now);
            (name, object, status)
        });
        let differs = desired.filter(|(_, object, status)| object.status != *status);
        differs
            .map(|(name, _, status)| (name.clone(), status))
            .collect()
    }

    fn rendered(&self, namespace: &str, effective: &Effective) -> Vec<Child> {
        render(namespace, effective, &self.settings)
    }

    fn has_gateway(&self, namespace: &str) -> bool {
        let children = self.children.get(namespace);
        let deployment = children.and_then(|children| children.get(&ChildKind::Deployment));
        deployment.is_some_and(|child| child.seen.ours)
    }

    /// The OllaGateway that counts; of two of one second the first by name.
    fn oldest(&self, namespace: &str) -> Option<(&str, &GatewayObject)> {
        let objects = self.gateways.get(namespace)?.iter();
        let oldest = objects.min_by_key(|(_, object)| object.created);
        oldest.map(|(name, object)| (name.as_str(), &**object))
    }
}

const NO_ROUTE: &str = "the namespace has no OllaRoute that is accepted";

impl Decision {
    /// What runs stays as it is.
    fn refused(problem: String) -> Self {
        Self {
            refusal: Some(problem),
            ..Self::default()
        }
    }
}

fn is_list<T>(update: &Update<T>) -> bool {
    matches!(update, Update::Reset(_))
}

fn take(
    known: &mut BTreeMap<String, BTreeMap<String, Box<GatewayObject>>>,
    update: Update<Box<GatewayObject>>,
    dirty: &mut BTreeSet<String>,
) {
    match update {
        Update::Apply((namespace, name), object) => {
            let objects = known.entry(namespace.clone()).or_default();
            objects.insert(name, object);
            dirty.insert(namespace);
        }
        Update::Delete((namespace, name)) => {
            if let Some(objects) = known.get_mut(&namespace) {
                objects.remove(&name);
                if objects.is_empty() {
                    known.remove(&namespace);
                }
            }
            dirty.insert(namespace);
        }
        Update::Reset(list) => {
            dirty.extend(known.keys().cloned());
            known.clear();
            for ((namespace, name), object) in list {
                let objects = known.entry(namespace.clone()).or_default();
                objects.insert(name, object);
                dirty.insert(namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests;
