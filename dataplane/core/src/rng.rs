//! A small seeded generator (splitmix64). Same seed, same decisions: a failing run repeats.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// True in `permille` of 1000 cases.
    pub(crate) fn chance(&mut self, permille: u32) -> bool {
        self.next() % 1_000 < u64::from(permille)
    }

    /// `wait` made up to 5 % shorter or longer, so that instances that started together are
    /// not probed together for ever.
    pub(crate) fn jitter(&mut self, wait: Duration) -> Duration {
        let permille = 950 + (self.next() % 101) as u32;
        wait.saturating_mul(permille) / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_five_percent_and_reaches_both_sides() {
        let mut rng = Rng::new(7);
        let wait = Duration::from_secs(10);
        let all: Vec<_> = (0..1_000).map(|_| rng.jitter(wait)).collect();
        assert!(all.iter().all(|w| w.as_millis().abs_diff(10_000) <= 500));
        assert!(all.iter().any(|w| *w < wait) && all.iter().any(|w| *w > wait));
    }

    #[test]
    fn a_chance_is_met_about_that_often() {
        let mut rng = Rng::new(1);
        let hits = (0..10_000).filter(|_| rng.chance(100)).count();
        assert!((800..1_200).contains(&hits), "{hits}");
    }
}
