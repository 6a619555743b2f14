//! A backend that said "not now" (429, or 503 with `Retry-After`) is left alone for that long.
//! That is neither success nor failure: it lives.

use std::time::Duration;

use crate::time::Mono;

/// A backend that says nothing is left alone this long at first …
const FIRST: Duration = Duration::from_secs(1);
/// … doubling up to this while it keeps saying so.
const LONGEST: Duration = Duration::from_secs(10);
/// What a backend may ask for. Some send hours; nobody should be lost for longer than one look.
const LONGEST_ASKED: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, Default)]
pub(crate) struct Saturation {
    until: Option<Mono>,
    /// The wait that was last chosen for it, zero after a success.
    step: Duration,
}

impl Saturation {
    pub(crate) fn saturated(&mut self, retry_after: Option<Duration>, now: Mono) {
        let wait = match retry_after {
            Some(asked) => asked.min(LONGEST_ASKED),
            None => self.own_wait(now),
        };
        let until = now + wait;
        self.until = Some(self.until.map_or(until, |old| old.max(until)));
    }

    pub(crate) fn succeeded(&mut self) {
        self.step = Duration::ZERO;
    }

    /// When it ends; absent when it is not saturated.
    pub(crate) fn until(&self, now: Mono) -> Option<Mono> {
        self.until.filter(|until| *until > now)
    }

    /// Answers to requests that were sent together are one sign, not many: the wait grows only
    /// when the one before has ended.
    fn own_wait(&mut self, now: Mono) -> Duration {
        if self.step.is_zero() {
            self.step = FIRST;
        } else if self.until(now).is_none() {
            self.step = (self.step * 2).min(LONGEST);
        }
        self.step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_ten_seconds_and_begin_anew_after_a_success() {
        let mut saturation = Saturation::default();
        let mut now = Mono::default();
        let mut waits = Vec::new();
        for _ in 0..6 {
            saturation.saturated(None, now);
            let until = saturation.until(now).unwrap();
            waits.push(until.since(now).as_secs());
            now = until;
            assert_eq!(saturation.until(now), None, "over at its end");
        }
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        saturation.succeeded();
        saturation.saturated(None, now);
        assert_eq!(saturation.until(now).unwrap().since(now).as_secs(), 1);
    }

    #[test]
    fn a_burst_of_refusals_counts_once() {
        let mut saturation = Saturation::default();
        for _ in 0..20 {
            saturation.saturated(None, Mono::default());
        }
        assert_eq!(
            saturation.until(Mono::default()),
            Some(Mono::from_millis(1_000))
        );
    }

    #[test]
    fn what_the_backend_asks_for_is_kept_up_to_a_minute() {
        let mut saturation = Saturation::default();
        saturation.saturated(Some(Duration::from_secs(7)), Mono::default());
        assert_eq!(
            saturation.until(Mono::default()),
            Some(Mono::from_millis(7_000))
        );
        saturation.saturated(Some(Duration::from_hours(1)), Mono::default());
        assert_eq!(
            saturation.until(Mono::default()),
            Some(Mono::from_millis(60_000))
        );
        saturation.saturated(Some(Duration::from_secs(1)), Mono::default());
        assert_eq!(
            saturation.until(Mono::default()),
            Some(Mono::from_millis(60_000)),
            "a shorter word later does not end an earlier one"
        );
    }
}
