//! Values that tests start from: the defaults a user would have, changed by verbs.

use dataplane_protocol::{
    ModelName,
    table::{
        BreakerPolicy, Discovery, HealthMode, HealthPolicy, Listing, ListingFormat, ModelPolicy,
        WhenAllOpen,
    },
};

pub(crate) fn breaker_policy() -> BreakerPolicy {
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

pub(crate) fn health_policy() -> HealthPolicy {
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
pub(crate) fn model_policy() -> ModelPolicy {
    ModelPolicy {
        discovery: None,
        fixed: vec![],
        include: vec![],
        exclude: vec![],
    }
}

pub(crate) fn discovery() -> Discovery {
    Discovery {
        listings: vec![Listing {
            path: "/v1/models".into(),
            format: ListingFormat::Openai,
            detects: None,
        }],
        interval_ms: 30_000,
    }
}

pub(crate) fn names(list: &[&str]) -> Vec<ModelName> {
    list.iter().copied().map(ModelName::from).collect()
}
