//! When which objects are looked at again, and what the last patches of them came to. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use compile::Kind;
use tokio::time::Instant;

use super::rejections::{Rejection, Rejections};
use crate::routing::status_cache::{DirtyStatuses, ObjectKey};

/// Counts in messages move with each data plane that comes or goes; that alone is written no more
/// often than this.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(2);
/// After a patch that failed.
const RETRY: Duration = Duration::from_secs(2);

/// When what was or is to be written.
#[derive(Default)]
pub(super) struct Schedule {
    due: BTreeMap<String, Due>,
    /// Namespaces whose patches are under way: they are looked at again afterwards.
    pub(super) busy: BTreeSet<String>,
    pub(super) written: HashMap<(String, ObjectKey), Instant>,
    pub(super) first_seen: HashMap<String, Instant>,
    pub(super) rejections: Rejections,
}

/// When what of a namespace is looked at.
struct Due {
    /// The earliest of all.
    at: Instant,
    all: Option<Instant>,
    objects: BTreeMap<ObjectKey, Instant>,
}

impl Due {
    fn new(at: Instant) -> Self {
        Self {
            at,
            all: None,
            objects: BTreeMap::new(),
        }
    }

    /// What is due at `now`, and what is left.
    fn split(mut self, now: Instant) -> (DirtyStatuses, Option<Self>) {
        if self.all.is_some_and(|at| at <= now) {
            // Whoever is to be looked at later as well says so again.
            return (DirtyStatuses::all(), None);
        }
        let due = self.objects.extract_if(.., |_, at| *at <= now);
        let marks = DirtyStatuses::of(due.map(|(name, _)| name));
        let next = self.objects.values().copied().chain(self.all).min();
        (marks, next.map(|at| Self { at, ..self }))
    }
}

/// What became of an update.
pub(super) enum Outcome {
    Written,
    Refused(Rejection),
    /// May go well another time.
    Failed,
}

/// A namespace whose patches have ended.
pub(super) type WriteResults = (String, Vec<(Kind, String, Outcome)>);

impl Schedule {
    pub(super) fn next(&self) -> Option<Instant> {
        let free = self
            .due
            .iter()
            .filter(|(name, _)| !self.busy.contains(*name));
        free.map(|(_, due)| due.at).min()
    }

    /// These may be due already, but only much later.
    pub(super) fn not_later(&mut self, namespace: &str, marks: DirtyStatuses, at: Instant) {
        let due = self.due.entry(namespace.to_owned()).or_insert(Due::new(at));
        due.at = at.min(due.at);
        if marks.all {
            due.all = Some(due.all.map_or(at, |all| all.min(at)));
        }
        for name in marks.objects {
            let known = due.objects.entry(name).or_insert(at);
            *known = at.min(*known);
        }
    }

    pub(super) fn all_not_later(&mut self, namespace: &str, at: Instant) {
        self.not_later(namespace, DirtyStatuses::all(), at);
    }

    pub(super) fn one_not_later(&mut self, namespace: &str, name: ObjectKey, at: Instant) {
        self.not_later(namespace, DirtyStatuses::of([name]), at);
    }

    pub(super) fn record(&mut self, (namespace, outcomes): WriteResults) {
        self.busy.remove(&namespace);
        let now = Instant::now();
        for (kind, name, outcome) in outcomes {
            match outcome {
                Outcome::Written => self.rejections.remove(&namespace, kind, &name),
                Outcome::Refused(rejection) => {
                    self.one_not_later(&namespace, (kind, name.clone()), rejection.again);
                    self.rejections.insert(&namespace, kind, name, rejection);
                }
                Outcome::Failed => self.one_not_later(&namespace, (kind, name), now + RETRY),
            }
        }
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(String, DirtyStatuses)> {
        self.written.retain(|_, at| now < *at + MESSAGE_INTERVAL);
        let busy = &self.busy;
        let due = (self.due).extract_if(.., |name, due| due.at <= now && !busy.contains(name));
        let split: Vec<_> = due.map(|(name, due)| (name, due.split(now))).collect();
        let taken = split.into_iter().map(|(name, (marks, left))| {
            if let Some(left) = left {
                self.due.insert(name.clone(), left);
            }
            (name, marks)
        });
        taken.collect()
    }

    /// Until when a change in messages and counts alone has to wait, if it has to.
    pub(super) fn held(&self, key: &(String, ObjectKey), now: Instant) -> Option<Instant> {
        let again = self.written.get(key).map(|at| *at + MESSAGE_INTERVAL);
        again.filter(|again| now < *again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_is_looked_at_in_its_time_and_all_of_them_in_theirs() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let later = now + Duration::from_secs(5);
        let name = |name: &str| (Kind::OllaRoute, name.to_owned());
        schedule.all_not_later("a", later);
        schedule.one_not_later("a", name("soon"), now);
        schedule.one_not_later("a", name("late"), later);
        let one = DirtyStatuses::of([name("soon")]);
        assert_eq!(schedule.next(), Some(now));
        assert_eq!(schedule.take_due(now), [("a".to_owned(), one)]);
        assert_eq!(schedule.next(), Some(later));
        schedule.busy.insert("a".into());
        assert_eq!(schedule.next(), None, "its patches are under way");
        schedule.busy.clear();
        let taken = schedule.take_due(later);
        assert!(taken[0].1.all, "{taken:?}");
        assert_eq!(schedule.next(), None);
    }
}
