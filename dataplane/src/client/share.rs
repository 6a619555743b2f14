//! What each client address holds of this process: connections, streams, kept bodies. One client
//! that takes all it can get leaves enough for the others.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use crate::state::kept::KeptBytes;

/// Requests that one HTTP/2 connection may run at once: the least that RFC 9113, 6.5.2 advises.
const MAX_STREAMS: usize = 100;

/// A stream counts as two connections: what its client does not take waits in this process, where
/// a connection's waits in the kernel too.
const STREAM_WEIGHT: usize = 2;

/// An HTTP/2 connection gets streams for this part of what its client has left, so that a client
/// with many such connections has some on each.
const PART: usize = 4;

/// What there is to share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections of one address.
    pub connections: usize,
    /// Those of all addresses.
    pub all_connections: usize,
    /// Bytes of its bodies that are kept for a retry.
    pub kept_bytes: usize,
    /// Those of all addresses.
    pub all_kept_bytes: usize,
}

/// What the clients hold that hold anything now, by address.
#[derive(Debug)]
pub(crate) struct Shares {
    limits: Limits,
    /// Of all of them together.
    kept: Arc<KeptBytes>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    connections: usize,
    of: HashMap<IpAddr, Arc<Holding>>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its client has all that it may have.
    Client,
    /// All clients together have.
    All,
}

/// What one address holds.
#[derive(Debug, Default)]
struct Holding {
    connections: AtomicUsize,
    kept: KeptBytes,
}

/// One connection's part of what its client holds, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Shares>,
    address: IpAddr,
    holding: Arc<Holding>,
    weight: AtomicUsize,
}

impl Shares {
    pub(crate) fn new(limits: Limits, kept: Arc<KeptBytes>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            kept,
            held: Mutex::default(),
        })
    }

    /// One more connection of `address`.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Share, Refused> {
        let held = &mut *self.held.lock();
        if held.connections >= self.limits.all_connections {
            return Err(Refused::All);
        }
        let holding = held.of.entry(address).or_default();
        // Under the lock, as the end of a connection is: a holding that is used is never removed.
        if holding.take(1, self.limits.connections) == 0 {
            return Err(Refused::Client);
        }
        held.connections += 1;
        Ok(Share {
            of: self.clone(),
            address,
            holding: holding.clone(),
            weight: AtomicUsize::new(1),
        })
    }
}

impl Holding {
    /// Takes `wanted` of the connections left, or nothing.
    fn take(&self, wanted: usize, limit: usize) -> usize {
        let take = |now: usize| now.checked_add(wanted).filter(|then| *then <= limit);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        match self.connections.fetch_update(set, fetch, take) {
            Ok(_) => wanted,
            Err(_) => 0,
        }
    }
}

impl Share {
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// How many requests this connection, which turned out to be HTTP/2, may run at once.
    pub(crate) fn streams(&self) -> u32 {
        let held = self.holding.connections.load(Ordering::Relaxed);
        let left = self.of.limits.connections.saturating_sub(held);
        let streams = (left / PART / STREAM_WEIGHT).min(MAX_STREAMS);
        // Its own weight is one: with nothing left it still has one stream.
        let taken = self
            .holding
            .take(streams * STREAM_WEIGHT, self.of.limits.connections);
        self.weight.fetch_add(taken, Ordering::Relaxed);
        (taken / STREAM_WEIGHT).max(1) as u32
    }

    /// Takes `bytes` of what its client, and all of them, may have kept; false when one of these is
    /// used up.
    pub(crate) fn keep(&self, bytes: usize) -> bool {
        let Limits {
            kept_bytes,
            all_kept_bytes,
            ..
        } = self.of.limits;
        if !self.holding.kept.take(bytes, kept_bytes) {
            return false;
        }
        let kept = self.of.kept.take(bytes, all_kept_bytes);
        if !kept {
            self.holding.kept.release(bytes);
        }
        kept
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.of.kept.release(bytes);
        self.holding.kept.release(bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.held.lock();
        held.connections -= 1;
        let weight = self.weight.load(Ordering::Relaxed);
        let before = self
            .holding
            .connections
            .fetch_sub(weight, Ordering::Relaxed);
        if before == weight {
            held.of.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn shares(connections: usize) -> Arc<Shares> {
        let limits = Limits {
            connections,
            all_connections: 2000,
            kept_bytes: 100,
            all_kept_bytes: 250,
        };
        Shares::new(limits, Arc::default())
    }

    #[test]
    fn one_client_at_its_bound_leaves_others_alone() {
        let clients = shares(2);
        let (first, _second) = (clients.admit(ONE).unwrap(), clients.admit(ONE).unwrap());
        assert_eq!(clients.admit(ONE).unwrap_err(), Refused::Client);
        assert!(clients.admit(OTHER).is_ok());
        drop(first);
        assert!(clients.admit(ONE).is_ok());
    }

    #[test]
    fn nothing_is_remembered_of_clients_that_left() {
        let clients = shares(64);
        let one = clients.admit(ONE).unwrap();
        one.streams();
        assert!(one.keep(10));
        one.release(10);
        drop(one);
        assert!(clients.held.lock().of.is_empty());
    }

    #[test]
    fn all_clients_together_have_no_more_connections_than_the_process_has_descriptors_for() {
        let clients = shares(1500);
        let mut open: Vec<_> = (0..1500).map(|_| clients.admit(ONE).unwrap()).collect();
        open.extend((0..500).map(|_| clients.admit(OTHER).unwrap()));
        assert_eq!(clients.admit(OTHER).unwrap_err(), Refused::All);
        open.pop();
        assert!(clients.admit(OTHER).is_ok());
    }

    #[test]
    fn many_http2_connections_of_one_client_share_its_streams() {
        let clients = shares(1024);
        let mut open = Vec::new();
        let mut streams = Vec::new();
        while let Ok(client) = clients.admit(ONE) {
            streams.push(client.streams());
            open.push(client);
        }
        assert_eq!(streams[..2], [100, 100]);
        // Eight processes of one machine, each with its connection, have room.
        assert!(streams[..8].iter().all(|streams| *streams > 10));
        let (with, alone): (Vec<_>, Vec<_>) = streams.into_iter().partition(|streams| *streams > 1);
        assert!(with.iter().sum::<u32>() <= 512);
        assert!(alone.len() + open.len() <= 1024);
    }

    #[test]
    fn a_client_keeps_no_more_than_its_share() {
        let clients = shares(8);
        let (a, b) = (clients.admit(ONE).unwrap(), clients.admit(ONE).unwrap());
        let other = clients.admit(OTHER).unwrap();
        let third = clients.admit([10, 0, 0, 3].into()).unwrap();
        assert!(a.keep(60) && !b.keep(60) && b.keep(40));
        assert!(other.keep(100));
        a.release(60);
        assert!(b.keep(60));
        assert!(
            !third.keep(60) && third.keep(50),
            "all together have a bound too"
        );
    }
}
