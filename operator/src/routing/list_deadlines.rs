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
    /// Since when namespaces without a table have waited for any of theirs: one that asks for ever
    /// new sources must not wait, and keep all others waiting for readiness, for ever.
    first: HashMap<String, Instant>,
}

impl ListDeadlines {
    /// `has_table`: its namespace has been published.
    pub fn start(&mut self, source: Source, has_table: bool, now: Instant) {
        let since = if has_table {
            now
        } else {
            // Lists of our kinds have no namespace, and are waited for elsewhere.
            let namespace = source.namespace().unwrap_or_default().to_owned();
            *self.first.entry(namespace).or_insert(now)
        };
        self.since.entry(source).or_insert(since);
    }

    /// The namespace has a table, or nothing to be one of.
    pub fn published(&mut self, namespace: &str) {
        self.first.remove(namespace);
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
        list_deadlines.start(slow.clone(), false, now);
        list_deadlines.start(quick.clone(), false, now);
        list_deadlines.clear(&quick);
        assert!(list_deadlines.take_expired(now).is_empty());
        assert_eq!(list_deadlines.next(), Some(now + LATE));
        assert_eq!(list_deadlines.take_expired(now + LATE), [slow]);
        assert_eq!(list_deadlines.next(), None);
    }

    #[test]
    fn a_namespace_that_asks_for_ever_new_sources_waits_no_longer_for_that() {
        let now = Instant::now();
        let secret = |name: &str| Source::Secret {
            namespace: "red".into(),
            name: name.into(),
        };
        let mut list_deadlines = ListDeadlines::default();
        list_deadlines.start(secret("a"), false, now);
        list_deadlines.clear(&secret("a"));
        list_deadlines.start(secret("b"), false, now + LATE / 2);
        assert_eq!(list_deadlines.take_expired(now + LATE), [secret("b")]);
        list_deadlines.published("red");
        list_deadlines.start(secret("c"), true, now + LATE);
        assert_eq!(list_deadlines.next(), Some(now + 2 * LATE));
    }
}
