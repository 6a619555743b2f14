//! The newest table of each namespace, in a `watch`: readers see the newest one, and slow ones skip
//! the rest.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::snapshot::Snapshot;

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

#[cfg(test)]
mod tests {
    use super::*;

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
