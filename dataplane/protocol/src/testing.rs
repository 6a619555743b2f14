//! Small values for tests, here and in the crates above (feature `testing`).

use crate::{
    ModelName,
    table::{
        BreakerPolicy, Credential, Discovery, Endpoint, HealthMode, HealthPolicy, Listing,
        ListingFormat, ModelPolicy, PathScope, WhenAllOpen,
    },
};

/// One of type openai without a credential.
pub fn endpoint(id: &str) -> Endpoint {
    Endpoint {
        id: id.into(),
        profile: "openai".into(),
        priority: 100,
        weight: 100,
        base_path: String::new(),
        credential: Credential::None,
        paths: PathScope::Inference,
        health: health_policy(),
        models: model_policy(),
    }
}

pub fn breaker_policy() -> BreakerPolicy {
    BreakerPolicy {
        consecutive_failures: 5,
        failure_percent: None,
        min_requests: 20,
        open_for_ms: 30_000,
        max_open_for_ms: 300_000,
        half_open_requests: 1,
        max_ejected_percent: 100,
        when_all_open: WhenAllOpen::TryBest,
    }
}

pub fn health_policy() -> HealthPolicy {
    HealthPolicy {
        mode: HealthMode::Active,
        paths: vec!["/health".into()],
        interval_ms: 10_000,
        timeout_ms: 5_000,
        unhealthy_threshold: 2,
        healthy_threshold: 1,
    }
}

/// Discovery off, nothing fixed.
pub fn model_policy() -> ModelPolicy {
    ModelPolicy {
        discovery: None,
        fixed: vec![],
        include: vec![],
        exclude: vec![],
    }
}

pub fn discovery() -> Discovery {
    Discovery {
        listings: vec![Listing {
            path: "/v1/models".into(),
            format: ListingFormat::Openai,
            detects: None,
        }],
        interval_ms: 30_000,
    }
}

pub fn names(list: &[&str]) -> Vec<ModelName> {
    list.iter().copied().map(ModelName::from).collect()
}

/// Numbers that a seed gives, the same each time: a failing case is told by its seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0, less than `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    pub fn one_in(&mut self, cases: usize) -> bool {
        self.below(cases) == 0
    }

    /// Any of a list.
    pub fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}
