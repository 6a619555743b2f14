//! The operator: `LlmEndpoint` and `OllaRoute` objects, plus pod readiness, become one routing
//! table per namespace, pushed to the data planes that prove they belong there.
//!
//! ```text
//! cli ─▶ app ─┬─ routing   watches → tables → streams → statuses
//!             ├─ gateway   Deployment, Service, … of each namespace with a route
//!             ├─ tls       certificate of the stream's port, CA for data planes
//!             ├─ tokens    ServiceAccount token → namespace
//!             ├─ injection sidecars for pods that ask for one
//!             ├─ events    Kubernetes Events
//!             └─ admin     health, readiness, metrics
//! ```

pub mod admin;
pub mod app;
mod bind;
mod budget;
pub mod cli;
mod condition;
pub mod config;
pub mod election;
pub mod error;
pub mod events;
pub mod gateway;
pub mod injection;
pub mod leader;
pub mod limiter;
pub mod metrics;
pub mod rbac;
pub mod routing;
pub mod tls;
pub mod tokens;

pub use app::{App, Running};
pub use config::Config;
pub use error::Error;

/// Field manager of all that is written, and the name in Events.
pub const MANAGER: &str = "olla-operator";

/// ConfigMap in which data planes find the CA.
pub const CA_CONFIG_MAP: &str = "olla-operator-ca";

/// ServiceAccount of the data planes that are a namespace's gateway.
pub const GATEWAY_ACCOUNT: &str = "olla-gateway";

/// Service of the webhook's port, which leads to any replica.
pub const WEBHOOK_SERVICE: &str = "olla-operator-webhook";
