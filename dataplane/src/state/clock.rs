//! The one clock: monotonic time since the process began, as the fleet counts it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dataplane_core::Mono;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Instant,
    /// Seconds since 1970 when the process began.
    began_unix: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let began_unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        Self {
            began: Instant::now(),
            began_unix,
        }
    }

    pub(crate) fn now(&self) -> Mono {
        self.at(Instant::now())
    }

    pub(crate) fn at(&self, instant: Instant) -> Mono {
        Mono::from_micros(instant.saturating_duration_since(self.began).as_micros() as u64)
    }

    pub(crate) fn began_unix(&self) -> u64 {
        self.began_unix
    }
}
