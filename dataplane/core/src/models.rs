//! What models one instance serves, and when to ask it again.

use std::time::Duration;

use dataplane_protocol::{ModelName, table::ModelPolicy};

use crate::{glob, order::ListingResult, rng::Rng, time::Mono};

/// First wait after a listing failed; doubles up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub(crate) struct Models {
    /// The last good listing, as it came.
    listed: Option<Vec<ModelName>>,
    /// The backend said that it has no listing.
    unsupported: bool,
    /// `fixed` and `listed`, what the globs leave of them, sorted.
    serves: Vec<ModelName>,
    next: Option<Mono>,
    /// A listing was given out; without a result it is forgotten at this time.
    under_way: Option<Mono>,
    /// When the last result came, whatever it was.
    last: Option<Mono>,
    failures: u32,
    /// Why the last listing failed; empty when it did not.
    reason: String,
}

/// What is known about models that it does not list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knowledge {
    /// It serves what it lists, and nothing else.
    Complete,
    /// It has no listing: may serve anything.
    Anything,
    /// It was not asked yet, or did not answer.
    NotKnown,
}

impl Models {
    pub(crate) fn new(policy: &ModelPolicy) -> Self {
        let mut models = Self {
            listed: None,
            unsupported: false,
            serves: Vec::new(),
            next: None,
            under_way: None,
            last: None,
            failures: 0,
            reason: String::new(),
        };
        models.recompute(policy);
        models
    }

    pub(crate) fn serves(&self) -> &[ModelName] {
        &self.serves
    }

    /// Whether `model` is among them by any of its names; for single looks, see
    /// [`Catalogue`](crate::catalogue::Catalogue) for many.
    pub(crate) fn lists(&self, model: &str) -> bool {
        self.serves.iter().any(|name| {
            let name = name.as_str();
            let bare = name.strip_suffix(":latest").unwrap_or(name);
            name.eq_ignore_ascii_case(model) || bare.eq_ignore_ascii_case(model)
        })
    }

    pub(crate) fn knowledge(&self, policy: &ModelPolicy) -> Knowledge {
        match &policy.discovery {
            None if policy.fixed.is_empty() => Knowledge::Anything,
            None => Knowledge::Complete,
            Some(_) if self.listed.is_some() => Knowledge::Complete,
            Some(_) if self.unsupported => Knowledge::Anything,
            Some(_) => Knowledge::NotKnown,
        }
    }

    /// For people; empty when all is well.
    pub(crate) fn reason(&self, policy: &ModelPolicy) -> String {
        if !self.reason.is_empty() {
            return format!("last listing failed: {}", self.reason);
        }
        match self.knowledge(policy) {
            Knowledge::Complete => String::new(),
            Knowledge::Anything => "has no listing, may serve anything".to_owned(),
            Knowledge::NotKnown => "not listed yet".to_owned(),
        }
    }

    /// Lists now: it became healthy.
    pub(crate) fn wake(&mut self, policy: &ModelPolicy, now: Mono) {
        self.next = policy.discovery.is_some().then_some(now);
        self.under_way = None;
    }

    /// No listing while it is unhealthy. What it served is remembered.
    pub(crate) fn rest(&mut self) {
        self.next = None;
        self.under_way = None;
    }

    /// The endpoint was changed. True when what it serves is another list now.
    pub(crate) fn adopt(&mut self, policy: &ModelPolicy) -> bool {
        if policy.discovery.is_none() {
            self.listed = None;
            self.unsupported = false;
            self.last = None;
            self.reason.clear();
            self.rest();
        }
        self.recompute(policy) != self.serves
    }

    /// When the last result came: a list, a refusal or a failure.
    pub(crate) fn last(&self) -> Option<Mono> {
        self.last
    }

    /// When the next listing is due; while one is under way, when that is given up.
    pub(crate) fn next(&self) -> Option<Mono> {
        self.under_way.or(self.next)
    }

    /// Whether a listing is to be made now; it is then under way for at most `patience`.
    pub(crate) fn due(&mut self, patience: Duration, now: Mono) -> bool {
        let due = self.next().is_some_and(|at| at <= now);
        if due {
            self.next = None;
            self.under_way = Some(now + patience);
        }
        due
    }

    /// Takes a result. What it served before, when that or what is known of it has changed.
    pub(crate) fn listed(
        &mut self,
        policy: &ModelPolicy,
        result: ListingResult,
        rng: &mut Rng,
        now: Mono,
    ) -> Option<Vec<ModelName>> {
        let discovery = policy.discovery.as_ref()?;
        self.under_way = None;
        self.last = Some(now);
        let before = self.knowledge(policy);
        let interval = Duration::from_millis(discovery.interval_ms.max(1_000));
        let wait = match result {
            ListingResult::Models { models, .. } => {
                self.listed = Some(models);
                self.unsupported = false;
                self.succeeded(interval)
            }
            // Where there was a listing, its absence is a fault on the way, not an answer.
            ListingResult::Unsupported if self.listed.is_some() => {
                self.failed("the listing is gone".to_owned(), interval)
            }
            ListingResult::Unsupported => {
                self.unsupported = true;
                self.succeeded(interval)
            }
            ListingResult::Failed { reason } => self.failed(reason, interval),
        };
        self.next = Some(now + rng.jitter(wait));
        let served = self.recompute(policy);
        (served != self.serves || self.knowledge(policy) != before).then_some(served)
    }

    fn succeeded(&mut self, interval: Duration) -> Duration {
        self.failures = 0;
        self.reason.clear();
        interval
    }

    fn failed(&mut self, reason: String, interval: Duration) -> Duration {
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.reason = reason;
        wait.min(interval)
    }

    /// Gives what it served before.
    fn recompute(&mut self, policy: &ModelPolicy) -> Vec<ModelName> {
        let all = policy.fixed.iter().chain(self.listed.iter().flatten());
        let mut serves: Vec<_> = all
            .filter(|name| takes(policy, name.as_str()))
            .cloned()
            .collect();
        // Mostly they are sorted: then this is one pass.
        serves.sort();
        serves.dedup();
        std::mem::replace(&mut self.serves, serves)
    }
}

/// Whether the user's globs let an endpoint serve this model.
pub(crate) fn takes(policy: &ModelPolicy, model: &str) -> bool {
    (policy.include.is_empty() || glob::any_fits(&policy.include, model))
        && !glob::any_fits(&policy.exclude, model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{discovery, model_policy, names};

    fn models(list: &[&str]) -> ListingResult {
        ListingResult::Models {
            models: names(list),
            detected: None,
        }
    }

    fn listed(state: &mut Models, policy: &ModelPolicy, result: ListingResult) -> bool {
        let before = state.listed(policy, result, &mut Rng::new(1), Mono::default());
        before.is_some()
    }

    fn failed() -> ListingResult {
        ListingResult::Failed {
            reason: "timed out".into(),
        }
    }

    #[test]
    fn without_discovery_a_fixed_list_is_complete_and_none_means_anything() {
        let policy = model_policy();
        assert_eq!(Models::new(&policy).knowledge(&policy), Knowledge::Anything);
        let policy = ModelPolicy {
            fixed: names(&["a"]),
            ..model_policy()
        };
        assert_eq!(Models::new(&policy).knowledge(&policy), Knowledge::Complete);
    }

    #[test]
    fn include_and_exclude_cut_fixed_and_listed_models() {
        let policy = ModelPolicy {
            discovery: Some(discovery()),
            fixed: names(&["llama-fixed", "phi"]),
            include: vec!["llama*".into(), "qwen*".into()],
            exclude: vec!["*:draft".into()],
        };
        let mut state = Models::new(&policy);
        assert_eq!(state.serves(), names(&["llama-fixed"]));
        assert_eq!(state.knowledge(&policy), Knowledge::NotKnown);
        assert!(listed(
            &mut state,
            &policy,
            models(&["qwen", "llama:draft", "x"])
        ));
        assert_eq!(state.serves(), names(&["llama-fixed", "qwen"]));
        assert_eq!(state.knowledge(&policy), Knowledge::Complete);
    }

    #[test]
    fn a_stale_model_goes_with_the_next_listing_and_a_failed_one_keeps_the_last_good() {
        let policy = ModelPolicy {
            discovery: Some(discovery()),
            ..model_policy()
        };
        let mut state = Models::new(&policy);
        assert!(listed(&mut state, &policy, models(&["a", "b"])));
        assert!(!listed(&mut state, &policy, failed()));
        assert!(!listed(&mut state, &policy, ListingResult::Unsupported));
        assert_eq!(state.serves(), names(&["a", "b"]));
        assert_eq!(
            state.reason(&policy),
            "last listing failed: the listing is gone"
        );
        assert!(listed(&mut state, &policy, models(&["b"])));
        assert_eq!(state.serves(), names(&["b"]));
        assert_eq!(state.reason(&policy), "");
    }

    #[test]
    fn a_backend_without_listing_may_serve_anything() {
        let policy = ModelPolicy {
            discovery: Some(discovery()),
            ..model_policy()
        };
        let mut state = Models::new(&policy);
        assert!(listed(&mut state, &policy, ListingResult::Unsupported));
        assert_eq!(state.knowledge(&policy), Knowledge::Anything);
    }

    #[test]
    fn a_listing_counts_as_made_whatever_came_of_it() {
        let policy = ModelPolicy {
            discovery: Some(discovery()),
            ..model_policy()
        };
        for result in [models(&["a"]), ListingResult::Unsupported, failed()] {
            let mut state = Models::new(&policy);
            state.wake(&policy, Mono::default());
            assert_eq!(state.last(), None);
            assert!(state.due(Duration::from_secs(10), Mono::default()));
            assert_eq!(state.last(), None, "under way is not made");
            let now = Mono::from_millis(300);
            state.listed(&policy, result, &mut Rng::new(1), now);
            assert_eq!(state.last(), Some(now));
        }
    }

    #[test]
    fn failed_listings_are_repeated_with_growing_waits_up_to_the_interval() {
        let policy = ModelPolicy {
            discovery: Some(discovery()),
            ..model_policy()
        };
        let mut state = Models::new(&policy);
        let mut now = Mono::from_millis(5_000);
        state.wake(&policy, now);
        let mut waits = Vec::new();
        for _ in 0..6 {
            let at = state.next().unwrap();
            waits.push(at.since(now).as_secs_f64());
            now = at;
            assert!(state.due(Duration::from_secs(10), now));
            assert!(!state.due(Duration::from_secs(10), now), "given out once");
            state.listed(&policy, failed(), &mut Rng::new(1), now);
        }
        let expected = [0.0, 2.0, 4.0, 8.0, 16.0, 30.0];
        let close = |(wait, about): (&f64, &f64)| (wait - about).abs() <= about * 0.05 + 0.5;
        assert!(waits.iter().zip(&expected).all(close), "{waits:?}");
        state.rest();
        assert_eq!(state.next(), None);
    }
}
