//! How much of something a namespace may have: Events, log lines, lines of its data planes. Pure: a
//! token bucket each.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Budget {
    /// At once, and how long each takes to become free again.
    burst: u32,
    every: Duration,
    /// Those that have used some of it.
    namespaces: HashMap<String, Usage>,
}

#[derive(Debug)]
struct Usage {
    /// When the whole budget will be free again.
    free: Instant,
    dropping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Allowed,
    /// The first that is too much, since half of the budget was free.
    FirstDrop,
    Drop,
}

impl Budget {
    pub(crate) fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            namespaces: HashMap::new(),
        }
    }

    /// Or none, if there is none left.
    pub(crate) fn take(&mut self, namespace: &str, now: Instant) -> Admission {
        let (burst, every) = (self.burst, self.every);
        let used = self.usage(namespace, now);
        let free = used.free.max(now) + every;
        if free > now + every * burst {
            let first = !std::mem::replace(&mut used.dropping, true);
            return if first {
                Admission::FirstDrop
            } else {
                Admission::Drop
            };
        }
        used.free = free;
        // Not at once: a namespace at the limit gets through with one now and then.
        if free <= now + every * burst / 2 {
            used.dropping = false;
        }
        Admission::Allowed
    }

    /// In any case; until when to wait with it.
    pub(crate) fn reserve(&mut self, namespace: &str, now: Instant) -> Option<Instant> {
        let (burst, every) = (self.burst, self.every);
        let used = self.usage(namespace, now);
        used.free = used.free.max(now) + every;
        let until = used.free.checked_sub(every * burst)?;
        (until > now).then_some(until)
    }

    fn usage(&mut self, namespace: &str, now: Instant) -> &mut Usage {
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.retain(|_, used| used.free > now);
        }
        let used = self.namespaces.entry(namespace.to_owned());
        used.or_insert(Usage {
            free: now,
            dropping: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: u32 = 100;
    const EVERY: Duration = Duration::from_secs(1);

    #[test]
    fn one_namespace_that_has_too_much_to_tell_takes_nothing_from_another() {
        let (mut budget, now) = (Budget::new(BURST, EVERY), Instant::now());
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

    #[test]
    fn who_reserves_more_than_there_is_waits_as_long_as_it_takes_and_nobody_else_does() {
        let (mut budget, now) = (Budget::new(BURST, EVERY), Instant::now());
        for _ in 0..BURST {
            assert_eq!(budget.reserve("a", now), None);
        }
        assert_eq!(budget.reserve("a", now), Some(now + EVERY));
        assert_eq!(budget.reserve("a", now), Some(now + EVERY * 2));
        assert_eq!(budget.reserve("b", now), None);
        assert_eq!(budget.reserve("a", now + EVERY * 3), None);
    }
}
