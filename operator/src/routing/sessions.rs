//! The data planes that are connected, and what they say.
//!
//! In: Acks, Nacks and reports of each stream. Out: per namespace, who uses which revision and
//! how each instance fares; and the breakers that opened or closed with a report. What is said of
//! instances that are not in the namespace's table is ignored, so memory is bounded by the table.

mod instances;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dataplane_protocol::{EndpointId, InstanceId, resource::ResourceSet, sync::Report};
use parking_lot::Mutex;
use tokio::time::Instant;

pub use self::instances::{BreakerChange, InstanceView, ReportChanges};
use self::instances::{Flags, Instance, count, uncount};
use crate::budget::{Admission, Budget};

/// Longest text of a data plane that is kept, bytes: a Nack's reason, an instance's.
pub(super) const MAX_REASON: usize = 512;

/// A data plane that has just joined counts with its first answer to a table, or after this long:
/// else each pod of a deployment that grows would turn all routes to `Pending` and back.
const JOINING: Duration = Duration::from_secs(10);

/// Lines in the log about the data planes of one namespace at once, and how long each takes to
/// become free again: all of them come and go when the operator starts or stops.
const LOG_BURST: u32 = 2_000;
const LOG_EVERY: Duration = Duration::from_millis(100);

/// Lines that are read of all data planes of one namespace at once, and how long each further one
/// takes to become free again. A hundred data planes say all of 10,000 instances without waiting.
const BURST: u32 = 40_000;
const LINE_EVERY: Duration = Duration::from_micros(500);

#[derive(Debug)]
pub struct Sessions {
    log: Mutex<Budget>,
    lines: Mutex<Budget>,
    /// One lock each: a namespace that says much holds up no other.
    namespaces: Mutex<HashMap<String, Arc<Mutex<NamespaceSessions>>>>,
    next_id: AtomicU64,
}

/// One connected data plane; leaves when dropped.
#[derive(Debug)]
pub struct Session {
    sessions: Arc<Sessions>,
    namespace: String,
    planes: Arc<Mutex<NamespaceSessions>>,
    id: u64,
}

/// The data planes of one namespace together.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Without those that are still [joining](JOINING).
    pub connected: usize,
    /// When the next of these counts though it has answered nothing.
    pub joining: Option<Instant>,
    /// [Number](super::snapshot::Snapshot::number) of the newest table that each has acknowledged,
    /// sorted.
    pub acked: Vec<u64>,
    pub refusals: Vec<Nack>,
}

/// Which routes a change among data planes may concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffectedRoutes {
    None,
    /// Those that are not yet known to be in use everywhere: whose current generation came with a
    /// [number](super::snapshot::Snapshot::number) above this.
    After(u64),
    All,
}

/// A data plane that could not take a table and serves on with an older one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    pub data_plane: String,
    /// Numbers of tables.
    pub acked: u64,
    pub refused: u64,
    pub reason: String,
}

#[derive(Debug, Default)]
struct NamespaceSessions {
    planes: HashMap<u64, SessionState>,
    instances: BTreeMap<Instance, InstanceView>,
}

#[derive(Debug, Default)]
struct SessionState {
    name: String,
    acked: u64,
    refused: Option<(u64, String)>,
    /// Until when it does not count; `None` once it has answered.
    joining: Option<Instant>,
    said: HashMap<Instance, Flags>,
    /// Its stream has ended only to be opened again.
    expected_back: bool,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            log: Mutex::new(Budget::new(LOG_BURST, LOG_EVERY)),
            lines: Mutex::new(Budget::new(BURST, LINE_EVERY)),
            namespaces: Mutex::default(),
            next_id: AtomicU64::default(),
        }
    }
}

impl Sessions {
    /// Whether a line about its data planes may be written to the log: whoever has a token can
    /// cause as many as it likes.
    pub fn may_log(&self, namespace: &str, now: Instant) -> bool {
        match self.log.lock().take(namespace, now) {
            Admission::Allowed => true,
            Admission::FirstDrop => {
                tracing::warn!(
                    namespace,
                    "log lines about data planes dropped: the namespace exceeds its rate limit"
                );
                false
            }
            Admission::Drop => false,
        }
    }

    /// A line has come from one of its data planes: until when to wait before the next one is read.
    pub fn pace(&self, namespace: &str, now: Instant) -> Option<Instant> {
        self.lines.lock().reserve(namespace, now)
    }

    /// `None` when the namespace has `limit` data planes already. One that is
    /// [expected back](Session::expect_back) takes up what it said before.
    pub fn open(
        self: &Arc<Self>,
        namespace: &str,
        name: &str,
        limit: usize,
        now: Instant,
    ) -> Option<Session> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        // Held to the end, so that nobody drops the namespace meanwhile.
        let mut namespaces = self.namespaces.lock();
        let shared = namespaces.entry(namespace.to_owned()).or_default().clone();
        let mut planes = shared.lock();
        if planes.connected() >= limit {
            return None;
        }
        let plane = planes.take_back(&shortened(name, MAX_REASON), now + JOINING);
        planes.planes.insert(id, plane);
        drop(planes);
        Some(Session {
            sessions: self.clone(),
            namespace: namespace.to_owned(),
            planes: shared,
            id,
        })
    }

    pub fn view(&self, namespace: &str, now: Instant) -> View {
        let Some(planes) = self.planes(namespace) else {
            return View::default();
        };
        let planes = planes.lock();
        let mut acked: Vec<u64> = planes.counted(now).map(|plane| plane.acked).collect();
        acked.sort_unstable();
        let mut refusals: Vec<Nack> = planes.planes.values().filter_map(refusal).collect();
        refusals.sort_by(|a, b| a.data_plane.cmp(&b.data_plane));
        let joining = planes.planes.values().filter_map(|it| it.joining);
        View {
            connected: acked.len(),
            joining: joining.filter(|until| now < *until).min(),
            acked,
            refusals,
        }
    }

    /// What is said of those instances of the endpoint that are in `table`: what was said of
    /// others may be kept a while.
    pub fn seen(
        &self,
        namespace: &str,
        endpoint: &str,
        table: &ResourceSet,
    ) -> BTreeMap<InstanceId, InstanceView> {
        let Some(planes) = self.planes(namespace) else {
            return BTreeMap::new();
        };
        let planes = planes.lock();
        let first = Arc::new((EndpointId::from(endpoint), InstanceId::from("")));
        let of_endpoint = (planes.instances.range(first..))
            .take_while(|(instance, _)| instance.0.as_str() == endpoint);
        of_endpoint
            .filter(|(instance, _)| table.has_instance(&instance.0, &instance.1))
            .map(|(instance, seen)| (instance.1.clone(), seen.clone()))
            .collect()
    }

    /// Without those that are expected back, which the [view](Self::view) has.
    pub fn connected(&self, namespace: &str) -> usize {
        let planes = self.planes(namespace);
        planes.map_or(0, |planes| planes.lock().connected())
    }

    fn planes(&self, namespace: &str) -> Option<Arc<Mutex<NamespaceSessions>>> {
        self.namespaces.lock().get(namespace).cloned()
    }
}

impl NamespaceSessions {
    /// Those that are not joining any more.
    fn counted(&self, now: Instant) -> impl Iterator<Item = &SessionState> {
        let planes = self.planes.values();
        planes.filter(move |plane| plane.joining.is_none_or(|until| until <= now))
    }

    /// How many count, and the oldest number among them.
    fn standing(&self, now: Instant) -> (usize, u64) {
        let acked = self.counted(now).map(|plane| plane.acked);
        acked.fold((0, u64::MAX), |(count, oldest), acked| {
            (count + 1, oldest.min(acked))
        })
    }

    /// Does what `change` does to one of them. A route that all of them used before and use now is
    /// not concerned.
    fn change(
        &mut self,
        id: u64,
        now: Instant,
        change: impl FnOnce(&mut SessionState),
    ) -> AffectedRoutes {
        let (count, oldest) = self.standing(now);
        let Some(plane) = self.planes.get_mut(&id) else {
            return AffectedRoutes::None;
        };
        change(plane);
        match self.standing(now) {
            (after, _) if (after == 0) != (count == 0) => AffectedRoutes::All,
            (_, now_oldest) => AffectedRoutes::After(oldest.min(now_oldest)),
        }
    }

    fn connected(&self) -> usize {
        let planes = self.planes.values();
        planes.filter(|plane| !plane.expected_back).count()
    }

    /// The one of this name that is expected back, or a new one.
    fn take_back(&mut self, name: &str, joining: Instant) -> SessionState {
        let id = self
            .planes
            .iter()
            .find(|(_, plane)| plane.expected_back && plane.name == name)
            .map(|(id, _)| *id);
        let new = || SessionState {
            name: name.to_owned(),
            joining: Some(joining),
            ..SessionState::default()
        };
        let known = id.and_then(|id| self.planes.remove(&id));
        SessionState {
            expected_back: false,
            ..known.unwrap_or_else(new)
        }
    }
}

impl Session {
    /// Its stream ends, but what it said counts on until this is dropped or the data plane is
    /// back; meanwhile it takes no place.
    pub fn expect_back(&self) {
        self.with(|planes, id| {
            if let Some(plane) = planes.planes.get_mut(&id) {
                plane.expected_back = true;
            }
        });
    }

    /// That it uses the table of this number.
    pub fn ack(&self, number: u64, now: Instant) -> AffectedRoutes {
        self.with(|planes, id| {
            let known = planes.planes.get(&id);
            let same = |plane: &SessionState| {
                plane.joining.is_none() && plane.acked == number && plane.refused.is_none()
            };
            if known.is_none_or(same) {
                return AffectedRoutes::None;
            }
            planes.change(id, now, |plane| {
                plane.joining = None;
                plane.acked = number;
                plane.refused = None;
            })
        })
    }

    pub fn nack(&self, number: u64, reason: &str, now: Instant) -> AffectedRoutes {
        self.with(|planes, id| {
            planes.change(id, now, |plane| {
                plane.joining = None;
                plane.refused = Some((number, shortened(reason, MAX_REASON)));
            })
        })
    }

    /// What it says of instances counts from now on, in place of what it said of them before.
    pub fn report(&self, report: &Report, table: &ResourceSet) -> ReportChanges {
        self.with(|planes, id| {
            let NamespaceSessions { planes, instances } = planes;
            let Some(plane) = planes.get_mut(&id) else {
                return ReportChanges::default();
            };
            if plane.said.len() > table.len() {
                plane.said.retain(|instance, flags| {
                    let stays = table.has_instance(&instance.0, &instance.1);
                    if !stays {
                        uncount(instances, instance, *flags);
                    }
                    stays
                });
            }
            let mut changes = ReportChanges::default();
            for said in &report.instances {
                if table.has_instance(&said.endpoint, &said.instance) {
                    count(instances, &mut plane.said, said, &mut changes);
                }
            }
            changes
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut NamespaceSessions, u64) -> T) -> T {
        act(&mut self.planes.lock(), self.id)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut namespaces = self.sessions.namespaces.lock();
        // Another one of that name may have been opened since this one was empty.
        let is_current = (namespaces.get(&self.namespace))
            .is_some_and(|current| Arc::ptr_eq(current, &self.planes));
        let mut planes = self.planes.lock();
        let NamespaceSessions { planes, instances } = &mut *planes;
        if let Some(plane) = planes.remove(&self.id) {
            // No BreakerChange: a data plane that leaves has not seen anything close.
            for (instance, flags) in plane.said {
                uncount(instances, &instance, flags);
            }
        }
        if planes.is_empty() && is_current {
            namespaces.remove(&self.namespace);
        }
    }
}

fn refusal(plane: &SessionState) -> Option<Nack> {
    let (refused, reason) = plane.refused.clone()?;
    Some(Nack {
        data_plane: plane.name.clone(),
        acked: plane.acked,
        refused,
        reason,
    })
}

/// For a status, an Event or the log: of at most so many bytes, without control characters, which
/// could be instructions to the terminal of whoever reads it.
pub(super) fn shortened(text: &str, max: usize) -> String {
    let end = text.floor_char_boundary(max);
    let text = text.get(..end).unwrap_or_default();
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
