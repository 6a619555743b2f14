//! Small values for tests.

use crate::table::{Credential, Endpoint, HealthMode, HealthPolicy, ModelPolicy, PathScope};

/// One of type openai without a credential.
pub(crate) fn endpoint(id: &str) -> Endpoint {
    Endpoint {
        id: id.into(),
        profile: "openai".into(),
        priority: 100,
        weight: 100,
        base_path: String::new(),
        credential: Credential::None,
        paths: PathScope::Inference,
        health: HealthPolicy {
            mode: HealthMode::Active,
            paths: vec!["/health".into()],
            interval_ms: 10_000,
            timeout_ms: 5_000,
            unhealthy_threshold: 2,
            healthy_threshold: 1,
        },
        models: ModelPolicy {
            discovery: None,
            fixed: vec![],
            include: vec![],
            exclude: vec![],
        },
    }
}
