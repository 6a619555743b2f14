//! Secrets that were deleted a moment ago. Some tools change one by deleting it and making it anew:
//! until it is known not to come back, what it said counts. Pure.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::index::Source;

/// Long enough for a tool's second call. A credential that was taken away is used that much longer.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct DeletedSecrets {
    until: HashMap<Source, Instant>,
}

impl DeletedSecrets {
    pub(super) fn insert(&mut self, secret: Source, now: Instant) {
        self.until.entry(secret).or_insert(now + GRACE);
    }

    /// It is back, or not needed any more.
    pub(super) fn remove(&mut self, secret: &Source) {
        self.until.remove(secret);
    }

    /// Takes those that did not come back.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Source> {
        let over = self.until.extract_if(|_, until| *until <= now);
        over.map(|(secret, _)| secret).collect()
    }

    /// When [`take_expired`](Self::take_expired) has something to say.
    pub(super) fn next(&self) -> Option<Instant> {
        self.until.values().copied().min()
    }
}
