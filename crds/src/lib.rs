//! What a user may write: the kinds of group `olla.dev`.
//!
//! Types only. What they mean is decided in `compile`; what is refused by the API server stands
//! here as schema and CEL rules. Doc comments become `kubectl explain`.

pub mod auth;
pub mod cause;
pub mod common;
pub mod endpoint;
pub mod gateway;
pub mod port;
pub mod route;
pub mod selector;

mod schema;

pub use common::{Duration, Reason, condition};
pub use endpoint::{LlmEndpoint, LlmEndpointSpec, LlmEndpointStatus};
pub use gateway::{OllaGateway, OllaGatewaySpec, OllaGatewayStatus};
pub use port::Port;
pub use route::{OllaRoute, OllaRouteSpec, OllaRouteStatus};
pub use selector::LabelSelector;

/// API group of all kinds.
pub const GROUP: &str = "olla.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

/// All CRDs, as applied to a cluster.
pub fn all() -> Vec<CustomResourceDefinition> {
    [LlmEndpoint::crd(), OllaGateway::crd(), OllaRoute::crd()]
        .map(schema::tidy)
        .into()
}

/// A CRD as committed in `generated/`.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, Box<dyn std::error::Error>> {
    // Through a JSON value, so that empty members that a type would print are dropped alike.
    let value = serde_json::to_value(crd)?;
    Ok(format!(
        "# Made by `just crds` from the types in crds/src.\n{}",
        serde_saphyr::to_string(&value)?
    ))
}
