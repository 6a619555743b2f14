//! When which namespace is looked at again, and what the last patches of it came to. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use compile::Kind;
use tokio::time::Instant;

use super::refusals::{Refusal, Refusals};

/// Counts in messages move with each data plane that comes or goes; that alone is written no more
/// often than this.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(2);
/// After a patch that failed.
const RETRY: Duration = Duration::from_secs(2);

/// When what was or is to be written.
#[derive(Default)]
pub(super) struct Schedule {
    due: BTreeMap<String, Instant>,
    /// Namespaces whose patches are under way: they are looked at again afterwards.
    pub(super) busy: BTreeSet<String>,
    pub(super) written: HashMap<(String, Kind, String), Instant>,
    pub(super) first_seen: HashMap<String, Instant>,
    pub(super) refusals: Refusals,
}

/// What became of an update.
pub(super) enum Outcome {
    Written,
    Refused(Refusal),
    /// May go well another time.
    Failed,
}

/// A namespace whose patches have ended.
pub(super) type Landed = (String, Vec<(Kind, String, Outcome)>);

impl Schedule {
    pub(super) fn next(&self) -> Option<Instant> {
        let free = self
            .due
            .iter()
            .filter(|(name, _)| !self.busy.contains(*name));
        free.map(|(_, at)| *at).min()
    }

    /// It may be due already, but only much later.
    pub(super) fn not_later(&mut self, namespace: String, at: Instant) {
        let due = self.due.entry(namespace).or_insert(at);
        *due = at.min(*due);
    }

    pub(super) fn land(&mut self, (namespace, outcomes): Landed) {
        self.busy.remove(&namespace);
        let now = Instant::now();
        for (kind, name, outcome) in outcomes {
            match outcome {
                Outcome::Written => self.refusals.remove(&namespace, kind, &name),
                Outcome::Refused(refusal) => {
                    self.not_later(namespace.clone(), refusal.again);
                    self.refusals.insert(&namespace, kind, name, refusal);
                }
                Outcome::Failed => self.not_later(namespace.clone(), now + RETRY),
            }
        }
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Vec<String> {
        self.written.retain(|_, at| now < *at + MESSAGE_INTERVAL);
        let due = self.due.iter().filter(|(_, at)| **at <= now);
        let free = due.filter(|(name, _)| !self.busy.contains(*name));
        let taken: Vec<String> = free.map(|(name, _)| name.clone()).collect();
        for name in &taken {
            self.due.remove(name);
        }
        taken
    }

    /// Until when a change in messages and counts alone has to wait, if it has to.
    pub(super) fn held(&self, key: &(String, Kind, String), now: Instant) -> Option<Instant> {
        let again = self.written.get(key).map(|at| *at + MESSAGE_INTERVAL);
        again.filter(|again| now < *again)
    }
}
