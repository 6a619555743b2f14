//! What is known of all gateways, and what is to be done about each. In: changes of the cluster's
//! objects, what became of writes, and whether a namespace has routes. Out: orders and statuses.
//! Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem,
    time::Duration,
};

use crds::{
    OllaGatewayStatus,
    gateway::{AccessFrom, DataPlaneCounts, ServiceType},
};
use k8s_openapi::{
    Resource as _, api::rbac::v1::ClusterRole, apimachinery::pkg::apis::meta::v1::OwnerReference,
    jiff::Timestamp,
};
use tokio::time::Instant;

use super::{
    plan::{Order, Plan, Seen, plan},
    render::{Child, ChildKind, render},
    settings::{Effective, Refusal, Settings},
    status::{self, Facts},
    watch::{Change, ChildObject, GatewayObject, Key, NamespaceState, Update},
    write::Written,
};

/// After a write that failed, doubled with each further one.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_mins(5);

/// From one look at all of a namespace's objects to the next.
const RECHECK: Duration = Duration::from_mins(10);

/// So many writes of the same in this time are enough: somebody answers each of them.
const MOST_WRITES: usize = 10;
const WRITES_WITHIN: Duration = Duration::from_mins(1);
const OFTEN: &str = "somebody else changes the gateway's objects again and again; see their \
    metadata.managedFields (kubectl get --show-managed-fields)";
/// Objects of one namespace that get a status: the oldest, which counts, and some of the others.
const MOST_STATUSES: usize = 20;

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
    gateways: BTreeMap<String, BTreeMap<String, Box<GatewayObject>>>,
    /// Namespaces that are not open.
    closed: BTreeMap<String, NamespaceState>,
    children: BTreeMap<String, BTreeMap<ChildKind, ChildObject>>,
    progress: HashMap<String, Progress>,
    /// Parts that the watch told of since the write began that is under way.
    touched: HashMap<String, BTreeSet<ChildKind>>,
    /// Uid of the owner, if there is one.
    owner: Option<String>,
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
    /// The settings that were followed last.
    followed: Option<Effective>,
    /// When all is applied again, see [`State::recheck`].
    recheck: Option<Instant>,
    /// All is applied, also what seems to be as it should.
    is_due: bool,
    /// Writes of the last minute that were for the same goal.
    writes: (u64, VecDeque<Instant>),
}

#[derive(Clone, Debug)]
struct Failure {
    goal: u64,
    problem: String,
    pause: Duration,
    until: Instant,
}

/// What is to be done about one namespace.
#[derive(Debug, Default)]
pub struct Decision {
    pub orders: Vec<Order>,
    /// The same number for the same desired objects.
    pub goal: u64,
    /// When to look again, if nothing changes.
    pub again: Option<Instant>,
    off: Option<&'static str>,
    in_the_way: Vec<ChildKind>,
    refusal: Option<String>,
    tls: bool,
    closed_outside: bool,
}

impl State {
    pub fn new(settings: Settings) -> Self {
        let kinds = ChildKind::ALL.map(ChildKind::as_str);
        let owner = settings.owner.as_ref().map(|_| "ClusterRole");
        let unlisted = kinds.into_iter().chain(["OllaGateway", "Namespace"]);
        let unlisted = unlisted.chain(owner);
        Self {
            settings,
            gateways: BTreeMap::new(),
            closed: BTreeMap::new(),
            children: BTreeMap::new(),
            progress: HashMap::new(),
            touched: HashMap::new(),
            owner: None,
            unlisted: unlisted.collect(),
            dirty: BTreeSet::new(),
        }
    }

    /// As [`Settings::owner`].
    pub fn owner_name(&self) -> Option<&str> {
        self.settings.owner.as_deref()
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
                let mut set = |(_, name): Key, state: NamespaceState| {
                    let before = match state {
                        NamespaceState::Open => self.closed.remove(&name),
                        closed => self.closed.insert(name.clone(), closed),
                    };
                    if before.unwrap_or(NamespaceState::Open) != state {
                        dirty.insert(name);
                    }
                };
                match update {
                    Update::Apply(key, state) => set(key, state),
                    Update::Delete(key) => set(key, NamespaceState::Open),
                    Update::Reset(list) => list.into_iter().for_each(|(key, it)| set(key, it)),
                }
            }
            Change::Owner(owner) => {
                self.unlisted.remove("ClusterRole");
                if self.owner != owner {
                    self.owner = owner;
                    dirty.extend(self.children.keys().cloned());
                    dirty.extend(self.progress.keys().cloned());
                }
            }
            Change::Child(kind, update) => {
                self.unlisted
                    .retain(|it| *it != kind.as_str() || !is_list(&update));
                match update {
                    Update::Apply((namespace, _), child) => {
                        self.set_child(kind, namespace, Some(child));
                    }
                    Update::Delete((namespace, _)) => self.set_child(kind, namespace, None),
                    Update::Reset(list) => {
                        let has = |children: &BTreeMap<_, _>| children.contains_key(&kind);
                        let known = self.children.iter().filter(|(_, children)| has(children));
                        let mut gone: BTreeSet<String> =
                            known.map(|(namespace, _)| namespace.clone()).collect();
                        for ((namespace, _), child) in list {
                            gone.remove(&namespace);
                            self.set_child(kind, namespace, Some(child));
                        }
                        for namespace in gone {
                            self.set_child(kind, namespace, None);
                        }
                    }
                }
                self.children.retain(|_, children| !children.is_empty());
            }
        }
    }

    /// As the watch has it now.
    fn set_child(&mut self, kind: ChildKind, namespace: String, child: Option<ChildObject>) {
        if let Some(touched) = self.touched.get_mut(&namespace) {
            touched.insert(kind);
        }
        let children = self.children.entry(namespace.clone()).or_default();
        match child {
            Some(child) => children.insert(kind, child),
            None => children.remove(&kind),
        };
        self.dirty.insert(namespace);
    }

    /// Namespaces that changed since the last time.
    pub fn take_dirty(&mut self) -> BTreeSet<String> {
        mem::take(&mut self.dirty)
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

    /// Somebody may have changed what no watch tells of: each namespace is applied again once in
    /// [`RECHECK`], each at a time of its own. To be called more often than that.
    pub fn recheck(&mut self, now: Instant) {
        for namespace in self.children.keys() {
            let progress = self.progress.entry(namespace.clone()).or_default();
            let first = || {
                let mut hasher = DefaultHasher::new();
                namespace.hash(&mut hasher);
                now + RECHECK.mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
            };
            let due = progress.recheck.get_or_insert_with(first);
            if now >= *due {
                *due = now + RECHECK;
                progress.checked.clear();
                progress.is_due = true;
                self.dirty.insert(namespace.clone());
            }
        }
    }

    pub fn note_written(&mut self, written: Written, now: Instant) {
        let progress = self.progress.entry(written.namespace.clone()).or_default();
        let children = self.children.entry(written.namespace.clone()).or_default();
        progress.is_due &= written.problem.is_some();
        // What the watch has said since is newer, or the same.
        let touched = self.touched.remove(&written.namespace).unwrap_or_default();
        for (kind, now) in written.now {
            match now {
                Some(now) => {
                    progress.checked.insert(kind, now.seen.version.clone());
                    if !touched.contains(&kind) {
                        children.insert(kind, now);
                    }
                }
                None => {
                    progress.checked.remove(&kind);
                    if !touched.contains(&kind) {
                        children.remove(&kind);
                    }
                }
            }
        }
        if children.is_empty() {
            self.children.remove(&written.namespace);
        }
        let (goal, writes) = &mut progress.writes;
        if *goal != written.goal {
            *goal = written.goal;
            writes.clear();
        }
        writes.push_back(now);
        writes.retain(|at| *at + WRITES_WITHIN > now);
        let often = (writes.len() > MOST_WRITES).then(|| OFTEN.to_owned());
        progress.failure = written.problem.or(often).map(|problem| {
            let same = progress
                .failure
                .as_ref()
                .filter(|it| it.goal == written.goal);
            let last = same.map(|failure| failure.pause * 2);
            let pause = last.map_or(RETRY, |pause| pause.min(MAX_RETRY));
            let until = now + pause;
            Failure {
                goal: written.goal,
                problem,
                pause,
                until,
            }
        });
        self.dirty.insert(written.namespace);
    }

    /// As the status of the OllaGateway that counts has them.
    pub fn data_planes(&self, namespace: &str) -> Option<&DataPlaneCounts> {
        self.oldest(namespace)?.1.status.data_planes.as_ref()
    }

    /// Why the last write in the namespace failed.
    pub fn problem(&self, namespace: &str) -> Option<&str> {
        let failure = self.progress.get(namespace)?.failure.as_ref()?;
        Some(&failure.problem)
    }

    /// A write of the orders is under way from now on, if there are any.
    pub fn decide(&mut self, namespace: &str, routes: Routes, now: Instant) -> Decision {
        let decision = self.decision(namespace, routes, now);
        if !decision.orders.is_empty() {
            let touched = self.touched.entry(namespace.to_owned()).or_default();
            touched.clear();
        }
        decision
    }

    fn decision(&mut self, namespace: &str, routes: Routes, now: Instant) -> Decision {
        if let Some(owner) = &self.settings.owner
            && self.owner.is_none()
        {
            return Decision::refused(format!(
                "ClusterRole `{owner}`, which owns all gateways, does not exist"
            ));
        }
        let closed = self.closed.get(namespace).copied();
        if closed == Some(NamespaceState::Ending) {
            return Decision::refused("the namespace is being deleted".to_owned());
        }
        let own = self.oldest(namespace).map(|(_, object)| object);
        let spec = own.map(|own| own.spec.as_ref()).transpose();
        let asked = match spec {
            Ok(spec) => self.settings.effective(spec).map_err(|refusal| {
                let Refusal { field, message } = refusal;
                format!("{field}: {message}")
            }),
            Err(problem) => Err(problem.clone()),
        };
        let has_gateway = self.has_gateway(namespace);
        let progress = self.progress.entry(namespace.to_owned()).or_default();
        // What is refused changes nothing; what it was before it was refused is known as long as
        // this process has seen it.
        let (effective, refusal) = match asked {
            Ok(effective) => {
                progress.followed = Some(effective.clone());
                (Some(effective), None)
            }
            Err(refusal) => (progress.followed.clone(), Some(refusal)),
        };
        let mut again = None;
        let enabled = effective.as_ref().and_then(|it| it.spec.enabled);
        let off = if closed == Some(NamespaceState::Disabled) {
            Some("the namespace is labelled olla.dev/gateway: disabled")
        } else if enabled == Some(false) {
            Some("spec.enabled is false")
        } else {
            None
        };
        if routes != Routes::None {
            progress.unrouted = None;
        }
        let (off, is_wanted) = match (off, routes) {
            (Some(off), _) => (Some(off), false),
            (None, Routes::InUse) => (None, true),
            (None, Routes::None) => {
                let since = *progress.unrouted.get_or_insert(now);
                let ends = since + self.settings.removal_delay;
                let serves = has_gateway && now < ends;
                again = serves.then_some(ends);
                ((!serves).then_some(NO_ROUTE), serves)
            }
            // Whether it had a gateway is all that is known.
            (None, Routes::Unknown | Routes::Refused) => {
                ((!has_gateway).then_some(NO_ROUTE), has_gateway)
            }
        };
        let desired = match &effective {
            Some(effective) if is_wanted => self.rendered(namespace, effective),
            // What there is of it stays as it is.
            None if is_wanted => {
                return Decision {
                    again,
                    ..Decision::refused(refusal.unwrap_or_default())
                };
            }
            _ => Vec::new(),
        };
        let seen = self.children.get(namespace).into_iter().flatten();
        let seen: BTreeMap<ChildKind, Seen> = seen
            .map(|(kind, child)| (*kind, child.seen.clone()))
            .collect();
        let goal = goal_of(&desired);
        let progress = self.progress.entry(namespace.to_owned()).or_default();
        // At the first look what is of the right hash is taken to be as it was applied: a new leader
        // has thousands of these. The regular look comes to it.
        if !progress.is_due {
            for child in &desired {
                let same = seen
                    .get(&child.kind)
                    .filter(|seen: &&Seen| seen.hash.as_ref() == Some(&child.hash));
                if let Some(same) = same {
                    let checked = progress.checked.entry(child.kind);
                    checked.or_insert_with(|| same.version.clone());
                }
            }
        }
        let Plan {
            mut orders,
            in_the_way,
        } = plan(&desired, &seen, &progress.checked);
        // Why something else could not be written says nothing of this.
        progress.failure.take_if(|failure| failure.goal != goal);
        if orders.is_empty() {
            progress.is_due = false;
            // All is as it should be, whatever went wrong on the way.
            progress.failure = None;
        }
        if let Some(failure) = progress.failure.as_ref().filter(|it| now < it.until) {
            again = Some(again.map_or(failure.until, |at: Instant| at.min(failure.until)));
            orders.clear();
        }
        if desired.is_empty() && orders.is_empty() && seen.is_empty() {
            self.progress.remove(namespace);
        }
        Decision {
            orders,
            goal,
            again,
            off,
            in_the_way,
            refusal,
            tls: effective.as_ref().is_some_and(|it| it.spec.tls.is_some()),
            closed_outside: effective.as_ref().is_some_and(is_closed_outside),
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
        let mut objects: Vec<_> = objects.collect();
        objects.sort_by_key(|(_, object)| object.created);
        let desired = objects
            .into_iter()
            .take(MOST_STATUSES)
            .map(|(name, object)| {
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
                    is_there: deployment.seen.ours,
                    closed_outside: decision.closed_outside,
                    data_planes: Some(data_planes.clone()),
                };
                let status = status::desired(namespace, &facts, &object.status, now);
                (name, object, status)
            });
        let differs = desired.filter(|(_, object, status)| !status::says(&object.status, status));
        differs
            .map(|(name, _, status)| (name.clone(), status))
            .collect()
    }

    fn rendered(&self, namespace: &str, effective: &Effective) -> Vec<Child> {
        let children = self.children.get(namespace);
        let child = |kind: ChildKind| children.and_then(|children| children.get(&kind));
        let deployment = child(ChildKind::Deployment);
        let autoscaling = effective.spec.autoscaling.as_ref();
        // Somebody else's autoscaler is no reason to work against it.
        let autoscaler = child(ChildKind::HorizontalPodAutoscaler);
        let foreign = autoscaler.is_some_and(|it| !it.seen.ours)
            || deployment.is_some_and(|it| it.autoscaled && autoscaler.is_none());
        let pods = deployment.map(|it| it.pods.desired);
        let owner = self.settings.owner.as_ref().zip(self.owner.as_ref());
        let owner = owner.map(|(name, uid)| OwnerReference {
            api_version: ClusterRole::API_VERSION.to_owned(),
            kind: ClusterRole::KIND.to_owned(),
            name: name.clone(),
            uid: uid.clone(),
            ..OwnerReference::default()
        });
        let render = |replicas| {
            let settings = &self.settings;
            render(namespace, effective, settings, owner.as_ref(), replicas)
        };
        if let Some(bounds) = autoscaling {
            let (least, most) = (bounds.min_replicas.into(), bounds.max_replicas.into());
            let pods = pods.unwrap_or(least).clamp(least, i64::max(least, most));
            return render(Some(pods));
        }
        let made = render(None);
        let mut hashes = made.iter().filter(|it| it.kind == ChildKind::Deployment);
        let hash = hashes.next().map(|child| &child.hash);
        // Whoever asks for another number gets it: an autoscaler that is there changes it again.
        let is_same = deployment.is_some_and(|it| it.seen.hash.as_ref() == hash);
        if foreign && is_same {
            render(pods)
        } else {
            made
        }
    }

    fn has_gateway(&self, namespace: &str) -> bool {
        let children = self.children.get(namespace).into_iter().flatten();
        let kinds = [ChildKind::Deployment, ChildKind::Service];
        let mut ours = children.filter(|(kind, child)| kinds.contains(kind) && child.seen.ours);
        ours.next().is_some()
    }

    /// The OllaGateway that counts; of two of one second the first by name.
    fn oldest(&self, namespace: &str) -> Option<(&str, &GatewayObject)> {
        let objects = self.gateways.get(namespace)?.iter();
        let oldest = objects.min_by_key(|(_, object)| object.created);
        oldest.map(|(name, object)| (name.as_str(), &**object))
    }
}

/// Clients outside of the cluster are led to it and not let in.
fn is_closed_outside(effective: &Effective) -> bool {
    let spec = &effective.spec;
    let service = spec.service.as_ref().and_then(|service| service.type_);
    let access = spec.access.as_ref().map(|access| access.from);
    service.is_some_and(|type_| type_ != ServiceType::ClusterIp) && access != Some(AccessFrom::All)
}

fn goal_of(desired: &[Child]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for child in desired {
        child.hash.hash(&mut hasher);
    }
    hasher.finish()
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
