//! What an instance carries and how it answers: requests in flight, counters, time to first
//! byte.

use std::time::Duration;

/// Weight of a new value in the moving average: about the last twenty answers count.
const FIRST_BYTE_SHARE: f64 = 0.1;

#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    pub(crate) in_flight: u32,
    /// Attempts sent to it since it is known.
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    first_byte_ms: Option<f64>,
}

impl Load {
    pub(crate) fn begin(&mut self) {
        self.in_flight += 1;
        self.requests += 1;
    }

    pub(crate) fn end(&mut self, failed: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.failures += u64::from(failed);
    }

    pub(crate) fn first_byte(&mut self, after: Duration) {
        let millis = after.as_secs_f64() * 1_000.0;
        self.first_byte_ms = Some(match self.first_byte_ms {
            None => millis,
            Some(mean) => mean + (millis - mean) * FIRST_BYTE_SHARE,
        });
    }

    /// Moving average; absent before the first answer.
    pub(crate) fn first_byte_ms(&self) -> Option<f64> {
        self.first_byte_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_begins_at_the_first_value_and_follows_a_change() {
        let mut load = Load::default();
        load.first_byte(Duration::from_millis(100));
        assert_eq!(load.first_byte_ms(), Some(100.0));
        for _ in 0..60 {
            load.first_byte(Duration::from_millis(300));
        }
        assert!(load.first_byte_ms().unwrap() > 295.0);
    }
}
