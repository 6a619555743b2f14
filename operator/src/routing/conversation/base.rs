//! What a data plane holds, as far as it has said: the table that the next step starts from. Pure.
//!
//! In: transactions as they are sent, and the answers to them. Out: the newest one that was not
//! refused. A refused one is no ground to build on, or the next step would make a table that is not
//! meant, which costs a new connection and the whole table.

use std::{collections::VecDeque, sync::Arc};

use dataplane_protocol::Revision;
use tokio::time::Instant;

use crate::routing::snapshot::Snapshot;

/// Transactions without an answer that are remembered. A data plane answers each at once.
const UNANSWERED: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Base {
    acked: Option<Arc<Snapshot>>,
    /// Oldest first.
    sent: VecDeque<(Arc<Snapshot>, Instant)>,
}

impl Base {
    pub(super) fn sent(&mut self, snapshot: Arc<Snapshot>, at: Instant) {
        if self.sent.len() >= UNANSWERED {
            self.sent.pop_front();
        }
        self.sent.push_back((snapshot, at));
    }

    /// Which one it is, and when it was sent; nothing if it is not among those without an answer.
    pub(super) fn acked(&mut self, revision: Revision) -> Option<(Arc<Snapshot>, Instant)> {
        // The oldest: answers come in order, and the same content may have been sent twice.
        let at = self.sent.iter().position(|(it, _)| it.revision == revision);
        let Some(at) = at else {
            // Forgotten or never sent: what it holds now is not known.
            self.acked = None;
            return None;
        };
        let (snapshot, sent) = self.sent.drain(..=at).next_back()?;
        self.acked = Some(snapshot.clone());
        Some((snapshot, sent))
    }

    /// Which one it is. What was sent after it was a step from it, and cannot be right either.
    pub(super) fn nacked(&mut self, revision: Revision) -> Option<Arc<Snapshot>> {
        let mut sent = self.sent.drain(..);
        let refused = sent.find(|(it, _)| it.revision == revision);
        refused.map(|(snapshot, _)| snapshot)
    }

    /// Nothing when only the whole table is safe.
    pub(super) fn newest(&self) -> Option<Arc<Snapshot>> {
        let sent = self.sent.back().map(|(snapshot, _)| snapshot);
        sent.or(self.acked.as_ref()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::testing::follow;

    fn snapshots(count: u16) -> Vec<Arc<Snapshot>> {
        let mut all: Vec<Arc<Snapshot>> = Vec::new();
        for port in 1..=count {
            let next = follow(all.last().map(|last| &**last), &[port], vec![]);
            all.push(Arc::new(next));
        }
        all
    }

    const UNKNOWN: Revision = Revision(1);

    fn newest(base: &Base) -> Option<u64> {
        base.newest().map(|snapshot| snapshot.number)
    }

    #[test]
    fn a_step_starts_from_what_was_sent_last_unless_it_was_refused() {
        let (all, now) = (snapshots(3), Instant::now());
        let mut base = Base::default();
        assert_eq!(newest(&base), None);
        base.sent(all[0].clone(), now);
        assert_eq!(newest(&base), Some(1));
        base.nacked(UNKNOWN);
        assert_eq!(newest(&base), None, "it holds nothing that we know");
        base.sent(all[1].clone(), now);
        assert_eq!(
            base.acked(all[1].revision).map(|(it, _)| it.number),
            Some(2)
        );
        base.sent(all[2].clone(), now);
        assert_eq!(newest(&base), Some(3));
        base.nacked(UNKNOWN);
        assert_eq!(newest(&base), Some(2));
    }

    #[test]
    fn a_data_plane_that_never_answers_takes_no_more_memory() {
        let (all, now) = (snapshots(40), Instant::now());
        let mut base = Base::default();
        for snapshot in all {
            base.sent(snapshot, now);
        }
        assert_eq!((base.sent.len(), newest(&base)), (UNANSWERED, Some(40)));
        // Of an answer to what is forgotten nothing is made.
        assert!(base.acked(UNKNOWN).is_none());
        base.nacked(UNKNOWN);
        assert_eq!(newest(&base), None);
    }
}
