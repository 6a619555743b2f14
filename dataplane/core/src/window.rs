//! Counts over the last ten seconds, in ten buckets of one second. Breaker (results, failures)
//! and retry budget (requests, retries) both count so.

use std::net::IpAddr;

use crate::time::Mono;

const BUCKETS: usize = 10;

#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    buckets: [Bucket; BUCKETS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    second: u64,
    counts: Counts,
}

/// `marked` are those among `total`, or beside it, that the owner wants to know about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) total: u32,
    pub(crate) marked: u32,
    /// Of the marked ones, those that their client may have provoked, and who that was.
    pub(crate) provoked: u32,
    pub(crate) by: Origin,
}

/// Who may have provoked what was marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    #[default]
    Nobody,
    Client(IpAddr),
    Several,
}

impl Origin {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, one) | (one, Self::Nobody) => one,
            (one, same) if one == same => one,
            _ => Self::Several,
        }
    }
}

impl Window {
    pub(crate) fn add(&mut self, counts: Counts, now: Mono) {
        let second = now.seconds();
        let Some(bucket) = self.buckets.get_mut((second % BUCKETS as u64) as usize) else {
            return;
        };
        if bucket.second != second {
            *bucket = Bucket {
                second,
                counts: Counts::default(),
            };
        }
        bucket.counts.total = bucket.counts.total.saturating_add(counts.total);
        bucket.counts.marked = bucket.counts.marked.saturating_add(counts.marked);
        bucket.counts.provoked = bucket.counts.provoked.saturating_add(counts.provoked);
        bucket.counts.by = bucket.counts.by.and(counts.by);
    }

    /// Sums of this second and the nine before it.
    pub(crate) fn sum(&self, now: Mono) -> Counts {
        let second = now.seconds();
        let mut sum = Counts::default();
        for bucket in &self.buckets {
            if bucket.second <= second && second - bucket.second < BUCKETS as u64 {
                sum.total = sum.total.saturating_add(bucket.counts.total);
                sum.marked = sum.marked.saturating_add(bucket.counts.marked);
                sum.provoked = sum.provoked.saturating_add(bucket.counts.provoked);
                sum.by = sum.by.and(bucket.counts.by);
            }
        }
        sum
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_window_counts_exactly_the_last_ten_seconds(
            gaps in prop::collection::vec(0..4_000_u64, 1..60),
        ) {
            let mut window = Window::default();
            let mut seen: Vec<u64> = Vec::new();
            let mut now = 0;
            for gap in gaps {
                now += gap;
                let marked = u32::from(now % 3 == 0);
                window.add(Counts { total: 1, marked, ..Counts::default() }, Mono::from_millis(now));
                seen.push(now);
                let inside: Vec<_> =
                    seen.iter().filter(|at| now / 1_000 - **at / 1_000 < 10).collect();
                let expected = Counts {
                    total: inside.len() as u32,
                    marked: inside.iter().filter(|at| **at % 3 == 0).count() as u32,
                    ..Counts::default()
                };
                prop_assert_eq!(window.sum(Mono::from_millis(now)), expected);
            }
        }
    }
}
