//! How slowly a client may send its body: what is kept or held open for those who send it more
//! slowly would be kept for hours.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second.
const SLOWEST: u128 = 1024;

/// Whether a body comes fast enough. Only the time counts in which nothing of it is here: while
/// nobody takes what came, its client can send no more.
#[derive(Debug)]
pub(super) struct Pace {
    span: Duration,
    /// Of the time in which what is due must come.
    left: Duration,
    /// Bytes.
    due: usize,
    waits_since: Option<Instant>,
}

impl Pace {
    pub(super) fn new(span: Duration) -> Self {
        Self {
            span,
            left: span,
            due: due_in(span),
            waits_since: None,
        }
    }

    /// Nothing is here: until when more must come.
    pub(super) fn deadline(&mut self) -> Instant {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        since + self.left
    }

    pub(super) fn came(&mut self, bytes: usize) {
        if let Some(since) = self.waits_since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        self.due = self.due.saturating_sub(bytes);
        if self.due == 0 {
            self.left = self.span;
            self.due = due_in(self.span);
        }
    }
}

fn due_in(span: Duration) -> usize {
    (span.as_millis() * SLOWEST / 1000) as usize
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SPAN: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_too_slow() {
        let mut pace = Pace::new(SPAN);
        for _ in 0..6 {
            assert!(pace.deadline() > Instant::now());
            advance(Duration::from_secs(10)).await;
            pace.came(1);
        }
        assert!(pace.deadline() <= Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_kilobyte_a_second_is_enough() {
        let mut pace = Pace::new(SPAN);
        for _ in 0..600 {
            assert!(pace.deadline() > Instant::now());
            advance(Duration::from_secs(1)).await;
            pace.came(1024);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_waits_for_the_client_is_not_its_own() {
        let mut pace = Pace::new(SPAN);
        for _ in 0..10 {
            // What came lies there for an hour.
            pace.came(1);
            advance(Duration::from_secs(3600)).await;
            assert!(pace.deadline() > Instant::now());
            advance(Duration::from_secs(1)).await;
        }
    }
}
