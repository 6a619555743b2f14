//! Connection slots of a port: how many connections there may be, and which one has to go when
//! there are too many.
//!
//! In: the addresses of clients, before the TLS handshake, and who has authenticated. Out: a
//! [`Slot`] per connection. Clients that have not authenticated share a limit. When it is reached, a
//! client that has fewer of them than another takes a slot from that one, so that silent connections
//! keep nobody out. A connection is never closed for another while it is authenticated.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// How many connections at a time.
#[derive(Clone, Copy, Debug)]
pub struct SlotLimits {
    pub total: usize,
    /// Not authenticated.
    pub unauthenticated: usize,
    /// Of one address: a node's sidecars on the host's network, or those behind one translated
    /// address, are some hundred.
    pub per_address: usize,
    /// Of one address, not authenticated. A client over it is refused: in a reconnect storm from
    /// behind one address the first ones are to finish, not to be replaced by the next.
    pub unauthenticated_per_address: usize,
}

#[derive(Debug)]
pub struct Slots {
    limits: SlotLimits,
    state: Mutex<State>,
}

/// One connection's slot, until dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    address: IpAddr,
    id: u64,
    evicted: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// Grows, so the lowest is the oldest.
    next_id: u64,
    total: usize,
    unauthenticated: usize,
    addresses: HashMap<IpAddr, Address>,
    /// Not authenticated, by [`network`].
    networks: HashMap<IpAddr, usize>,
}

#[derive(Debug, Default)]
struct Address {
    unauthenticated: BTreeMap<u64, CancellationToken>,
    /// With how often each has [authenticated](Slot::authenticate).
    authenticated: HashMap<u64, usize>,
}

/// Its connection is authenticated until this and all others of it are dropped.
#[derive(Debug)]
pub struct Authenticated(Arc<Slot>);

impl Slots {
    pub fn new(limits: SlotLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
        }
    }

    /// `None`: there are too many already.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        // One client may write the same address in two ways.
        let address = address.to_canonical();
        let limits = self.limits;
        let mut state = self.state.lock();
        if let Some(own) = state.addresses.get(&address)
            && (own.len() >= limits.per_address
                || own.unauthenticated.len() >= limits.unauthenticated_per_address)
        {
            return None;
        }
        if state.total >= limits.total || state.unauthenticated >= limits.unauthenticated {
            let victim = state.victim_for(address)?;
            state.evict(victim);
        }
        let (id, evicted) = (state.next_id, CancellationToken::new());
        state.next_id += 1;
        state.add(address, id, evicted.clone());
        Some(Slot {
            slots: self.clone(),
            address,
            id,
            evicted,
        })
    }
}

impl Slot {
    /// From now on, as long as the result lives, it is counted among the authenticated ones, and not
    /// closed for another.
    pub fn authenticate(self: &Arc<Self>) -> Authenticated {
        self.slots.state.lock().authenticate(self.address, self.id);
        Authenticated(self.clone())
    }

    /// Returns when another client has been given this slot: its connection is to be closed.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // It may be evicted at this very moment: whoever has the lock first gives it back.
        self.slots.state.lock().remove(self.address, self.id);
    }
}

impl Drop for Authenticated {
    fn drop(&mut self) {
        let Slot {
            slots,
            address,
            id,
            evicted,
        } = &*self.0;
        slots.state.lock().unauthenticate(*address, *id, evicted);
    }
}

impl State {
    /// Whose oldest unauthenticated connection makes room for one more of `address`. Somebody who
    /// would be left with fewer than the newcomer gives none: two that have the same would only
    /// push each other out.
    fn victim_for(&self, address: IpAddr) -> Option<IpAddr> {
        let in_network = |of: &IpAddr| self.networks.get(&network(*of)).copied().unwrap_or(0);
        let own_network = in_network(&address);
        let own = self.addresses.get(&address);
        let own = own.map_or(0, |own| own.unauthenticated.len());
        let candidates = self.addresses.iter().filter(|(candidate, held)| {
            if network(**candidate) == network(address) {
                held.unauthenticated.len() > own + 1
            } else {
                !held.unauthenticated.is_empty() && in_network(candidate) > own_network + 1
            }
        });
        candidates
            .max_by_key(|(candidate, held)| {
                let oldest = held.unauthenticated.keys().next().copied();
                let held = held.unauthenticated.len();
                (in_network(candidate), held, Reverse(oldest))
            })
            .map(|(candidate, _)| *candidate)
    }

    fn evict(&mut self, address: IpAddr) {
        let oldest = self
            .addresses
            .get(&address)
            .and_then(|held| held.unauthenticated.first_key_value());
        if let Some((id, evicted)) = oldest.map(|(id, evicted)| (*id, evicted.clone())) {
            self.remove(address, id);
            evicted.cancel();
        }
    }

    fn add(&mut self, address: IpAddr, id: u64, evicted: CancellationToken) {
        self.total += 1;
        self.list_unauthenticated(address, id, evicted);
    }

    fn list_unauthenticated(&mut self, address: IpAddr, id: u64, evicted: CancellationToken) {
        self.unauthenticated += 1;
        *self.networks.entry(network(address)).or_default() += 1;
        let held = self.addresses.entry(address).or_default();
        held.unauthenticated.insert(id, evicted);
    }

    /// Nothing, if it is not listed: it may have been evicted.
    fn authenticate(&mut self, address: IpAddr, id: u64) {
        let is_first = self.unlist_unauthenticated(address, id);
        let Some(held) = self.addresses.get_mut(&address) else {
            return;
        };
        if is_first {
            held.authenticated.insert(id, 1);
        } else if let Some(times) = held.authenticated.get_mut(&id) {
            *times += 1;
        }
    }

    /// Once less; nothing, if it is not among the authenticated ones.
    fn unauthenticate(&mut self, address: IpAddr, id: u64, evicted: &CancellationToken) {
        let Some(held) = self.addresses.get_mut(&address) else {
            return;
        };
        let Some(times) = held.authenticated.get_mut(&id) else {
            return;
        };
        *times -= 1;
        if *times == 0 {
            held.authenticated.remove(&id);
            self.list_unauthenticated(address, id, evicted.clone());
        }
    }

    /// Nothing, if it is not listed: it may have been evicted.
    fn remove(&mut self, address: IpAddr, id: u64) {
        let listed = self.unlist_unauthenticated(address, id);
        let Some(held) = self.addresses.get_mut(&address) else {
            return;
        };
        if listed || held.authenticated.remove(&id).is_some() {
            self.total -= 1;
        }
        if held.len() == 0 {
            self.addresses.remove(&address);
        }
    }

    /// Whether it was listed.
    fn unlist_unauthenticated(&mut self, address: IpAddr, id: u64) -> bool {
        let held = self.addresses.get_mut(&address);
        if held.is_none_or(|held| held.unauthenticated.remove(&id).is_none()) {
            return false;
        }
        self.unauthenticated -= 1;
        let network = network(address);
        if let Some(count) = self.networks.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(&network);
            }
        }
        true
    }
}

impl Address {
    fn len(&self) -> usize {
        self.unauthenticated.len() + self.authenticated.len()
    }
}

/// All addresses of an IPv6 /64 may be one machine's.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let prefix = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(prefix).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn v4(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    fn v6(network: u16, host: u16) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host).into()
    }

    fn slots(total: usize, unauthenticated: usize, per_address: usize) -> Arc<Slots> {
        Arc::new(Slots::new(SlotLimits {
            total,
            unauthenticated,
            per_address: per_address + 1,
            unauthenticated_per_address: per_address,
        }))
    }

    fn take(slots: &Arc<Slots>, address: IpAddr) -> Option<Arc<Slot>> {
        slots.take(address).map(Arc::new)
    }

    fn evicted(held: &[Arc<Slot>]) -> Vec<usize> {
        let held = held.iter().enumerate();
        held.filter(|(_, slot)| slot.evicted.is_cancelled())
            .map(|(at, _)| at)
            .collect()
    }

    fn assert_all_given_back(slots: &Slots) {
        let state = slots.state.lock();
        assert!(state.addresses.is_empty() && state.networks.is_empty());
        assert_eq!((state.total, state.unauthenticated), (0, 0));
    }

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let slots = slots(9, 9, 2);
        let silent: Vec<_> = (0..9).filter_map(|_| take(&slots, v4(1))).collect();
        assert_eq!(silent.len(), 2);
        let twice = [silent[0].authenticate(), silent[0].authenticate()];
        let third = take(&slots, v4(1)).unwrap();
        let once = third.authenticate();
        assert!(slots.take(v4(1)).is_none(), "one address has all of its");
        drop((silent, third));
        drop((twice, once));
        assert_all_given_back(&slots);
    }

    #[test]
    fn a_slot_that_is_evicted_while_its_connection_ends_is_given_back_once() {
        let slots = slots(9, 9, 4);
        let [ends, stays] = [(); 2].map(|()| take(&slots, v4(1)).unwrap());
        // Its connection has ended, and waits for the lock that the newcomer holds.
        slots.state.lock().evict(v4(1));
        slots.state.lock().remove(v4(1), ends.id);
        assert_eq!(slots.state.lock().total, 1, "the other one's");
        drop(ends.authenticate());
        drop((ends, stays));
        assert_all_given_back(&slots);
    }

    #[test]
    fn silent_connections_of_many_addresses_keep_no_newcomer_out() {
        let slots = slots(100, 12, 4);
        let mut silent: Vec<_> = (0..12).map(|n| take(&slots, v4(n / 4)).unwrap()).collect();
        // As soon as one is closed it comes back, but gains nothing over the others of its kind.
        for newcomer in 100..120 {
            let data_plane = take(&slots, v4(newcomer)).unwrap();
            assert!(evicted(&silent).len() <= 1);
            std::mem::forget(data_plane.authenticate());
            silent.retain(|slot| !slot.evicted.is_cancelled());
            if let Some(again) = take(&slots, v4(newcomer % 3)) {
                silent.push(again);
            }
        }
    }

    #[test]
    fn the_oldest_connection_of_the_address_with_most_makes_room() {
        let slots = slots(100, 5, 4);
        let few: Vec<_> = (0..2).map(|_| take(&slots, v4(1)).unwrap()).collect();
        let most: Vec<_> = (0..3).map(|_| take(&slots, v4(2)).unwrap()).collect();
        let _newcomer = slots.take(v4(3)).unwrap();
        assert_eq!((evicted(&few), evicted(&most)), (vec![], vec![0]));
        // Two of each are left, and one of the newcomer.
        assert!(slots.take(v4(3)).is_none(), "who has as many gets no more");
        assert!(slots.take(v4(4)).is_some());
    }

    #[test]
    fn a_connection_that_has_authenticated_is_not_closed_for_another() {
        let slots = slots(3, 3, 9);
        let held: Vec<_> = (0..3).map(|_| take(&slots, v4(1)).unwrap()).collect();
        let authenticated = held[0].authenticate();
        let _newcomer = slots.take(v4(2)).unwrap();
        assert_eq!(evicted(&held), [1]);
        let too = held[2].authenticate();
        assert!(slots.take(v4(3)).is_none(), "all others have authenticated");
        assert_eq!(evicted(&held), [1]);
        drop((held[0].authenticate(), too));
        assert!(slots.take(v4(3)).is_none(), "the first one still is");
        drop(authenticated);
        let _newcomer = slots.take(v4(3)).unwrap();
        assert_eq!(evicted(&held), [0, 1], "and now it is not");
    }

    #[test]
    fn all_addresses_of_an_ipv6_network_count_as_one_client() {
        let slots = slots(100, 6, 4);
        let many: Vec<_> = (0..4).map(|n| take(&slots, v6(1, n)).unwrap()).collect();
        let two: Vec<_> = (0..2).map(|_| take(&slots, v6(2, 0)).unwrap()).collect();
        let _newcomer = slots.take(v4(1)).unwrap();
        assert_eq!((evicted(&many), evicted(&two)), (vec![0], vec![]));
        assert!(slots.take(v6(1, 9)).is_none(), "its network has most");
    }

    #[test]
    fn in_one_network_the_address_with_most_makes_room_for_the_others() {
        let slots = slots(100, 4, 4);
        let silent: Vec<_> = (0..4).map(|_| take(&slots, v6(1, 1)).unwrap()).collect();
        assert!(slots.take(v6(1, 2)).is_some());
        assert_eq!(evicted(&silent), [0]);
    }
}
