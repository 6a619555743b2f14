//! The newest table of each namespace, in a `watch`: readers see the newest one, and slow ones skip
//! the rest. Beside it the [`Feed`] that its readers share.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{feed::Feed, snapshot::Snapshot};

/// All namespaces' newest snapshots.
#[derive(Debug, Default)]
pub struct Hub {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    namespaces: HashMap<String, Tables>,
    /// Both kinds are listed: a namespace that is not in `occupied` has no objects.
    listed: bool,
    occupied: BTreeSet<String>,
}

/// Of one namespace.
#[derive(Debug)]
struct Tables {
    newest: watch::Sender<Option<Arc<Snapshot>>>,
    feed: Arc<Feed>,
}

/// One reader of a namespace's tables.
#[derive(Clone, Debug)]
pub struct Receiver {
    newest: watch::Receiver<Option<Arc<Snapshot>>>,
    pub feed: Arc<Feed>,
}

impl Receiver {
    /// `None` until it is known.
    pub fn newest(&self) -> Option<Arc<Snapshot>> {
        self.newest.borrow().clone()
    }

    /// Returns once there is a table of another number. `None` when there will be none.
    pub async fn newer(&mut self, than: Option<u64>) -> Option<()> {
        let newer = self.newest.wait_for(|newest| {
            let number = newest.as_ref().map(|newest| newest.number);
            number.is_some() && number != than
        });
        newer.await.ok().map(|_| ())
    }
}

impl Tables {
    fn new(newest: Option<Arc<Snapshot>>) -> Self {
        let tables = Self {
            newest: watch::Sender::new(None),
            feed: Arc::default(),
        };
        if let Some(newest) = newest {
            tables.publish(newest);
        }
        tables
    }

    fn publish(&self, newest: Arc<Snapshot>) {
        let has_readers = self.newest.receiver_count() > 0;
        self.feed.publish(newest.clone(), has_readers);
        self.newest.send_replace(Some(newest));
    }

    fn subscribe(&self) -> Receiver {
        Receiver {
            newest: self.newest.subscribe(),
            feed: self.feed.clone(),
        }
    }

    /// Nobody reads them, and they say nothing.
    fn unused(&self) -> bool {
        let newest = self.newest.borrow();
        self.newest.receiver_count() == 0
            && newest.as_ref().is_none_or(|newest| newest.set.is_empty())
    }
}

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
            .or_insert_with(|| Tables::new(empty))
            .subscribe()
    }

    pub fn current(&self, namespace: &str) -> Option<Arc<Snapshot>> {
        let state = self.state.lock();
        state.namespaces.get(namespace)?.newest.borrow().clone()
    }

    /// Whoever subscribes from now on finds this; whoever has, is woken.
    pub fn publish(&self, snapshot: Snapshot) {
        let mut state = self.state.lock();
        let namespace = snapshot.namespace.clone();
        state
            .namespaces
            .entry(namespace)
            .or_insert_with(|| Tables::new(None))
            .publish(Arc::new(snapshot));
    }

    /// These namespaces hold objects; the others get an empty table. Out: those that are forgotten.
    pub fn set_occupied(&self, occupied: BTreeSet<String>) -> Vec<String> {
        let mut state = self.state.lock();
        for (namespace, tables) in &state.namespaces {
            if !occupied.contains(namespace) && tables.newest.borrow().is_none() {
                tables.publish(Arc::new(Snapshot::empty(namespace)));
            }
        }
        // An empty namespace that nobody listens to needs no place here.
        let forgotten = state
            .namespaces
            .extract_if(|namespace, tables| !occupied.contains(namespace) && tables.unused());
        let forgotten = forgotten.map(|(namespace, _)| namespace).collect();
        state.listed = true;
        state.occupied = occupied;
        forgotten
    }

    /// A reader has left.
    pub fn release(&self, namespace: &str) {
        let mut state = self.state.lock();
        let unused = !state.occupied.contains(namespace)
            && state.namespaces.get(namespace).is_some_and(Tables::unused);
        if unused {
            state.namespaces.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_of_a_namespace_before_the_lists_are_in() {
        let hub = Hub::default();
        let (a, b) = (hub.subscribe("a"), hub.subscribe("b"));
        assert!(a.newest().is_none());
        hub.set_occupied(["a".to_owned()].into());
        assert!(a.newest().is_none(), "its own table is yet to come");
        assert!(b.newest().is_some_and(|b| b.set.is_empty()));
        assert!(hub.subscribe("c").newest().is_some());
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
