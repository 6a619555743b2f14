//! Why a request got no answer from a backend. The single error enum of a request; only
//! `proxy/respond.rs` makes it a response.

use std::time::Duration;

use dataplane_core::{Cause, Refusal};
use dialect::{path, scope::Denied};
use http::{Method, StatusCode};

/// Longest path, bytes: it is read for each endpoint that might take it.
const MAX_PATH: usize = 8 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    // The client's side.
    #[error("there is nothing at {path}: see /olla/…, /v1/… and /api/…")]
    NotFound { path: String },
    #[error("method {method} is not allowed through the proxy")]
    MethodNotAllowed { method: Method },
    #[error("{message}")]
    BadRequest {
        reason: &'static str,
        message: String,
    },
    #[error("the path is longer than {MAX_PATH} bytes")]
    PathTooLong,
    #[error("the request body arrived too slowly: less than 1 KiB per second for {}s", limit.as_secs())]
    BodyTimeout { limit: Duration },
    #[error(
        "the request passed through this data plane {hops} times: an endpoint points back to it"
    )]
    LoopDetected { hops: usize },
    #[error("protocol upgrades (WebSocket) are not supported: use plain HTTP")]
    UpgradeUnsupported,
    #[error(
        "{what} changes the model store of a single backend and cannot be load-balanced: call that backend directly"
    )]
    NotImplemented { what: String },
    // Ours: what the table says.
    #[error(
        "{path} is neither inference nor a model listing, and the credential of endpoint {endpoint} \
         is used for nothing else: set spec.auth.paths: All on it to allow every path"
    )]
    AdministrationPath { path: String, endpoint: String },
    #[error(
        "no route matches this request: create an OllaRoute that matches its path, model and headers"
    )]
    NoRoute,
    #[error("no endpoint of the route has a type that serves this path{}: check the endpoints' types", kind(.what))]
    NoEndpoint { what: String },
    #[error(
        "no endpoint serves model \"{model}\" (is it pulled or loaded? /olla/models lists what is there)"
    )]
    ModelNotFound { model: String },
    #[error(
        "model \"{model}\" is temporarily unavailable: every endpoint that serves it is unhealthy, saturated, or has an open circuit breaker"
    )]
    ModelUnavailable {
        model: String,
        retry_after: Duration,
    },
    #[error(
        "temporarily unavailable: every endpoint of the route is unhealthy, saturated, or has an open circuit breaker"
    )]
    Unavailable { retry_after: Duration },
    // The backends' side. Endpoints are named, addresses are not.
    #[error("endpoint {endpoint} {}{}", unanswered(*.cause), others(*.cause))]
    Upstream { cause: Cause, endpoint: String },
    #[error("the request exceeded the timeout of its route (timeouts.request: {}ms)", limit.as_millis())]
    RequestTimeout { limit: Duration },
}

/// What an endpoint did instead of answering.
fn unanswered(cause: Cause) -> &'static str {
    match cause {
        Cause::ConnectFailure | Cause::ConnectTimeout => "could not be reached",
        Cause::NoDescriptors => {
            "could not be reached: this data plane has no file descriptors left"
        }
        Cause::FirstTokenTimeout => "did not start to respond in time",
        Cause::Unhealthy => "failed its health check before responding",
        Cause::Malformed => "sent a malformed response",
        _ => "closed the connection before responding",
    }
}

/// And what that means for the others.
fn others(cause: Cause) -> &'static str {
    match cause {
        Cause::NoDescriptors => "",
        _ => ", and no other endpoint was available",
    }
}

/// Why an answer that has begun cannot be finished: what the client reads in its last event.
pub(crate) fn broken_off(cause: Cause, endpoint: &str) -> String {
    let why = match cause {
        Cause::StreamIdleTimeout => {
            format!("endpoint {endpoint} stopped sending in the middle of its response")
        }
        Cause::RequestTimeout => "the request exceeded the timeout of its route".to_owned(),
        Cause::BodyTimeout => "the rest of the request body did not arrive in time".to_owned(),
        Cause::BodyUnreadable => "the client aborted the request body".to_owned(),
        Cause::ClientStalled => "the client stopped reading the response".to_owned(),
        _ => format!("endpoint {endpoint} closed the connection in the middle of its response"),
    };
    format!("{why}: the response is incomplete")
}

fn kind(what: &str) -> String {
    if what.is_empty() {
        String::new()
    } else {
        format!(" for {what}")
    }
}

fn said_by(cause: Cause) -> StatusCode {
    StatusCode::from_u16(cause.status()).unwrap_or(StatusCode::BAD_GATEWAY)
}

impl ProxyError {
    /// Why a path is refused: it is too long, or means different things to different readers.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        if path.len() > MAX_PATH {
            return Some(Self::PathTooLong);
        }
        path::is_ambiguous(path).then(|| Self::BadRequest {
            reason: "ambiguous_path",
            message: "the path contains . or .. segments: remove them".to_owned(),
        })
    }

    /// Why no endpoint takes `path`.
    pub(super) fn denied(denied: Denied, path: &str) -> Self {
        let path = path.to_owned();
        match denied {
            Denied::Store => Self::NotImplemented { what: path },
            Denied::Credential(endpoint) => Self::AdministrationPath {
                path,
                endpoint: endpoint.to_string(),
            },
        }
    }

    pub(crate) fn refused(refusal: &Refusal, model: Option<&str>, what: &str) -> Self {
        let model = model.unwrap_or_default().to_owned();
        match refusal {
            Refusal::NoRoute => Self::NoRoute,
            Refusal::NoEndpoint | Refusal::NotPermitted => Self::NoEndpoint {
                what: what.to_owned(),
            },
            Refusal::ModelNotFound => Self::ModelNotFound { model },
            Refusal::ModelUnavailable { retry_after } => Self::ModelUnavailable {
                model,
                retry_after: *retry_after,
            },
            Refusal::Unavailable { retry_after } => Self::Unavailable {
                retry_after: *retry_after,
            },
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotFound { .. }
            | Self::NoRoute
            | Self::NoEndpoint { .. }
            | Self::ModelNotFound { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest { .. } => StatusCode::BAD_REQUEST,
            Self::PathTooLong => StatusCode::URI_TOO_LONG,
            Self::AdministrationPath { .. } => StatusCode::FORBIDDEN,
            Self::BodyTimeout { .. } => said_by(Cause::BodyTimeout),
            Self::LoopDetected { .. } => StatusCode::LOOP_DETECTED,
            Self::NotImplemented { .. } | Self::UpgradeUnsupported => StatusCode::NOT_IMPLEMENTED,
            Self::ModelUnavailable { .. } | Self::Unavailable { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Upstream { cause, .. } => said_by(*cause),
            Self::RequestTimeout { .. } => said_by(Cause::RequestTimeout),
        }
    }

    /// Stable word: error code, `X-Olla-Routing-Reason`, metric label and log field.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::BadRequest { reason, .. } => reason,
            Self::PathTooLong => "path_too_long",
            Self::AdministrationPath { .. } => "administration_path",
            Self::BodyTimeout { .. } => Cause::BodyTimeout.code(),
            Self::LoopDetected { .. } => "loop_detected",
            Self::UpgradeUnsupported => "upgrade_unsupported",
            Self::NotImplemented { .. } => "not_implemented",
            Self::NoRoute => "no_route",
            Self::NoEndpoint { .. } => "no_endpoint",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::ModelUnavailable { .. } => "model_unavailable",
            Self::Unavailable { .. } => "unavailable",
            Self::Upstream { cause, .. } => cause.code(),
            Self::RequestTimeout { .. } => Cause::RequestTimeout.code(),
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ModelUnavailable { retry_after, .. } | Self::Unavailable { retry_after } => {
                Some(*retry_after)
            }
            // As soon as another request has ended.
            Self::Upstream {
                cause: Cause::NoDescriptors,
                ..
            } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}
