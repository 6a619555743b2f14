//! What all rooms of the shell share: the fleet behind its one lock, and the few signals that
//! must reach other threads. No lock is held across an await.

pub(crate) mod clock;
pub(crate) mod kept;
pub(crate) mod life;
pub(crate) mod outage;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use dataplane_core::{
    Cause, Event, Explanation, Fleet, FleetView, InstanceKey, InstanceView, Mono, Outcome, Pick,
    Query, Refusal, Ticket,
};
use dataplane_protocol::{
    Revision, RoutingTable,
    change::Change,
    sync::{Breaker, Health, InstanceReport},
};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::{clock::Clock, kept::KeptBytes, life::Life, outage::OutageSignal};
use crate::{config::Settings, metrics::Metrics};

/// How long the first probes of the first table may keep a process from being ready.
const FIRST_PROBES: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Shared {
    pub settings: Settings,
    pub(crate) clock: Clock,
    pub metrics: Metrics,
    fleet: Mutex<Fleet>,
    /// Wakes the attempts that wait for an instance's first byte, when it fails its health check.
    outages: Mutex<HashMap<InstanceKey, Arc<OutageSignal>>>,
    /// Something a report, a status page or the prober should look at has changed.
    changed: watch::Sender<u64>,
    source: watch::Sender<SourceState>,
    /// When the first table came.
    first_table: OnceLock<Mono>,
    /// It has been ready once.
    was_ready: AtomicBool,
    /// It has started, and the next process is told.
    was_started: AtomicBool,
    pub life: Life,
    /// Of request bodies that are kept for a retry.
    pub(crate) kept: Arc<KeptBytes>,
}

/// Where the table in use came from.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    /// Absent until the first table.
    pub revision: Option<Revision>,
    /// `file`, `operator`, `disk`.
    pub origin: &'static str,
    /// What keeps a newer one from being used; empty when nothing does.
    pub problem: String,
}

impl Shared {
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            clock: Clock::start(),
            metrics: Metrics::new(),
            fleet: Mutex::new(Fleet::new(fastrand::u64(..))),
            outages: Mutex::default(),
            changed: watch::Sender::new(0),
            source: watch::Sender::new(SourceState::default()),
            first_table: OnceLock::new(),
            was_ready: AtomicBool::new(false),
            was_started: AtomicBool::new(false),
            life: Life::default(),
            kept: Arc::default(),
        })
    }

    // --- tables ---

    pub fn apply(&self, table: Arc<RoutingTable>, revision: Revision, origin: &'static str) {
        self.update(revision, origin, |fleet, now| fleet.apply(table, now));
    }

    /// The same, where it is known what differs from the table in use: the rest costs nothing.
    pub fn apply_change(&self, change: Change, revision: Revision, origin: &'static str) {
        self.update(revision, origin, |fleet, now| {
            fleet.apply_change(change, now)
        });
    }

    fn update(
        &self,
        revision: Revision,
        origin: &'static str,
        apply: impl FnOnce(&mut Fleet, Mono) -> Vec<Event>,
    ) {
        let (events, size) = {
            let mut fleet = self.fleet.lock();
            let now = self.clock.now();
            self.first_table.get_or_init(|| now);
            (apply(&mut fleet, now), fleet.size())
        };
        self.metrics
            .config_revision
            .set(revision.as_number() as i64);
        self.source.send_modify(|state| {
            *state = SourceState {
                revision: Some(revision),
                origin,
                problem: String::new(),
            };
        });
        tracing::info!(
            %revision,
            origin,
            routes = size.routes,
            endpoints = size.endpoints,
            instances = size.instances,
            "table in use"
        );
        self.carry_out(events);
        self.forget_outages(size.instances);
        self.touch();
    }

    /// One who was picked just before an instance left may ask for its signal just after. Gone
    /// through only when there are many more than instances, so that a change costs nothing.
    fn forget_outages(&self, instances: usize) {
        let mut signals = self.outages.lock();
        if signals.len() > 2 * instances + 64 {
            let fleet = self.fleet.lock();
            signals.retain(|key, _| fleet.has(*key));
        }
    }

    /// A newer table could not be used.
    pub fn source_problem(&self, problem: String) {
        self.source.send_modify(|state| state.problem = problem);
    }

    pub fn source(&self) -> SourceState {
        self.source.borrow().clone()
    }

    /// Why the process should get no requests, if it should not: it has no table, or has only just
    /// got its first and does not know yet which of its instances live. What comes later is no
    /// reason: an endpoint that hangs would take all data planes out of their Service at once.
    pub fn not_ready(&self, view: &FleetView) -> Option<String> {
        if self.life.leaving.is_cancelled() {
            return Some("draining".to_owned());
        }
        let Some(since) = self.first_table.get() else {
            return Some("no routing table yet".to_owned());
        };
        // One that is not usable anyway (its credential is withheld, say) is not waited for.
        let waits = |i: &&InstanceView| i.usable && i.health == Health::Unknown;
        let unknown = view.instances.iter().filter(waits).count();
        let waited = self.clock.now().since(*since);
        if unknown == 0 || waited >= FIRST_PROBES {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        let ready = self.was_ready.load(Ordering::Relaxed);
        (!ready).then(|| format!("{unknown} instances have not been probed yet"))
    }

    /// Why what waits for the data plane should wait on, if it should: it is not ready. Not for ever:
    /// without an operator, or with backends that hang, an app is better started than not, and its
    /// requests are answered with what is known.
    pub fn not_started(&self, view: &FleetView) -> Option<String> {
        let limit = self.settings.start_without_table;
        let long_enough = Duration::from_micros(self.clock.now().as_micros()) >= limit;
        (!long_enough).then(|| self.not_ready(view)).flatten()
    }

    /// The file to make for the next process; told once.
    pub fn started_file(&self) -> Option<PathBuf> {
        let file = self.settings.started_file.as_ref()?;
        let first = !self.was_started.swap(true, Ordering::Relaxed);
        first.then(|| file.clone())
    }

    /// Made anew for each who asks.
    pub fn table(&self) -> RoutingTable {
        self.fleet.lock().table()
    }

    // --- requests ---

    pub fn pick(&self, query: &Query<'_>, now: Instant) -> Result<Pick, Refusal> {
        self.fleet.lock().pick(query, self.clock.at(now))
    }

    pub fn retry(
        &self,
        query: &Query<'_>,
        tried: &[InstanceKey],
        last: &Ticket,
        cause: Cause,
    ) -> Option<Pick> {
        self.fleet
            .lock()
            .retry(query, tried, last, cause, self.clock.now())
    }

    pub fn first_byte(&self, ticket: &Ticket, now: Instant) {
        let events = self.fleet.lock().first_byte(ticket, self.clock.at(now));
        self.carry_out(events);
    }

    pub fn finish(&self, ticket: Ticket, outcome: Outcome, now: Instant) {
        let now = self.clock.at(now);
        let events = self.fleet.lock().finish(ticket, outcome, now);
        self.carry_out(events);
    }

    /// Anything else that reads or moves the fleet.
    pub fn with_fleet<T>(&self, look: impl FnOnce(&mut Fleet, Mono) -> T) -> T {
        look(&mut self.fleet.lock(), self.clock.now())
    }

    /// Some instance has been probed, or judged by traffic.
    pub fn has_looked(&self) -> bool {
        let view = self.view();
        let mut all = view.instances.iter();
        all.any(|instance| instance.health != Health::Unknown)
    }

    pub fn view(&self) -> FleetView {
        self.fleet.lock().view(self.clock.now())
    }

    /// What the operator hears of the instances.
    pub fn reports(&self) -> Vec<InstanceReport> {
        self.fleet.lock().reports(self.clock.now())
    }

    pub fn explain(&self, query: &Query<'_>) -> Explanation {
        self.fleet.lock().explain(query, self.clock.now())
    }

    // --- signals ---

    /// Carries out what the fleet decided.
    pub fn carry_out(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        for event in events {
            match event {
                Event::Health {
                    endpoint,
                    instance,
                    from,
                    to,
                    reason,
                    ..
                } => {
                    tracing::info!(%endpoint, %instance, ?from, ?to, reason, "health changed");
                }
                Event::Breaker {
                    endpoint,
                    instance,
                    from,
                    to,
                    reason,
                } => {
                    if to == Breaker::Open {
                        self.metrics.breaker_opened.inc();
                    }
                    tracing::info!(%endpoint, %instance, ?from, ?to, reason, "breaker changed");
                }
                Event::Models {
                    endpoint,
                    instance,
                    count,
                } => {
                    tracing::info!(%endpoint, %instance, count, "models listed");
                }
                Event::CutUnanswered { key, outages } => {
                    // Also where nobody waits yet: who was picked a moment ago soon does.
                    self.outage_signal(key).tell(outages);
                }
                Event::Gone { key } => {
                    self.outages.lock().remove(&key);
                }
            }
        }
        self.touch();
    }

    pub fn outage_signal(&self, key: InstanceKey) -> Arc<OutageSignal> {
        self.outages.lock().entry(key).or_default().clone()
    }

    /// Whether it is an instance of the table in use: workers drop the connections of others.
    pub fn is_live(&self, key: InstanceKey) -> bool {
        self.fleet.lock().has(key)
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
