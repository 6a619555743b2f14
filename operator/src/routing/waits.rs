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
pub struct Waits {
    since: HashMap<Source, Instant>,
}

impl Waits {
    pub fn begin(&mut self, source: Source, now: Instant) {
        self.since.entry(source).or_insert(now);
    }

    /// It has listed, or is not needed any more.
    pub fn end(&mut self, source: &Source) {
        self.since.remove(source);
    }

    /// Takes those that have been waited for long enough.
    pub fn take_late(&mut self, now: Instant) -> Vec<Source> {
        let late = self.since.extract_if(|_, since| now >= *since + LATE);
        late.map(|(source, _)| source).collect()
    }

    /// When [`take_late`](Self::take_late) has something to say.
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
        let mut waits = Waits::default();
        waits.begin(slow.clone(), now);
        waits.begin(quick.clone(), now);
        waits.end(&quick);
        assert!(waits.take_late(now).is_empty());
        assert_eq!(waits.next(), Some(now + LATE));
        assert_eq!(waits.take_late(now + LATE), [slow]);
        assert_eq!(waits.next(), None);
    }
}
