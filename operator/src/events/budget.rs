//! How many Events a namespace may have. Pure: a token bucket each.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// At once, and how long each takes to become free again.
const BURST: u32 = 100;
const EVERY: Duration = Duration::from_secs(1);

/// Namespaces that have used some of their budget.
#[derive(Debug, Default)]
pub(super) struct EventBudget {
    namespaces: HashMap<String, Usage>,
}

#[derive(Debug)]
struct Usage {
    /// When the whole budget will be free again.
    free: Instant,
    dropping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Allowed,
    /// The first that is too much, since half of the budget was free.
    FirstDrop,
    Drop,
}

impl EventBudget {
    pub(super) fn take(&mut self, namespace: &str, now: Instant) -> Admission {
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.retain(|_, used| used.free > now);
        }
        let used = self.namespaces.entry(namespace.to_owned());
        let used = used.or_insert(Usage {
            free: now,
            dropping: false,
        });
        let free = used.free.max(now) + EVERY;
        if free > now + EVERY * BURST {
            let first = !std::mem::replace(&mut used.dropping, true);
            return if first {
                Admission::FirstDrop
            } else {
                Admission::Drop
            };
        }
        used.free = free;
        // Not at once: a namespace at the limit gets through with one now and then.
        if free <= now + EVERY * BURST / 2 {
            used.dropping = false;
        }
        Admission::Allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_namespace_that_has_too_much_to_tell_takes_nothing_from_another() {
        let (mut budget, now) = (EventBudget::default(), Instant::now());
        let told = (0..1000).filter(|_| budget.take("a", now) == Admission::Allowed);
        assert_eq!(told.count(), BURST as usize);
        assert_eq!(budget.take("b", now), Admission::Allowed);
        assert_eq!(budget.take("a", now), Admission::Drop);
        assert_eq!(budget.take("a", now + EVERY), Admission::Allowed);
        assert_eq!(
            budget.take("a", now + EVERY),
            Admission::Drop,
            "said already"
        );
        let later = now + EVERY * (BURST / 2 + 2);
        let after_a_pause: Vec<_> = (0..BURST).map(|_| budget.take("a", later)).collect();
        let said = after_a_pause
            .iter()
            .filter(|it| **it == Admission::FirstDrop);
        assert_eq!(said.count(), 1, "it is news again");
        let later = later + EVERY * (BURST + 1);
        assert_eq!(budget.take("c", later), Admission::Allowed);
        assert_eq!(
            budget.namespaces.len(),
            1,
            "what has rested takes no memory"
        );
    }
}
