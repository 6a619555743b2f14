//! What a data plane holds, as far as it has said: the table that the next step starts from. Pure.
//!
//! In: the tables that are sent to it, and its answers. Out: the number of the newest one that was
//! not refused. Numbers alone: a slow data plane keeps no table in memory. A refused one is no
//! ground to build on: the next step would make a table that is not meant, which costs a new
//! connection and the whole table.

use std::collections::VecDeque;

use dataplane_protocol::Revision;
use tokio::time::Instant;

/// Tables without an answer that are remembered. A data plane answers each at once.
const UNANSWERED: usize = 16;

#[derive(Debug, Default)]
pub(super) struct SentTables {
    acked: Option<u64>,
    /// Oldest first.
    sent: VecDeque<SentTable>,
}

/// A table without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SentTable {
    pub(super) number: u64,
    pub(super) revision: Revision,
    pub(super) at: Instant,
}

impl SentTables {
    pub(super) fn sent(&mut self, sent: SentTable) {
        if self.sent.len() >= UNANSWERED {
            self.sent.pop_front();
        }
        self.sent.push_back(sent);
    }

    /// Which one it is; nothing if it is not among those without an answer.
    pub(super) fn acked(&mut self, revision: Revision) -> Option<SentTable> {
        // The oldest: answers come in order, and the same content may have been sent twice.
        let at = self.sent.iter().position(|it| it.revision == revision);
        let Some(at) = at else {
            // Forgotten or never sent: what it holds now is not known.
            self.acked = None;
            return None;
        };
        let acked = self.sent.drain(..=at).next_back()?;
        self.acked = Some(acked.number);
        Some(acked)
    }

    /// Which one it is. What was sent after it was a step from it, and cannot be right either.
    pub(super) fn nacked(&mut self, revision: Revision) -> Option<SentTable> {
        let mut sent = self.sent.drain(..);
        sent.find(|it| it.revision == revision)
    }

    /// Nothing when only the whole table is safe.
    pub(super) fn newest(&self) -> Option<u64> {
        let sent = self.sent.back().map(|sent| sent.number);
        sent.or(self.acked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(count: u64) -> Vec<SentTable> {
        let at = Instant::now();
        let numbers = 1..=count;
        numbers
            .map(|number| SentTable {
                number,
                revision: Revision(u128::from(number) * 100),
                at,
            })
            .collect()
    }

    const UNKNOWN: Revision = Revision(1);

    #[test]
    fn a_step_starts_from_what_was_sent_last_unless_it_was_refused() {
        let all = tables(3);
        let mut sent_tables = SentTables::default();
        assert_eq!(sent_tables.newest(), None);
        sent_tables.sent(all[0]);
        assert_eq!(sent_tables.newest(), Some(1));
        sent_tables.nacked(UNKNOWN);
        assert_eq!(sent_tables.newest(), None, "it holds nothing that we know");
        sent_tables.sent(all[1]);
        assert_eq!(sent_tables.acked(all[1].revision), Some(all[1]));
        sent_tables.sent(all[2]);
        assert_eq!(sent_tables.newest(), Some(3));
        sent_tables.nacked(UNKNOWN);
        assert_eq!(sent_tables.newest(), Some(2));
    }

    #[test]
    fn a_data_plane_that_never_answers_takes_no_more_memory() {
        let mut sent_tables = SentTables::default();
        for sent in tables(40) {
            sent_tables.sent(sent);
        }
        assert_eq!(
            (sent_tables.sent.len(), sent_tables.newest()),
            (UNANSWERED, Some(40))
        );
        // Of an answer to what is forgotten nothing is made.
        assert!(sent_tables.acked(UNKNOWN).is_none());
        sent_tables.nacked(UNKNOWN);
        assert_eq!(sent_tables.newest(), None);
    }
}
