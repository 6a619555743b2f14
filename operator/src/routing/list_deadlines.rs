//! How long a namespace's table waits for the first lists of what its endpoints need. Pure.
//!
//! In: which sources are waited for. Out: those that are waited for no longer: until it lists,
//! nothing is known of such a source, and data planes keep what they hold of it.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::index::Source;

/// Long enough for a busy API server, so that a restart is not seen in statuses; short enough that
/// one missing permission holds up neither its namespace nor readiness.
const LATE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct ListDeadlines {
    since: HashMap<Source, Instant>,
}

impl ListDeadlines {
    pub fn start(&mut self, source: Source, now: Instant) {
        self.since.entry(source).or_insert(now);
    }

    /// It has listed, or is not needed any more.
    pub fn clear(&mut self, source: &Source) {
        self.since.remove(source);
    }

    /// Takes those that have been waited for long enough.
    pub fn take_expired(&mut self, now: Instant) -> Vec<Source> {
        let late = self.since.extract_if(|_, since| now >= *since + LATE);
        late.map(|(source, _)| source).collect()
    }

    /// When [`take_expired`](Self::take_expired) has something to say.
    pub fn next(&self) -> Option<Instant> {
        self.since.values().map(|since| *since + LATE).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_waited_for_five_seconds_and_then_no_more() {
        let now = Instant::now();
        let (slow, quick) = (Source::Pods("slow".into()), Source::Pods("quick".into()));
        let mut list_deadlines = ListDeadlines::default();
        list_deadlines.start(slow.clone(), now);
        list_deadlines.start(quick.clone(), now);
        list_deadlines.clear(&quick);
        assert!(list_deadlines.take_expired(now).is_empty());
        assert_eq!(list_deadlines.next(), Some(now + LATE));
        assert_eq!(list_deadlines.take_expired(now + LATE), [slow]);
        assert_eq!(list_deadlines.next(), None);
    }
}
