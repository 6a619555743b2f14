//! Tables as they are offered to data planes.
//!
//! In: what compile made of a namespace. Out: a [`Snapshot`] under a new revision if its content
//! changed, in a `watch` per namespace: readers see the newest one, and slow ones skip the rest.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::{Bytes, BytesMut};
use compile::{Compiled, Kind, Verdict};
use dataplane_protocol::{
    Revision, RoutingTable,
    frame::{self, encode},
    resource::ResourceSet,
    sync::{MAX_TABLE_LINE, ToDataPlane},
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// One namespace's table, and what became of each object.
pub struct Snapshot {
    pub namespace: String,
    /// 1 for the first that this process made; grows when the table's content changes. It means
    /// nothing to another process, nor on the wire.
    pub number: u64,
    /// Of the content: the same in every process.
    pub revision: Revision,
    pub table: RoutingTable,
    pub set: ResourceSet,
    /// One per object, those included that could not be decoded.
    pub verdicts: Vec<Verdict>,
    /// By route: the first number that held its current generation.
    pub route_numbers: BTreeMap<String, u64>,
    /// Lines that turn the revision before into this one: the same for each reader that keeps up.
    step: Option<(u64, Bytes)>,
    /// Lines that make this table from nothing, once somebody has needed them.
    full: OnceLock<Option<Bytes>>,
}

impl fmt::Debug for Snapshot {
    /// Without the lines: they carry credentials as they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("namespace", &self.namespace)
            .field("revision", &self.revision)
            .field("number", &self.number)
            .field("verdicts", &self.verdicts)
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// What a namespace without objects gets.
    pub fn empty(namespace: &str) -> Self {
        let compiled = Compiled {
            table: RoutingTable {
                namespace: namespace.to_owned(),
                ..RoutingTable::default()
            },
            verdicts: Vec::new(),
        };
        Self::build(None, namespace, compiled)
    }

    /// What follows `previous`, or nothing when neither the table nor a verdict changed.
    pub fn next(previous: Option<&Self>, namespace: &str, compiled: Compiled) -> Option<Self> {
        let next = Self::build(previous, namespace, compiled);
        let same = previous.is_some_and(|previous| {
            previous.number == next.number && previous.verdicts == next.verdicts
        });
        (!same).then_some(next)
    }

    /// Lines for a reader that holds `held`: nothing, an older snapshot, or (`None` inside) this
    /// very content under whatever number.
    pub fn lines_for(&self, held: &Held) -> Result<Bytes, frame::Error> {
        match held {
            Held::Nothing => self.full_lines(),
            Held::Same => transaction(self, false, &ResourceSet::default(), None),
            Held::Snapshot(older) => match &self.step {
                Some((from, lines)) if *from == older.number => Ok(lines.clone()),
                _ => transaction(self, false, &older.set, Some(&self.set)),
            },
        }
    }

    fn build(previous: Option<&Self>, namespace: &str, compiled: Compiled) -> Self {
        let Compiled { table, verdicts } = compiled;
        let nothing = ResourceSet::default();
        let set = ResourceSet::after(previous.map_or(&nothing, |previous| &previous.set), &table);
        let revision = set.revision();
        let number = match previous {
            Some(previous) if previous.revision == revision => previous.number,
            Some(previous) => previous.number + 1,
            None => 1,
        };
        let mut next = Self {
            namespace: namespace.to_owned(),
            number,
            revision,
            route_numbers: route_numbers(previous, &verdicts, number),
            table,
            set,
            verdicts,
            step: None,
            full: OnceLock::new(),
        };
        next.step = previous.and_then(|previous| next.step_from(previous));
        next
    }

    fn step_from(&self, previous: &Self) -> Option<(u64, Bytes)> {
        if previous.number == self.number {
            return previous.step.clone();
        }
        // What cannot be encoded is found again, and said, where it is to be sent.
        let lines = transaction(self, false, &previous.set, Some(&self.set)).ok()?;
        Some((previous.number, lines))
    }

    fn full_lines(&self) -> Result<Bytes, frame::Error> {
        let make = || transaction(self, true, &ResourceSet::default(), Some(&self.set));
        match self.full.get_or_init(|| make().ok()) {
            Some(lines) => Ok(lines.clone()),
            None => make(),
        }
    }
}

/// What a reader has.
#[derive(Clone, Debug)]
pub enum Held {
    Nothing,
    /// The content of the snapshot that is to be sent.
    Same,
    Snapshot(Arc<Snapshot>),
}

/// All namespaces' newest snapshots.
#[derive(Debug, Default)]
pub struct Hub {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    namespaces: HashMap<String, Sender>,
    /// Both kinds are listed: a namespace that is not in `occupied` has no objects.
    listed: bool,
    occupied: BTreeSet<String>,
}

type Sender = watch::Sender<Option<Arc<Snapshot>>>;
pub type Receiver = watch::Receiver<Option<Arc<Snapshot>>>;

impl Hub {
    /// The namespace's newest table from now on. `None` until it is known: after a start, and
    /// while the lists that it is made of are not in.
    pub fn subscribe(&self, namespace: &str) -> Receiver {
        let mut state = self.state.lock();
        let empty = (state.listed && !state.occupied.contains(namespace))
            .then(|| Arc::new(Snapshot::empty(namespace)));
        state
            .namespaces
            .entry(namespace.to_owned())
            .or_insert_with(|| watch::Sender::new(empty))
            .subscribe()
    }

    pub fn current(&self, namespace: &str) -> Option<Arc<Snapshot>> {
        let state = self.state.lock();
        state.namespaces.get(namespace)?.borrow().clone()
    }

    /// Whoever subscribes from now on finds this; whoever has, is woken.
    pub fn publish(&self, snapshot: Snapshot) {
        let mut state = self.state.lock();
        let namespace = snapshot.namespace.clone();
        let snapshot = Some(Arc::new(snapshot));
        state
            .namespaces
            .entry(namespace)
            .or_insert_with(|| watch::Sender::new(None))
            .send_replace(snapshot);
    }

    /// These namespaces hold objects; the others get an empty table.
    pub fn set_occupied(&self, occupied: BTreeSet<String>) {
        let mut state = self.state.lock();
        for (namespace, sender) in &state.namespaces {
            if !occupied.contains(namespace) && sender.borrow().is_none() {
                sender.send_replace(Some(Arc::new(Snapshot::empty(namespace))));
            }
        }
        // An empty namespace that nobody listens to needs no place here.
        state.namespaces.retain(|namespace, sender| {
            occupied.contains(namespace)
                || sender.receiver_count() > 0
                || sender
                    .borrow()
                    .as_ref()
                    .is_some_and(|snapshot| !snapshot.set.is_empty())
        });
        state.listed = true;
        state.occupied = occupied;
    }

    /// A reader has left.
    pub fn release(&self, namespace: &str) {
        let mut state = self.state.lock();
        let unused = !state.occupied.contains(namespace)
            && state.namespaces.get(namespace).is_some_and(|sender| {
                sender.receiver_count() == 0
                    && sender
                        .borrow()
                        .as_ref()
                        .is_none_or(|snapshot| snapshot.set.is_empty())
            });
        if unused {
            state.namespaces.remove(namespace);
        }
    }
}

fn route_numbers(
    previous: Option<&Snapshot>,
    verdicts: &[Verdict],
    number: u64,
) -> BTreeMap<String, u64> {
    // Another object of that name begins at generation 1 again.
    let of = |verdict: &Verdict| (verdict.uid.clone(), verdict.generation);
    let before: BTreeMap<&str, _> = previous
        .map(|previous| previous.verdicts.as_slice())
        .unwrap_or_default()
        .iter()
        .filter(|verdict| verdict.kind == Kind::OllaRoute)
        .map(|verdict| (verdict.name.as_str(), of(verdict)))
        .collect();
    verdicts
        .iter()
        .filter(|verdict| verdict.kind == Kind::OllaRoute)
        .map(|verdict| {
            let kept = (before.get(verdict.name.as_str()) == Some(&of(verdict)))
                .then(|| previous?.route_numbers.get(&verdict.name).copied())
                .flatten();
            (verdict.name.clone(), kept.unwrap_or(number))
        })
        .collect()
}

fn transaction(
    snapshot: &Snapshot,
    full: bool,
    from: &ResourceSet,
    to: Option<&ResourceSet>,
) -> Result<Bytes, frame::Error> {
    let mut lines = BytesMut::new();
    let mut line = |message: &ToDataPlane| {
        encode(message, MAX_TABLE_LINE).map(|line| lines.extend_from_slice(&line))
    };
    line(&ToDataPlane::Begin {
        namespace: snapshot.namespace.clone(),
        full,
    })?;
    if let Some(to) = to {
        let difference = from.difference(to);
        for resource in difference.upserts {
            line(&ToDataPlane::Upsert(resource))?;
        }
        for key in difference.keeps {
            line(&ToDataPlane::Keep(key))?;
        }
        for key in difference.removes {
            line(&ToDataPlane::Remove(key))?;
        }
    }
    line(&ToDataPlane::Commit {
        revision: snapshot.revision,
    })?;
    Ok(lines.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::testing::{compiled, route_verdict};

    #[test]
    fn the_same_content_is_published_once() {
        let first = Snapshot::next(None, "a", compiled("a", &[1], vec![])).unwrap();
        assert_eq!(first.number, 1);
        assert!(Snapshot::next(Some(&first), "a", compiled("a", &[1], vec![])).is_none());
        let second = Snapshot::next(Some(&first), "a", compiled("a", &[2], vec![])).unwrap();
        assert_eq!(second.number, 2);
    }

    #[test]
    fn a_new_verdict_alone_keeps_the_revision() {
        let first = Snapshot::next(None, "a", compiled("a", &[1], vec![route_verdict("r", 1)]));
        let first = first.unwrap();
        let next = compiled("a", &[1], vec![route_verdict("r", 2)]);
        let second = Snapshot::next(Some(&first), "a", next).unwrap();
        assert_eq!(second.number, first.number);
    }

    #[test]
    fn a_pod_flip_does_not_move_the_revision_that_a_route_waits_for() {
        let verdicts = || vec![route_verdict("r", 1)];
        let first = Snapshot::next(None, "a", compiled("a", &[1], verdicts())).unwrap();
        let second = Snapshot::next(Some(&first), "a", compiled("a", &[2], verdicts())).unwrap();
        assert_eq!(second.number, 2);
        assert_eq!(second.route_numbers["r"], 1);
        let changed = compiled("a", &[3], vec![route_verdict("r", 2)]);
        let third = Snapshot::next(Some(&second), "a", changed).unwrap();
        assert_eq!(third.route_numbers["r"], 3);
    }

    #[test]
    fn a_route_that_was_made_anew_waits_for_its_own_revision() {
        let of = |uid: &str| {
            let mut verdict = route_verdict("r", 1);
            verdict.uid = Some(uid.to_owned());
            vec![verdict]
        };
        let first = Snapshot::next(None, "a", compiled("a", &[1], of("old"))).unwrap();
        let second = Snapshot::next(Some(&first), "a", compiled("a", &[2], of("new"))).unwrap();
        assert_eq!(second.route_numbers["r"], 2);
    }

    #[test]
    fn lines_that_carry_credentials_are_in_no_debug_text() {
        let first = Snapshot::next(None, "a", compiled("a", &[1], vec![])).unwrap();
        let second = Snapshot::next(Some(&first), "a", compiled("a", &[2], vec![])).unwrap();
        let sent = second.lines_for(&Held::Nothing).unwrap();
        assert!(sent.windows(8).any(|part| part == b"10.0.0.1"));
        assert!(!format!("{second:?}").contains("10.0.0.1"));
    }

    #[test]
    fn nothing_is_known_of_a_namespace_before_the_lists_are_in() {
        let hub = Hub::default();
        let (a, b) = (hub.subscribe("a"), hub.subscribe("b"));
        assert!(a.borrow().is_none());
        hub.set_occupied(["a".to_owned()].into());
        assert!(a.borrow().is_none(), "its own table is yet to come");
        assert!(b.borrow().as_ref().is_some_and(|b| b.set.is_empty()));
        assert!(hub.subscribe("c").borrow().is_some());
    }

    #[test]
    fn an_empty_namespace_is_forgotten_with_its_last_reader() {
        let hub = Hub::default();
        hub.set_occupied(BTreeSet::new());
        let reader = hub.subscribe("a");
        hub.release("a");
        assert!(hub.current("a").is_some());
        drop(reader);
        hub.release("a");
        assert!(hub.current("a").is_none());
    }
}
