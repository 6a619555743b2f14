//! The data planes that are connected, and what they say.
//!
//! In: Acks, Nacks and reports of each stream. Out: per namespace, who uses which revision and
//! how each instance fares; and the breakers that opened or closed with a report. What is said of
//! instances that are not in the namespace's table is ignored, so memory is bounded by the table.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dataplane_protocol::{
    EndpointId, InstanceId, RoutingTable,
    sync::{Breaker, Health, InstanceReport, Report},
};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Longest text of a data plane that is kept, bytes: a Nack's reason, an instance's.
const MAX_REASON: usize = 512;

/// A data plane that has just joined counts with its first answer to a table, or after this long:
/// else each pod of a deployment that grows would turn all routes to `Pending` and back.
const JOINING: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Sessions {
    namespaces: Mutex<HashMap<String, Planes>>,
    next_id: AtomicU64,
}

/// One connected data plane; leaves when dropped.
#[derive(Debug)]
pub struct Session {
    sessions: Arc<Sessions>,
    namespace: String,
    id: u64,
}

/// The data planes of one namespace together.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Without those that are still [joining](JOINING).
    pub connected: usize,
    /// When the next of these counts though it has answered nothing.
    pub joining: Option<Instant>,
    /// [Number](super::publish::Snapshot::number) of the newest table that each has acknowledged,
    /// sorted.
    pub acked: Vec<u64>,
    pub refusals: Vec<Refusal>,
    pub instances: BTreeMap<EndpointId, BTreeMap<InstanceId, Seen>>,
}

/// A data plane that could not take a table and serves on with an older one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub data_plane: String,
    /// Numbers of tables.
    pub acked: u64,
    pub refused: u64,
    pub reason: String,
}

type Instance = Arc<(EndpointId, InstanceId)>;

/// How many data planes say what of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub reported: u32,
    /// Not unhealthy, breaker not open.
    pub usable: u32,
    pub open: u32,
    /// The last reason given for not being usable.
    pub reason: String,
}

/// Seen by the first data plane (opened) or no longer by any (closed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerChange {
    pub endpoint: EndpointId,
    pub instance: InstanceId,
    pub open: bool,
    pub reason: String,
}

#[derive(Debug, Default)]
struct Planes {
    planes: HashMap<u64, Plane>,
    instances: HashMap<Instance, Seen>,
}

#[derive(Debug, Default)]
struct Plane {
    name: String,
    acked: u64,
    refused: Option<(u64, String)>,
    /// Until when it does not count; `None` once it has answered.
    joining: Option<Instant>,
    said: HashMap<Instance, Flags>,
    /// Its stream has ended only to be opened again.
    expected_back: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flags {
    usable: bool,
    open: bool,
}

impl Sessions {
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
        let mut namespaces = self.namespaces.lock();
        let planes = namespaces.entry(namespace.to_owned()).or_default();
        if planes.connected() >= limit {
            return None;
        }
        let plane = planes.take_back(&shortened(name), now + JOINING);
        planes.planes.insert(id, plane);
        Some(Session {
            sessions: self.clone(),
            namespace: namespace.to_owned(),
            id,
        })
    }

    /// Of the instances those that are in `table`: what was said of others may be kept a while.
    pub fn view(&self, namespace: &str, table: &RoutingTable, now: Instant) -> View {
        let namespaces = self.namespaces.lock();
        let Some(planes) = namespaces.get(namespace) else {
            return View::default();
        };
        let joining = |plane: &&Plane| plane.joining.filter(|until| now < *until);
        let counted = planes.planes.values().filter(|it| joining(it).is_none());
        let mut acked: Vec<u64> = counted.map(|plane| plane.acked).collect();
        acked.sort_unstable();
        let mut refusals: Vec<Refusal> = planes.planes.values().filter_map(refusal).collect();
        refusals.sort_by(|a, b| a.data_plane.cmp(&b.data_plane));
        let mut instances: BTreeMap<EndpointId, BTreeMap<InstanceId, Seen>> = BTreeMap::new();
        let present = planes.instances.iter();
        for (instance, seen) in present.filter(|(it, _)| in_table(table, &it.0, &it.1)) {
            let of_endpoint = instances.entry(instance.0.clone()).or_default();
            of_endpoint.insert(instance.1.clone(), seen.clone());
        }
        View {
            connected: acked.len(),
            joining: planes.planes.values().filter_map(|it| joining(&it)).min(),
            acked,
            refusals,
            instances,
        }
    }

    /// Without those that are expected back, which the [view](Self::view) has.
    pub fn connected(&self, namespace: &str) -> usize {
        self.namespaces
            .lock()
            .get(namespace)
            .map_or(0, Planes::connected)
    }
}

impl Planes {
    fn connected(&self) -> usize {
        let planes = self.planes.values();
        planes.filter(|plane| !plane.expected_back).count()
    }

    /// The one of this name that is expected back, or a new one.
    fn take_back(&mut self, name: &str, joining: Instant) -> Plane {
        let id = self
            .planes
            .iter()
            .find(|(_, plane)| plane.expected_back && plane.name == name)
            .map(|(id, _)| *id);
        let new = || Plane {
            name: name.to_owned(),
            joining: Some(joining),
            ..Plane::default()
        };
        let known = id.and_then(|id| self.planes.remove(&id));
        Plane {
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

    /// That it uses the table of this number; whether that is news.
    pub fn ack(&self, number: u64) -> bool {
        self.with(|planes, id| {
            let Some(plane) = planes.planes.get_mut(&id) else {
                return false;
            };
            let joins = plane.joining.take().is_some();
            let news = joins || plane.acked != number || plane.refused.is_some();
            plane.acked = number;
            plane.refused = None;
            news
        })
    }

    pub fn nack(&self, number: u64, reason: &str) {
        self.with(|planes, id| {
            if let Some(plane) = planes.planes.get_mut(&id) {
                plane.joining = None;
                plane.refused = Some((number, shortened(reason)));
            }
        });
    }

    /// What it says of instances counts from now on, in place of what it said of them before.
    /// Nothing when nothing changed by it.
    pub fn report(&self, report: &Report, table: &RoutingTable) -> Option<Vec<BreakerChange>> {
        self.with(|planes, id| {
            let Planes { planes, instances } = planes;
            let plane = planes.get_mut(&id)?;
            if plane.said.len() > instances_of(table) {
                plane.said.retain(|instance, flags| {
                    let stays = in_table(table, &instance.0, &instance.1);
                    if !stays {
                        uncount(instances, instance, *flags);
                    }
                    stays
                });
            }
            let mut changes = Vec::new();
            let mut news = false;
            for said in &report.instances {
                if in_table(table, &said.endpoint, &said.instance) {
                    let (changed, change) = count(instances, &mut plane.said, said, table);
                    news |= changed;
                    changes.extend(change);
                }
            }
            news.then_some(changes)
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Planes, u64) -> T) -> T
    where
        T: Default,
    {
        self.sessions
            .namespaces
            .lock()
            .get_mut(&self.namespace)
            .map(|planes| act(planes, self.id))
            .unwrap_or_default()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut namespaces = self.sessions.namespaces.lock();
        let Some(planes) = namespaces.get_mut(&self.namespace) else {
            return;
        };
        if let Some(plane) = planes.planes.remove(&self.id) {
            // No BreakerChange: a data plane that leaves has not seen anything close.
            for (instance, flags) in plane.said {
                uncount(&mut planes.instances, &instance, flags);
            }
        }
        if planes.planes.is_empty() {
            namespaces.remove(&self.namespace);
        }
    }
}

fn refusal(plane: &Plane) -> Option<Refusal> {
    let (refused, reason) = plane.refused.clone()?;
    Some(Refusal {
        data_plane: plane.name.clone(),
        acked: plane.acked,
        refused,
        reason,
    })
}

fn in_table(table: &RoutingTable, endpoint: &EndpointId, instance: &InstanceId) -> bool {
    table.instances.get(endpoint).is_some_and(|list| {
        list.binary_search_by(|known| known.id.cmp(instance))
            .is_ok()
    })
}

fn instances_of(table: &RoutingTable) -> usize {
    table.instances.values().map(|list| list.len()).sum()
}

/// Whether anything is new by what is said, and what that does to the breaker.
fn count(
    instances: &mut HashMap<Instance, Seen>,
    plane: &mut HashMap<Instance, Flags>,
    said: &InstanceReport,
    table: &RoutingTable,
) -> (bool, Option<BreakerChange>) {
    let flags = Flags {
        usable: said.health != Health::Unhealthy && said.breaker != Breaker::Open,
        open: said.breaker == Breaker::Open,
    };
    let key = (said.endpoint.clone(), said.instance.clone());
    let known = instances
        .get_key_value(&key)
        .map(|(known, _)| known.clone());
    let instance = known.unwrap_or_else(|| Arc::new(key));
    let before = plane.insert(instance.clone(), flags);
    let seen = instances.entry(instance.clone()).or_default();
    let was_open = seen.open > 0;
    if let Some(before) = before {
        seen.usable = seen.usable.saturating_sub(u32::from(before.usable));
        seen.open = seen.open.saturating_sub(u32::from(before.open));
    } else {
        seen.reported += 1;
    }
    seen.usable += u32::from(flags.usable);
    seen.open += u32::from(flags.open);
    let reason = if flags.usable {
        String::new()
    } else {
        shortened(&said.reason)
    };
    let news = before != Some(flags) || (!flags.usable && seen.reason != reason);
    if !flags.usable {
        seen.reason = reason;
    }
    if flags.open && !was_open {
        let change = BreakerChange {
            endpoint: said.endpoint.clone(),
            instance: said.instance.clone(),
            open: true,
            reason: shortened(&said.reason),
        };
        return (news, Some(change));
    }
    let change = before.and_then(|before| closed(instances, &instance, before, table));
    (news, change)
}

fn uncount(instances: &mut HashMap<Instance, Seen>, instance: &Instance, said: Flags) {
    if let Some(seen) = instances.get_mut(instance) {
        seen.reported = seen.reported.saturating_sub(1);
        seen.usable = seen.usable.saturating_sub(u32::from(said.usable));
        seen.open = seen.open.saturating_sub(u32::from(said.open));
        if seen.reported == 0 {
            instances.remove(instance);
        }
    }
}

/// If `before` said that it is open, nobody sees it so any more, and it is still in the table.
fn closed(
    instances: &HashMap<Instance, Seen>,
    instance: &Instance,
    before: Flags,
    table: &RoutingTable,
) -> Option<BreakerChange> {
    let open = instances.get(instance).is_some_and(|seen| seen.open > 0);
    let (endpoint, id) = (&instance.0, &instance.1);
    (before.open && !open && in_table(table, endpoint, id)).then(|| BreakerChange {
        endpoint: endpoint.clone(),
        instance: id.clone(),
        open: false,
        reason: String::new(),
    })
}

/// For a status or an Event: of bounded length, without control characters, which could be
/// instructions to the terminal of whoever reads it.
fn shortened(text: &str) -> String {
    let mut end = text.len().min(MAX_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = text.get(..end).unwrap_or_default();
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
