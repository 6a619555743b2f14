//! The word that an instance failed its health check, for the attempts that wait for its answer.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// How often one instance has gone unhealthy. Counted, not only signalled: a failure between the
/// pick and the moment an attempt begins to wait would else be missed, and a request to a frozen
/// backend would wait for as long as its client does.
#[derive(Debug, Default)]
pub struct OutageSignal {
    outages: AtomicU32,
    more: Notify,
}

impl OutageSignal {
    /// It went unhealthy for the `outages`th time.
    pub fn tell(&self, outages: u32) {
        self.outages.fetch_max(outages, Ordering::AcqRel);
        self.more.notify_waiters();
    }

    /// Resolves once there were more outages than `known`.
    pub async fn beyond(&self, known: u32) {
        loop {
            // Before the look, so that what comes after the look is not missed.
            let more = self.more.notified();
            if self.outages.load(Ordering::Acquire) > known {
                return;
            }
            more.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn an_outage_before_the_wait_began_ends_it_at_once() {
        let signal = OutageSignal::default();
        signal.tell(1);
        assert!(signal.beyond(0).now_or_never().is_some());
        assert!(
            signal.beyond(1).now_or_never().is_none(),
            "known at the pick"
        );
    }

    #[test]
    fn an_outage_ends_the_waits_that_did_not_know_of_it() {
        let signal = OutageSignal::default();
        let mut old = std::pin::pin!(signal.beyond(0));
        let mut new = std::pin::pin!(signal.beyond(1));
        assert!(old.as_mut().now_or_never().is_none());
        assert!(new.as_mut().now_or_never().is_none());
        // Told late: it is over, and `new` was picked after it.
        signal.tell(1);
        assert!(old.now_or_never().is_some());
        assert!(new.as_mut().now_or_never().is_none());
        signal.tell(2);
        assert!(new.now_or_never().is_some());
    }
}
