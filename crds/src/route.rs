//! `OllaRoute`: how a namespace's requests find a place.

#![allow(
    unreachable_pub,
    reason = "what KubeSchema derives repeats the structs inside functions"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::cause::FailoverCause;
use crate::{Duration, LabelSelector};

/// Routes the requests of a namespace to its LlmEndpoints. An empty spec sends all requests to all
/// endpoints of the namespace, best priority first.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "olla.dev",
    version = "v1alpha1",
    kind = "OllaRoute",
    namespaced,
    status = "OllaRouteStatus",
    shortname = "olr",
    category = "olla",
    doc = "How the requests of a namespace find an LlmEndpoint.",
    printcolumn(json_path = ".spec.engine", name = "Engine", type_ = "string"),
    printcolumn(json_path = ".spec.loadBalancer", name = "Balancer", type_ = "string"),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Accepted')].status",
        name = "Accepted",
        type_ = "string"
    ),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Programmed')].status",
        name = "Programmed",
        type_ = "string"
    ),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        name = "Ready",
        type_ = "string"
    ),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        name = "Message",
        type_ = "string"
    ),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    validation = Rule::new("!(self.spec.engine == 'sherpa' && has(self.spec.circuitBreaker))")
        .message("spec.circuitBreaker: engine sherpa has no circuit breaker; use engine olla")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct OllaRouteSpec {
    /// Requests that use this route: those that match any entry. Default: all requests. If
    /// several routes match a request, the most specific match wins:
    /// longest pathPrefix, then models, then most headers, then the oldest route, then the
    /// route's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub matches: Vec<RouteMatch>,

    /// Endpoints that the route sends requests to. Default: every LlmEndpoint of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointsSpec>,

    /// A preset for `circuitBreaker` and `failover`. `olla` (default): breaker on, failover on
    /// connection failures, resets, first-token timeouts, 429, 502, 503 and 504. `sherpa`: no
    /// breaker, and another endpoint is tried only when connecting failed.
    #[serde(default)]
    pub engine: Engine,

    /// `priority` (default): best tier first, weighted round robin inside a tier.
    /// `round_robin`: weighted round robin over all endpoints, priorities ignored.
    /// `least_connections`: fewest requests in flight, priorities ignored.
    #[serde(default)]
    pub load_balancer: LoadBalancer,

    /// Direction of `priority`. `LowestFirst` (default) or `HighestFirst` (Olla's own).
    #[serde(default)]
    pub priority_order: PriorityOrder,

    /// Failover: when a failed request is retried on another endpoint before its first byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<FailoverSpec>,

    /// Circuit breaker: when to stop sending requests to a failing instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreakerSpec>,

    /// Timeouts of requests.
    #[serde(default)]
    pub timeouts: TimeoutsSpec,
}

/// Conditions on a request; all that are set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// Path as the client sent it, by whole segments: `/olla/openai` fits
    /// `/olla/openai/v1/models`, not `/olla/openaix`. Also what follows `/olla/` and the next
    /// segment: `/v1/audio` fits `/olla/openai/v1/audio/speech`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = "^/"))]
    pub path_prefix: Option<String>,
    /// Globs (`*`, `?`); the requested model must match one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub models: Vec<String>,
    /// Request headers that must be present with these values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"]
    ))]
    pub headers: Vec<HeaderMatch>,
}

/// A request header and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Name of the header, in any case.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9-]+$"))]
    pub name: String,
    /// Exact value.
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// LlmEndpoints by name and by label: the union of `refs` and `selector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.refs) || has(self.selector)")
    .message("endpoints: set refs, selector or both; omit endpoints to use all LlmEndpoints of the namespace"))]
pub struct EndpointsSpec {
    /// LlmEndpoints of the same namespace by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"]
    ))]
    pub refs: Vec<EndpointRef>,
    /// LlmEndpoints of the same namespace by their labels. The different selectors of all OllaRoutes
    /// of a namespace may select 200,000 in total; the newest routes beyond that are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// An LlmEndpoint by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRef {
    /// Name of the LlmEndpoint.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Overrides the endpoint's own priority for this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub priority: Option<u32>,
    /// Overrides the endpoint's own weight for this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub weight: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    #[default]
    Olla,
    Sherpa,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancer {
    #[default]
    Priority,
    RoundRobin,
    LeastConnections,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PriorityOrder {
    #[default]
    LowestFirst,
    HighestFirst,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverSpec {
    /// Failures after which a request is retried on another endpoint: `ConnectFailure`, `Reset`,
    /// `FirstTokenTimeout`, statuses (`408`, `"503"`) and classes of statuses (`5xx`). Default:
    /// the preset of `engine`. `Reset` also covers a connection that closes before the first
    /// byte, and an endpoint that fails its health check meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub causes: Option<Vec<FailoverCause>>,
    /// Maximum number of attempts per request, including the first. Default 3; 1 disables
    /// failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub attempts: Option<u32>,
    /// Retry budget: attempts beyond the first, as a percentage of the route's requests over
    /// the last 10 seconds, so that an outage does not multiply the load. Default 20. Ten per
    /// window are always allowed. Retries after connection failures, after a failed health
    /// check, and after a request's first reset are not charged against the budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub budget_percent: Option<u32>,
}

/// Circuit breaker of each instance. Closed: requests are sent. Open: no requests are sent.
/// HalfOpen: a few requests test whether the instance has recovered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.minRequests) || has(self.failurePercent)")
    .message("circuitBreaker.minRequests: has no effect without failurePercent"))]
#[x_kube(validation = Rule::new("!has(self.openFor) || duration(self.openFor) > duration('0s')")
    .message("circuitBreaker.openFor: must be greater than 0s"))]
pub struct CircuitBreakerSpec {
    /// Consecutive failures that open the breaker: 5xx, resets, timeouts, truncated streams.
    /// Default 5. Client disconnects, 429, 501, 505, 508, and 503 with Retry-After do not count as
    /// failures. A 500, which a request may provoke, counts once two clients have seen one in a
    /// row, or after four times as many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: Option<u32>,
    /// Failures, as a percentage of the results of the last 10 seconds, that open the breaker
    /// as well. Default: not evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_percent: Option<u32>,
    /// Minimum number of results in those 10 seconds before failurePercent is evaluated.
    /// Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_requests: Option<u32>,
    /// Time after which an open breaker becomes half-open. Default 30s; doubles with each failed
    /// attempt, up to 5m (or this value, if longer). A breaker opened by connection failures
    /// turns half-open as soon as a health check succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_for: Option<Duration>,
    /// Concurrent requests allowed while the breaker is half-open. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub half_open_requests: Option<u32>,
    /// Maximum percentage of the route's instances that are excluded because of their breakers.
    /// Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub max_ejected_percent: Option<u32>,
    /// Behaviour when all remaining breakers are open: `TryBest` (default) sends the request to
    /// the instance whose breaker would become half-open first, `Fail` answers 503 at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_all_open: Option<WhenAllOpen>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenAllOpen {
    #[default]
    TryBest,
    Fail,
}

/// Timeouts of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.connect) ? self.connect : '1s', has(self.firstToken) ? self.firstToken : '1s', \
     has(self.streamIdle) ? self.streamIdle : '1s', has(self.request) ? self.request : '1s']\
     .all(t, duration(t) > duration('0s'))")
    .message("timeouts: each must be greater than 0s; omit a timeout to use its default"))]
pub struct TimeoutsSpec {
    /// Time allowed to establish a connection, TLS included. Default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,
    /// From sending the request to the first byte of the response body. Default 120s for
    /// streams, so that a cold model can load. Without streaming this spans the whole
    /// generation, so it applies only if set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token: Option<Duration>,
    /// Longest silence within a stream. Default 120s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_idle: Option<Duration>,
    /// From the request to the end of the response, all attempts included. Default none: long
    /// generations are not an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
}

/// Observed state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OllaRouteStatus {
    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Ready`.
    #[serde(default)]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"],
        "maxItems" = 8
    ))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the API server's CEL rules say to a spec, defaults filled in as it does.
    fn refusals(spec: &str) -> Vec<String> {
        let spec: OllaRouteSpec =
            serde_saphyr::from_str(spec).unwrap_or_else(|e| panic!("{spec}: {e}"));
        match OllaRoute::new("a", spec).validate_cel() {
            Ok(()) => Vec::new(),
            Err(errors) => errors.into_vec().into_iter().map(|e| e.message).collect(),
        }
    }

    #[test]
    fn good_routes_are_accepted() {
        for spec in [
            "{}",
            "engine: sherpa",
            "endpoints: {refs: [{name: a}]}",
            "endpoints: {selector: {matchLabels: {app: a}}}",
            "endpoints: {selector: {}}",
            "circuitBreaker: {}",
            "circuitBreaker: {failurePercent: 50, minRequests: 10, openFor: 1s}",
            "timeouts: {connect: 1s, firstToken: 1m, streamIdle: 1h, request: 500ms}",
        ] {
            assert_eq!(refusals(spec), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn what_has_no_effect_or_no_sense_is_refused() {
        for (spec, message) in [
            (
                "{engine: sherpa, circuitBreaker: {}}",
                "spec.circuitBreaker: engine sherpa has no circuit breaker; use engine olla",
            ),
            (
                "endpoints: {}",
                "endpoints: set refs, selector or both; omit endpoints to use all LlmEndpoints of the namespace",
            ),
            (
                "circuitBreaker: {minRequests: 10}",
                "circuitBreaker.minRequests: has no effect without failurePercent",
            ),
            (
                "circuitBreaker: {openFor: 0s}",
                "circuitBreaker.openFor: must be greater than 0s",
            ),
        ] {
            assert_eq!(refusals(spec), [message], "{spec}");
        }
        for member in ["connect", "firstToken", "streamIdle", "request"] {
            assert_eq!(
                refusals(&format!("timeouts: {{{member}: 0s}}")),
                ["timeouts: each must be greater than 0s; omit a timeout to use its default"],
                "{member}"
            );
        }
    }
}
