//! How long a namespace waits for the first lists of what its endpoints need. Pure.
//!
//! In: which sources are waited for, and what the API server said to them. Out: those that are
//! waited for no longer. A source is given up once: until it lists it counts as empty, and no
//! further change of its namespace waits for it.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::index::Source;

/// Where data planes already have a table, or the API server has refused the list, a missing list
/// holds up its namespace no longer than this; and readiness never.
const LATE: Duration = Duration::from_secs(5);
/// Where no table was published since the start, a list that is only slow is worth more patience:
/// data planes serve on from the table they hold, and one without pods would take that from them.
const FIRST: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub struct Waits {
    sources: HashMap<Source, Wait>,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    refused: bool,
}

impl Waits {
    pub fn begin(&mut self, source: Source, now: Instant) {
        let refused = false;
        self.sources.entry(source).or_insert(Wait {
            since: now,
            refused,
        });
    }

    /// It has listed, or is not needed any more.
    pub fn end(&mut self, source: &Source) {
        self.sources.remove(source);
    }

    /// The API server answered with an error; `refused`: and will do so again.
    pub fn failed(&mut self, source: &Source, refused: bool) {
        if let Some(wait) = self.sources.get_mut(source) {
            wait.refused = refused;
        }
    }

    /// Takes those that have been waited for long enough. `in_use`: a table of that namespace has
    /// been published.
    pub fn take_late(&mut self, now: Instant, in_use: impl Fn(&str) -> bool) -> Vec<Source> {
        let late = |source: &Source, wait: &Wait| {
            let patience = if wait.refused || source.namespace().is_some_and(&in_use) {
                LATE
            } else {
                FIRST
            };
            now >= wait.since + patience
        };
        let taken: Vec<Source> = self
            .sources
            .iter()
            .filter(|(source, wait)| late(source, wait))
            .map(|(source, _)| source.clone())
            .collect();
        for source in &taken {
            self.sources.remove(source);
        }
        taken
    }

    /// Whether what is still missing is late already: nobody else should wait for it.
    pub fn all_late(&self, now: Instant) -> bool {
        let mut waits = self.sources.values();
        waits.all(|wait| now >= wait.since + LATE)
    }

    /// When [`take_late`](Self::take_late) or [`all_late`](Self::all_late) may say something else.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let times = self.sources.values().flat_map(|wait| {
            let times = [wait.since + LATE, wait.since + FIRST];
            times.into_iter().filter(|at| *at > now)
        });
        times.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(namespace: &str) -> Source {
        Source::Pods(namespace.into())
    }

    #[test]
    fn a_slow_list_is_waited_for_longer_where_data_planes_serve_from_an_older_table() {
        let now = Instant::now();
        let mut waits = Waits::default();
        for namespace in ["used", "refused", "first"] {
            waits.begin(pods(namespace), now);
        }
        waits.failed(&pods("refused"), true);
        waits.failed(&pods("first"), false);
        let used = |namespace: &str| namespace == "used";
        assert!(waits.take_late(now, used).is_empty());
        assert!(!waits.all_late(now));
        assert_eq!(waits.next(now), Some(now + LATE));
        let mut late = waits.take_late(now + LATE, used);
        late.sort();
        assert_eq!(late, [pods("refused"), pods("used")]);
        assert!(waits.all_late(now + LATE));
        assert_eq!(waits.next(now + LATE), Some(now + FIRST));
        assert_eq!(waits.take_late(now + FIRST, used), [pods("first")]);
        assert_eq!(waits.next(now + FIRST), None);
    }
}
