//! Who may hold a connection. A place is taken before the handshake, and proven once a data plane
//! talks on it; strangers get some places together, and one address some of all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

/// How many connections at a time.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub all: usize,
    /// On which nobody has proven anything yet.
    pub unproven: usize,
    /// Of one address: a node's sidecars on the host's network, or those behind one translated
    /// address, are some hundred.
    pub peer: usize,
    /// Of one address, on which nobody has proven anything yet.
    pub unproven_peer: usize,
}

impl Default for Most {
    fn default() -> Self {
        Self {
            all: 20_000,
            unproven: 5_000,
            peer: 1_000,
            unproven_peer: 100,
        }
    }
}

#[derive(Debug)]
pub struct Places {
    most: Most,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: Count,
    by_peer: HashMap<IpAddr, Count>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    all: usize,
    unproven: usize,
}

/// One connection's place, until dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    peer: IpAddr,
    proven: AtomicBool,
}

impl Places {
    pub fn new(most: Most) -> Self {
        Self {
            most,
            taken: Mutex::default(),
        }
    }

    /// `None`: there are too many already.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        // One peer may write the same address in two ways.
        let peer = peer.to_canonical();
        let mut taken = self.taken.lock();
        let own = taken.by_peer.get(&peer).copied().unwrap_or_default();
        let (total, most) = (taken.total, self.most);
        if total.all >= most.all
            || total.unproven >= most.unproven
            || own.all >= most.peer
            || own.unproven >= most.unproven_peer
        {
            return None;
        }
        taken.change(peer, |count| {
            count.all += 1;
            count.unproven += 1;
        });
        Some(Place {
            places: self.clone(),
            peer,
            proven: AtomicBool::new(false),
        })
    }
}

impl Place {
    /// A data plane has proven itself on it.
    pub fn prove(&self) {
        if !self.proven.swap(true, Ordering::Relaxed) {
            let mut taken = self.places.taken.lock();
            taken.change(self.peer, |count| count.unproven -= 1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let proven = *self.proven.get_mut();
        let mut taken = self.places.taken.lock();
        taken.change(self.peer, |count| {
            count.all -= 1;
            count.unproven -= usize::from(!proven);
        });
    }
}

impl Taken {
    fn change(&mut self, peer: IpAddr, change: impl Fn(&mut Count)) {
        change(&mut self.total);
        let own = self.by_peer.entry(peer).or_default();
        change(own);
        if own.all == 0 {
            self.by_peer.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn peer(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    #[test]
    fn strangers_take_neither_the_places_of_data_planes_nor_those_of_other_strangers() {
        let places = Arc::new(Places::new(Most {
            all: 6,
            unproven: 3,
            peer: 3,
            unproven_peer: 2,
        }));
        let strangers: Vec<_> = (0..9).filter_map(|_| places.take(peer(1))).collect();
        assert_eq!(strangers.len(), 2);
        let data_plane = places.take(peer(2)).unwrap();
        assert!(
            places.take(peer(3)).is_none(),
            "strangers have all of theirs"
        );
        data_plane.prove();
        data_plane.prove();
        let second = places.take(peer(2)).unwrap();
        second.prove();
        let third = places.take(peer(2)).unwrap();
        assert!(places.take(peer(2)).is_none(), "one address has all of its");
        drop((strangers, second, third));
        assert_eq!(places.taken.lock().by_peer.len(), 1);
        drop(data_plane);
        assert!(places.taken.lock().by_peer.is_empty());
        assert_eq!(places.taken.lock().total.all, 0);
    }
}
