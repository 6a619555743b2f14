//! How many Events a namespace may have. Pure: a token bucket each.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// At once, and how long each takes to become free again.
const BURST: u32 = 100;
const EVERY: Duration = Duration::from_secs(1);

/// Namespaces that have used some of their share.
#[derive(Debug, Default)]
pub(super) struct Share {
    namespaces: HashMap<String, Used>,
}

#[derive(Debug)]
struct Used {
    /// When the whole share will be free again.
    free: Instant,
    dropping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Told,
    /// The first that is too much, since half of the share was free.
    First,
    More,
}

impl Share {
    pub(super) fn take(&mut self, namespace: &str, now: Instant) -> Taken {
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.retain(|_, used| used.free > now);
        }
        let used = self.namespaces.entry(namespace.to_owned());
        let used = used.or_insert(Used {
            free: now,
            dropping: false,
        });
        let free = used.free.max(now) + EVERY;
        if free > now + EVERY * BURST {
            let first = !std::mem::replace(&mut used.dropping, true);
            return if first { Taken::First } else { Taken::More };
        }
        used.free = free;
        // Not at once: a namespace at the limit gets through with one now and then.
        if free <= now + EVERY * BURST / 2 {
            used.dropping = false;
        }
        Taken::Told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_namespace_that_has_too_much_to_tell_takes_nothing_from_another() {
        let (mut share, now) = (Share::default(), Instant::now());
        let told = (0..1000).filter(|_| share.take("a", now) == Taken::Told);
        assert_eq!(told.count(), BURST as usize);
        assert_eq!(share.take("b", now), Taken::Told);
        assert_eq!(share.take("a", now), Taken::More);
        assert_eq!(share.take("a", now + EVERY), Taken::Told);
        assert_eq!(share.take("a", now + EVERY), Taken::More, "said already");
        let later = now + EVERY * (BURST / 2 + 2);
        let after_a_pause: Vec<_> = (0..BURST).map(|_| share.take("a", later)).collect();
        let said = after_a_pause.iter().filter(|it| **it == Taken::First);
        assert_eq!(said.count(), 1, "it is news again");
        let later = later + EVERY * (BURST + 1);
        assert_eq!(share.take("c", later), Taken::Told);
        assert_eq!(share.namespaces.len(), 1, "what has rested takes no memory");
    }
}
