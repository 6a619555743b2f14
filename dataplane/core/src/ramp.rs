//! Slow start: an instance that came back takes its share step by step over ten seconds, so that
//! a cold cache or a half-recovered host is not buried at once.

use std::time::Duration;

use crate::time::Mono;

/// Until the full share.
pub(crate) const LENGTH: Duration = Duration::from_secs(10);
/// The share it begins with, in 1/1000.
const FIRST_PERMILLE: u32 = 100;
/// The full share.
pub(crate) const FULL_PERMILLE: u32 = 1_000;

#[derive(Clone, Debug, Default)]
pub(crate) struct Ramp {
    since: Option<Mono>,
}

impl Ramp {
    /// It became usable again.
    pub(crate) fn begin(&mut self, now: Mono) {
        self.since = Some(now);
    }

    /// Its share of full traffic, 100 to 1000.
    pub(crate) fn permille(&self, now: Mono) -> u32 {
        let Some(since) = self.since else {
            return FULL_PERMILLE;
        };
        let passed = now.since(since).min(LENGTH).as_millis() as u32;
        let all = LENGTH.as_millis() as u32;
        FIRST_PERMILLE + (FULL_PERMILLE - FIRST_PERMILLE) * passed / all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_evenly_over_ten_seconds() {
        let mut ramp = Ramp::default();
        let start = Mono::from_millis(90_000);
        assert_eq!(ramp.permille(start), 1_000, "a first start is no return");
        ramp.begin(start);
        let shares = [0, 5, 10, 60].map(|s| ramp.permille(start + Duration::from_secs(s)));
        assert_eq!(shares, [100, 550, 1_000, 1_000]);
    }
}
