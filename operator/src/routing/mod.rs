//! From `kubectl apply` to a table in the data planes, and back into a status.
//!
//! ```text
//! watch ─▶ decode ─▶ index ─▶ compile ─▶ snapshot ─▶ hub, feed ─▶ conversation ─▶ data planes
//!                └─▶ status_cache ─▶ writer ◀─ status ◀─ sessions ◀──────┘
//! ```
//!
//! [`Routing::run`] is the one task that owns index and watches: changes in, snapshots out.

pub mod conversation;
pub mod decode;
mod deleted_secrets;
pub mod feed;
pub mod hub;
pub mod index;
pub mod list_deadlines;
pub mod object;
pub mod serve;
pub mod sessions;
pub mod snapshot;
pub mod status;
pub mod status_cache;
#[cfg(test)]
pub(crate) mod testing;
pub mod watch;
pub mod writer;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use compile::{Kind, Verdicts};
use dataplane_protocol::{ResourceKey, resource::ResourceSet};
use tokio::{
    sync::{mpsc, watch as signal},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    deleted_secrets::DeletedSecrets,
    hub::Hub,
    index::{Index, Source},
    list_deadlines::ListDeadlines,
    snapshot::{Content, Snapshot},
    status_cache::StatusCache,
    watch::{Change, ChangeKind, DecodedObject, Starter, Watches},
};
use crate::metrics::Metrics;

/// A change waits this long for its neighbours: one `kubectl apply` is several of them.
const QUIET: Duration = Duration::from_millis(10);
/// And at most this long, however busy the namespace is.
const MAX_WAIT: Duration = Duration::from_millis(50);

/// Owner of index and watches.
#[derive(Debug)]
pub struct Routing {
    index: Index,
    watches: Watches,
    changes: mpsc::Receiver<Change>,
    /// Objects of ours came, went or changed since the last publication.
    objects_changed: bool,
    /// By namespace, the version of its needs that the watches are in step with.
    followed: HashMap<String, u64>,
    /// Namespaces of the first lists that are not published yet, once these lists are in.
    first: Option<BTreeSet<String>>,
    /// First lists that namespaces wait for.
    list_deadlines: ListDeadlines,
    deleted_secrets: DeletedSecrets,
    hub: Arc<Hub>,
    status_cache: Arc<StatusCache>,
    occupied: signal::Sender<BTreeSet<String>>,
    ready: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

impl Routing {
    /// `occupied` is told the namespaces that hold objects; `ready` becomes true when the first
    /// lists are in and all that was waiting for them is published.
    pub fn new(
        start: Starter,
        hub: Arc<Hub>,
        status_cache: Arc<StatusCache>,
        occupied: signal::Sender<BTreeSet<String>>,
        ready: Arc<AtomicBool>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (watches, changes) = Watches::new(start, metrics.clone());
        Self {
            index: Index::default(),
            watches,
            changes,
            objects_changed: false,
            followed: HashMap::new(),
            first: None,
            list_deadlines: ListDeadlines::default(),
            deleted_secrets: DeletedSecrets::default(),
            hub,
            status_cache,
            occupied,
            ready,
            metrics,
        }
    }

    /// Until `stop`. Nothing is published before all that it is made of has been listed.
    pub async fn run(mut self, stop: CancellationToken) {
        self.watches.start(&Source::Endpoints);
        self.watches.start(&Source::Routes);
        let mut first_change: Option<Instant> = None;
        let mut due = Instant::now();
        // Its own timer: a list that is late in one namespace slows down no other.
        let mut late: Option<Instant> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(change) = self.changes.recv() => {
                    self.take(change);
                    let now = Instant::now();
                    let first = *first_change.get_or_insert(now);
                    due = (now + QUIET).min(first + MAX_WAIT);
                }
                () = sleep_until(due), if first_change.is_some() => {
                    first_change = None;
                    late = self.publish();
                }
                () = sleep_until(late.unwrap_or(due)), if late.is_some() => {
                    late = self.publish();
                }
            }
        }
    }

    fn take(&mut self, change: Change) {
        if !self.watches.is_current(&change) {
            return;
        }
        let Change { source, what, .. } = change;
        if matches!(what, ChangeKind::Reset(_)) {
            self.list_deadlines.clear(&source);
        }
        if self.is_deleted_secret(&source, &what) {
            self.deleted_secrets.insert(source, Instant::now());
            return;
        }
        self.deleted_secrets.remove(&source);
        self.note_statuses(&source, &what);
        // Our own status writes come back, too, and change nothing here.
        let is_list = matches!(what, ChangeKind::Reset(_));
        let touched: Vec<String> = match what {
            ChangeKind::Apply(found) => {
                let namespace = found.object.namespace.clone();
                let changed = self.index.apply(found.object);
                changed.then_some(namespace).into_iter().collect()
            }
            ChangeKind::Delete { namespace, name } => {
                let changed = self.index.delete(&source, &namespace, &name);
                changed.then_some(namespace).into_iter().collect()
            }
            ChangeKind::Reset(list) => {
                let items = list.into_iter().map(|found| found.object).collect();
                self.index.reset(&source, items);
                self.index.dirty().iter().cloned().collect()
            }
        };
        self.objects_changed |= source.namespace().is_none() && (is_list || !touched.is_empty());
        if source == Source::Endpoints {
            self.follow_needs(touched);
        }
    }

    /// A list that comes without it says so, too: after a watch that broke it is all there is.
    fn is_deleted_secret(&self, source: &Source, what: &ChangeKind) -> bool {
        let Source::Secret { namespace, name } = source else {
            return false;
        };
        match what {
            ChangeKind::Apply(_) => false,
            ChangeKind::Delete { .. } => true,
            ChangeKind::Reset(list) => list.is_empty() && self.index.has_secret(namespace, name),
        }
    }

    /// Starts and stops the watches of namespaces whose endpoints may have changed.
    fn follow_needs(&mut self, namespaces: Vec<String>) {
        for namespace in namespaces {
            let version = self.index.needs_version(&namespace);
            if self.followed.get(&namespace) == Some(&version) {
                continue;
            }
            let (needs, running) = (self.index.needs(&namespace), self.watches.of(&namespace));
            for source in needs.difference(&running) {
                self.watches.start(source);
                let has_table = self.hub.current(&namespace).is_some();
                let source = source.clone();
                self.list_deadlines.start(source, has_table, Instant::now());
            }
            for source in running.difference(&needs) {
                self.watches.stop(source);
                self.list_deadlines.clear(source);
                self.deleted_secrets.remove(source);
                self.index.forget(source);
            }
            // A namespace that is forgotten begins at 0 again.
            match self.index.needs_version(&namespace) {
                0 => self.followed.remove(&namespace),
                version => self.followed.insert(namespace, version),
            };
        }
    }

    fn note_statuses(&mut self, source: &Source, what: &ChangeKind) {
        let kind = match source {
            Source::Endpoints => Kind::LlmEndpoint,
            Source::Routes => Kind::OllaRoute,
            _ => return,
        };
        let (status_cache, index) = (&self.status_cache, &mut self.index);
        let mut saw = |found: &DecodedObject| {
            if let Some(status) = &found.status {
                let object = &found.object;
                if kind == Kind::OllaRoute {
                    index.note_status(&object.namespace, &object.name, &status.status);
                }
                status_cache.observe(&object.namespace, kind, &object.name, status.clone());
            }
        };
        match what {
            ChangeKind::Apply(found) => saw(found),
            ChangeKind::Delete { namespace, name } => {
                status_cache.remove(namespace, kind, name);
            }
            ChangeKind::Reset(list) => {
                let present = list
                    .iter()
                    .map(|found| (found.object.namespace.clone(), found.object.name.clone()))
                    .collect();
                status_cache.retain(kind, &present);
                list.iter().for_each(&mut saw);
            }
        }
    }

    /// Says when it should be called again, were there no further change.
    fn publish(&mut self) -> Option<Instant> {
        if !self.index.kinds_listed() {
            return None;
        }
        if std::mem::take(&mut self.objects_changed) {
            self.tell_occupied();
        }
        let now = Instant::now();
        for source in self.list_deadlines.take_expired(now) {
            tracing::warn!(
                ?source,
                "no initial list yet (missing permission? see the errors above); data planes keep their current state of it"
            );
            self.index.give_up(&source);
        }
        for source in self.deleted_secrets.take_expired(now) {
            if let Source::Secret { namespace, name } = &source {
                self.index.delete(&source, namespace, name);
            }
        }
        // A namespace that has a table waits for no list: what is new in it has no instances yet.
        let hub = self.hub.clone();
        let ready = |index: &Index, namespace: &str| {
            index.kinds_listed() && (hub.current(namespace).is_some() || index.ready(namespace))
        };
        for namespace in self.index.take_dirty(ready) {
            self.publish_one(&namespace);
            self.list_deadlines.published(&namespace);
            // A form that was accepted takes the place of one whose sources are needed no more.
            self.follow_needs(vec![namespace]);
        }
        // Namespaces that come later may have lists of their own to wait for.
        let first = self.first.get_or_insert_with(|| self.index.occupied());
        first.retain(|namespace| self.index.dirty().contains(namespace));
        if first.is_empty() {
            self.ready.store(true, Ordering::Release);
        }
        self.list_deadlines
            .next()
            .into_iter()
            .chain(self.deleted_secrets.next())
            .min()
    }

    fn tell_occupied(&self) {
        let occupied = self.index.occupied();
        for forgotten in self.hub.set_occupied(occupied.clone()) {
            self.status_cache.mark_all_dirty(&forgotten);
        }
        self.occupied.send_if_modified(|known| {
            let changed = *known != occupied;
            if changed {
                *known = occupied;
            }
            changed
        });
    }

    fn publish_one(&mut self, namespace: &str) {
        let started = Instant::now();
        let previous = self.hub.current(namespace);
        let content = match self.index.update(namespace) {
            Some((known, updated)) => Content {
                set: known.resources().clone(),
                verdicts: known.verdicts().clone(),
                updated,
            },
            None => Content::after(
                previous.as_deref(),
                ResourceSet::default(),
                Verdicts::default(),
            ),
        };
        let mut judged = content.updated.verdicts.clone();
        // Of an instance that took another's place data planes may have said something already.
        judged.extend(
            content
                .updated
                .resources
                .iter()
                .filter_map(|key| match key {
                    ResourceKey::Instance(endpoint, _) => {
                        Some((Kind::LlmEndpoint, endpoint.as_str().to_owned()))
                    }
                    _ => None,
                }),
        );
        let next = Snapshot::next(previous.as_deref(), namespace, content);
        self.index.settle(namespace);
        self.metrics
            .compile_duration
            .observe(started.elapsed().as_secs_f64());
        let Some(next) = next else { return };
        if previous.is_none_or(|previous| previous.number != next.number) {
            self.metrics.tables_published.inc();
            tracing::info!(namespace, revision = %next.revision, "table published");
        }
        self.hub.publish(next);
        self.status_cache.mark_dirty(namespace, judged);
    }
}
