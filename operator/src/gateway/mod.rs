//! The gateway of each namespace with an `OllaRoute`: pods of the data plane behind Service `olla`.
//!
//! ```text
//! watch ─▶ state ─▶ plan ◀─ render ◀─ settings     in: OllaGateways, Namespaces, the gateways' parts
//!            │        └─▶ write ─▶ Deployment, Service, …
//!            └─▶ status ─▶ write ─▶ OllaGateway
//! ```
//!
//! [`Gateways::run`] is the one task that owns the state; each namespace has one write under way at a
//! time. What the operator did not make it leaves alone.

pub mod plan;
pub mod render;
pub mod settings;
pub mod state;
pub mod status;
pub mod watch;
pub mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use compile::Kind;
use crds::gateway::DataPlaneCounts;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::{
    sync::{mpsc, watch as signal},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

pub use self::settings::{Defaults, Settings};
use self::{
    state::{Routes, State},
    write::{GatewayWriter, Written},
};
use crate::routing::{hub::Hub, sessions::Sessions, snapshot::Snapshot};

/// How often namespaces are looked at for routes that came or went, and for data planes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Since the begin of a term, how long data planes may take to come back before they are missed.
const SETTLE: Duration = Duration::from_secs(30);
/// Changes that may wait; a full queue holds the watches back.
const QUEUE: usize = 1024;

/// Runs gateways.
#[derive(Debug)]
pub struct Gateways {
    writer: GatewayWriter,
    state: State,
    hub: Arc<Hub>,
    sessions: Arc<Sessions>,
    /// Namespaces that hold objects of ours, once `ready`.
    occupied: signal::Receiver<BTreeSet<String>>,
    ready: Arc<AtomicBool>,
    began: Instant,
    /// Namespaces with a write under way.
    busy: BTreeSet<String>,
    /// Of these, those that changed meanwhile.
    skipped: BTreeSet<String>,
    again: BTreeMap<String, Instant>,
    /// As they were looked at last.
    routes: BTreeMap<String, Routes>,
    data_planes: BTreeMap<String, DataPlaneCounts>,
    /// Problems that the log has told, by namespace.
    told: BTreeMap<String, String>,
}

/// What has ended.
enum Done {
    Written(Written),
    Status(String, Option<String>),
}

impl Gateways {
    pub fn new(
        client: Client,
        settings: Settings,
        hub: Arc<Hub>,
        sessions: Arc<Sessions>,
        occupied: signal::Receiver<BTreeSet<String>>,
        ready: Arc<AtomicBool>,
    ) -> Self {
        Self {
            writer: GatewayWriter::new(client),
            state: State::new(settings),
            hub,
            sessions,
            occupied,
            ready,
            began: Instant::now(),
            busy: BTreeSet::new(),
            skipped: BTreeSet::new(),
            again: BTreeMap::new(),
            routes: BTreeMap::new(),
            data_planes: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Until `stop`. Nothing is written before all is listed that it depends on.
    pub async fn run(mut self, stop: CancellationToken) {
        let (sender, mut changes) = mpsc::channel(QUEUE);
        let mut watches = JoinSet::new();
        watch::start(
            self.writer.client(),
            self.state.owner_name(),
            &sender,
            &mut watches,
        );
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut writes: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(change) = changes.recv() => {
                    self.state.take(change);
                    // What has come with it is looked at together with it.
                    while let Ok(change) = changes.try_recv() {
                        self.state.take(change);
                    }
                }
                Some(done) = writes.next() => self.note(done),
                _ = look.tick() => {
                    self.look();
                    self.state.recheck(Instant::now());
                }
                // One that panicked: its kind would be as it was for ever.
                Some(_) = watches.join_next() => return,
            }
            if !self.state.is_listed() || !self.ready.load(Ordering::Acquire) {
                continue;
            }
            for namespace in self.state.take_dirty() {
                if self.busy.contains(&namespace) {
                    self.skipped.insert(namespace);
                    continue;
                }
                if let Some(write) = self.reconcile(&namespace) {
                    self.busy.insert(namespace);
                    writes.push(write);
                }
            }
        }
    }

    /// Marks what has changed where nothing tells of it.
    fn look(&mut self) {
        let mut all = self.state.namespaces();
        all.extend(self.occupied.borrow().iter().cloned());
        self.routes.retain(|namespace, _| all.contains(namespace));
        for namespace in all {
            let routes = self.routes_of(&namespace);
            if self.routes.get(&namespace) != Some(&routes) {
                self.routes.insert(namespace.clone(), routes);
                self.state.mark(&namespace);
            }
        }
        let with_object: Vec<String> = self.state.with_object().map(str::to_owned).collect();
        let mut data_planes = BTreeMap::new();
        for namespace in with_object {
            let now = self.count(&namespace);
            if self.data_planes.get(&namespace) != Some(&now) {
                self.state.mark(&namespace);
            }
            data_planes.insert(namespace, now);
        }
        self.data_planes = data_planes;
        let now = Instant::now();
        let due = self.again.extract_if(.., |_, at| *at <= now);
        for (namespace, _) in due {
            self.state.mark(&namespace);
        }
    }

    /// What is to be written next in the namespace, if something is.
    fn reconcile(&mut self, namespace: &str) -> Option<BoxFuture<'static, Done>> {
        let routes = self.routes_of(namespace);
        let decision = self.state.decide(namespace, routes, Instant::now());
        match decision.again {
            Some(at) => self.again.insert(namespace.to_owned(), at),
            None => self.again.remove(namespace),
        };
        self.tell(namespace);
        let writer = self.writer.clone();
        if !decision.orders.is_empty() {
            let written = writer.carry_out(namespace.to_owned(), decision.orders, decision.goal);
            return Some(written.map(Done::Written).boxed());
        }
        let counts = self.count(namespace);
        let now = Timestamp::now();
        let statuses = self.state.statuses(namespace, &decision, &counts, now);
        if statuses.is_empty() {
            return None;
        }
        let written = writer.statuses(namespace.to_owned(), statuses);
        let done = |(namespace, problem)| Done::Status(namespace, problem);
        Some(written.map(done).boxed())
    }

    fn note(&mut self, done: Done) {
        match done {
            Done::Written(written) => {
                self.busy.remove(&written.namespace);
                self.skipped.remove(&written.namespace);
                self.state.note_written(written, Instant::now());
            }
            Done::Status(namespace, problem) => {
                self.busy.remove(&namespace);
                if let Some(problem) = problem {
                    tracing::warn!(namespace, problem, "status of OllaGateway not written");
                    let at = Instant::now() + RETRY_STATUS;
                    self.again.insert(namespace.clone(), at);
                }
                if self.skipped.remove(&namespace) {
                    self.state.mark(&namespace);
                }
            }
        }
    }

    /// Once a problem, to the log: a namespace without an OllaGateway has no status.
    fn tell(&mut self, namespace: &str) {
        match self.state.problem(namespace) {
            Some(problem) if self.told.get(namespace).is_none_or(|told| told != problem) => {
                tracing::warn!(namespace, problem, "gateway not written; will be retried");
                self.told.insert(namespace.to_owned(), problem.to_owned());
            }
            Some(_) => {}
            None => {
                self.told.remove(namespace);
            }
        }
    }

    fn routes_of(&self, namespace: &str) -> Routes {
        if !self.ready.load(Ordering::Acquire) {
            return Routes::Unknown;
        }
        match self.hub.current(namespace) {
            Some(snapshot) if status::has_route(&snapshot.verdicts) => Routes::InUse,
            Some(snapshot) if has_object(&snapshot) => Routes::Refused,
            None if self.occupied.borrow().contains(namespace) => Routes::Unknown,
            Some(_) | None => Routes::None,
        }
    }

    fn count(&self, namespace: &str) -> DataPlaneCounts {
        let view = self.sessions.view(namespace, Instant::now());
        let snapshot = self.hub.current(namespace);
        // The newest that a route waits for: a pod that comes or goes changes nothing here.
        let needed = snapshot.as_ref().map_or(0, |it| it.newest_route_number());
        let programmed = view.acked.iter().filter(|acked| **acked >= needed).count();
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let counts = DataPlaneCounts {
            connected: number(view.connected),
            programmed: number(programmed),
            summary: format!("{programmed}/{}", view.connected),
        };
        // They come back one by one.
        let before = self.state.data_planes(namespace);
        let more = |before: &&DataPlaneCounts| {
            before.connected > counts.connected || before.programmed > counts.programmed
        };
        let before = before.filter(more);
        match before {
            Some(before) if self.began.elapsed() < SETTLE => before.clone(),
            _ => counts,
        }
    }
}

/// After a status that was not written.
const RETRY_STATUS: Duration = Duration::from_secs(5);

fn has_object(snapshot: &Snapshot) -> bool {
    let mut kinds = snapshot.verdicts.keys().map(|(kind, _)| *kind);
    kinds.any(|kind| kind == Kind::OllaRoute)
}
