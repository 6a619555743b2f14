//! Memory for bodies that strangers send: taken as bytes come, not as they are promised, and an
//! address holds at most as much as stays free. So whoever takes all that it can get leaves the same
//! amount to the next.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Room {
    used: Mutex<Used>,
    given_back: Notify,
}

#[derive(Debug)]
struct Used {
    /// Bytes.
    free: usize,
    /// Those with none are not in there.
    by: HashMap<IpAddr, usize>,
}

impl Used {
    fn take(&mut self, peer: IpAddr, bytes: usize) -> bool {
        let held = self.by.get(&peer).copied().unwrap_or_default() + bytes;
        let Some(free) = self.free.checked_sub(bytes).filter(|free| held <= *free) else {
            return false;
        };
        self.free = free;
        self.by.insert(peer, held);
        true
    }

    fn give_back(&mut self, peer: IpAddr, bytes: usize) {
        self.free += bytes;
        if let Some(held) = self.by.get_mut(&peer) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.by.remove(&peer);
            }
        }
    }
}

impl Room {
    /// Of so many bytes.
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            used: Mutex::new(Used {
                free: bytes,
                by: HashMap::new(),
            }),
            given_back: Notify::new(),
        })
    }

    /// For one body; nothing as yet.
    pub(super) fn share(self: &Arc<Self>, peer: IpAddr) -> Share {
        Share {
            room: self.clone(),
            peer,
            bytes: 0,
        }
    }
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    peer: IpAddr,
    bytes: usize,
}

impl Share {
    /// Until it has so many bytes, which may be never: the caller limits the time.
    pub(super) async fn grow_to(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return;
        }
        loop {
            let mut given_back = std::pin::pin!(self.room.given_back.notified());
            // Before looking, so that nothing is missed in between.
            given_back.as_mut().enable();
            if self.room.used.lock().take(self.peer, more) {
                self.bytes += more;
                return;
            }
            given_back.await;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.used.lock().give_back(self.peer, self.bytes);
        self.room.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use tokio::time::timeout;

    use super::*;

    fn peer(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    /// How much of a room an address gets, a byte at a time.
    async fn fill(room: &Arc<Room>, number: u8) -> Share {
        let mut share = room.share(peer(number));
        let grow = async {
            loop {
                share.grow_to(share.bytes + 1).await;
            }
        };
        assert!(timeout(Duration::from_secs(1), grow).await.is_err());
        share
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_all_that_it_can_get_leaves_as_much_to_the_next() {
        let room = Room::new(1200);
        let mut shares = Vec::new();
        for (number, gets) in [(1, 600), (2, 300), (3, 150)] {
            let share = fill(&room, number).await;
            assert_eq!(share.bytes, gets);
            shares.push(share);
        }
        // A second body of the same address is no second address.
        assert_eq!(fill(&room, 1).await.bytes, 0);
        drop(shares);
        assert_eq!(fill(&room, 1).await.bytes, 600);
        assert!(room.used.lock().by.is_empty());
        assert_eq!(room.used.lock().free, 1200);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_its_part_when_another_gives_back() {
        let room = Room::new(100);
        let first = fill(&room, 1).await;
        let waits = {
            let room = room.clone();
            tokio::spawn(async move {
                let mut share = room.share(peer(1));
                share.grow_to(40).await;
                share.bytes
            })
        };
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(first);
        assert_eq!(waits.await.unwrap(), 40);
    }
}
