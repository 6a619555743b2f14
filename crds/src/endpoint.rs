//! `LlmEndpoint`: a place that can answer.

#![allow(
    unreachable_pub,
    reason = "what KubeSchema derives repeats the structs inside functions"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::auth::AuthSpec;
use crate::{Duration, LabelSelector, Port};

/// A backend for LLM requests: a URL, a Service, or the pods that a selector matches.
/// Routes choose between the endpoints of their namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "olla.dev",
    version = "v1alpha1",
    kind = "LlmEndpoint",
    namespaced,
    status = "LlmEndpointStatus",
    shortname = "llmep",
    category = "olla",
    doc = "A place that can answer LLM requests: one URL, a Service, or the pods a selector finds.",
    printcolumn(json_path = ".spec.type", name = "Type", type_ = "string"),
    printcolumn(json_path = ".spec.priority", name = "Priority", type_ = "integer"),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Accepted')].status",
        name = "Accepted",
        type_ = "string"
    ),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        name = "Ready",
        type_ = "string"
    ),
    printcolumn(json_path = ".status.instances.summary", name = "Instances", type_ = "string"),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        name = "Message",
        type_ = "string"
    ),
    printcolumn(json_path = ".spec.url", name = "URL", type_ = "string", priority = 1),
    printcolumn(
        json_path = ".spec.service.name",
        name = "Service",
        type_ = "string",
        priority = 1
    ),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    validation = Rule::new(
        "[has(self.spec.url), has(self.spec.service), has(self.spec.podSelector)].exists_one(t, t)"
    )
    .message("spec: set exactly one of url, service, podSelector")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct LlmEndpointSpec {
    /// Type of server: auto (default), ollama, openai, vllm, litellm, localai, gpustack,
    /// sglang, llamacpp, lm-studio. Decides health check and listing paths, and which
    /// `/olla/{type}/` prefixes lead to this endpoint. `auto` detects the type from the model
    /// listing.
    #[serde(rename = "type", default = "default_type")]
    #[schemars(length(min = 1, max = 63))]
    pub type_: String,

    /// Base URL, `http://` or `https://`, with an optional port and path. The path is prepended
    /// to the path of each request. Credentials in the URL are refused: use `auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^@\s]+$"))]
    pub url: Option<String>,

    /// A Service of the same namespace; each ready address behind it becomes an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceTarget>,

    /// Pods of the same namespace; each ready pod becomes an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<PodSelectorTarget>,

    /// Priority of this endpoint; endpoints with equal priority form a tier and share its
    /// traffic. Default 100. Lower numbers are preferred, unless `priorityOrder` of the route is
    /// `HighestFirst`.
    #[serde(default = "default_hundred")]
    #[schemars(range(max = 1_000_000))]
    pub priority: u32,

    /// Share of traffic inside the tier, relative to the weights of the other endpoints.
    /// Default 100; 0 takes no traffic.
    #[serde(default = "default_hundred")]
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,

    /// Health checks by the data planes.
    #[serde(default)]
    pub health: HealthSpec,

    /// Models that the endpoint serves.
    #[serde(default)]
    pub models: ModelsSpec,

    /// Credentials sent to the backend, from a Secret of the same namespace. They are used for
    /// inference and model listings only; other paths of an endpoint with `auth` are refused
    /// unless `paths` is `All`. Clients' own credentials never reach a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSpec>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTarget {
    /// Name of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// A port of the Service, by number or name (not the target port of its pods).
    pub port: Port,
}

/// A port of the selected pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "(has(self.matchLabels) && size(self.matchLabels) > 0) \
     || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
    .message("podSelector: set matchLabels or matchExpressions; an empty selector would match every pod"))]
pub struct PodSelectorTarget {
    #[serde(flatten)]
    pub selector: LabelSelector,
    /// The port on which the pods serve, by number or by the name of a container port.
    pub port: Port,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.interval) >= duration('100ms')")
    .message("health.interval: must be at least 100ms"))]
#[x_kube(validation = Rule::new("duration(self.timeout) > duration('0s')")
    .message("health.timeout: must be greater than 0s"))]
pub struct HealthSpec {
    /// `Active` (default) probes at `interval`. `Passive` probes only after a request failed to
    /// connect or was reset before its answer, until a probe succeeds: for endpoints that bill
    /// or limit requests. `Disabled` never probes; only the circuit breaker
    /// excludes instances.
    #[serde(default)]
    pub mode: HealthMode,
    /// Path of the probe, a GET that costs no tokens; any 2xx is a success. Default: the path
    /// of `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = "^/"))]
    pub path: Option<String>,
    /// Time between probes, at least 100ms, with ±5 % of jitter. Default 10s. With a
    /// longer `interval`, a failed probe is repeated after 1s and an unhealthy instance is probed
    /// every 10s.
    #[serde(default = "default_health_interval")]
    pub interval: Duration,
    /// Time after which a probe has failed. Default 5s: Ollama is slow to answer while it loads
    /// a model.
    #[serde(default = "default_health_timeout")]
    pub timeout: Duration,
    /// Consecutive failed probes that make an instance unhealthy. Default 2.
    #[serde(default = "default_unhealthy_threshold")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_threshold: u32,
    /// Consecutive successful probes that make an instance healthy again. Default 1.
    #[serde(default = "default_one")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_threshold: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HealthMode {
    #[default]
    Active,
    Passive,
    Disabled,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelsSpec {
    /// Model discovery from the backend's own listing.
    #[serde(default)]
    pub discovery: DiscoverySpec,
    /// Models that the endpoint serves in addition to discovered ones. With discovery disabled
    /// and no static models, the endpoint is assumed to serve every model.
    #[serde(rename = "static", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(min = 1, max = 256)))]
    pub fixed: Vec<String>,
    /// Globs (`*`, `?`). If set, only models that match one of them are offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub include: Vec<String>,
    /// Globs (`*`, `?`). Models that match one of them are never offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub exclude: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.interval) >= duration('1s')")
    .message("models.discovery.interval: must be at least 1s"))]
pub struct DiscoverySpec {
    /// Whether the backend is asked for its models. Default true.
    #[serde(default = "default_true")]
    pub enabled: bool,
    /// Path of the listing, a GET. Default: the path of `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = "^/"))]
    pub path: Option<String>,
    /// Time between listings, at least 1s. Default 30s. A backend that recovers is asked at
    /// once; a failed listing is repeated after 2s, 4s and so on up to `interval`.
    #[serde(default = "default_discovery_interval")]
    pub interval: Duration,
}

/// Observed state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LlmEndpointStatus {
    /// `Accepted`, `ResolvedRefs`, `Ready`.
    #[serde(default)]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"],
        "maxItems" = 8
    ))]
    pub conditions: Vec<Condition>,
    /// Number of instances and how many of them can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<InstanceCounts>,
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Number of instances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceCounts {
    /// Ready addresses found in the cluster.
    pub total: i32,
    /// Instances that at least one data plane can use.
    pub ready: i32,
    /// `ready/total`, for `kubectl get`.
    pub summary: String,
}

fn default_type() -> String {
    "auto".into()
}

fn default_hundred() -> u32 {
    100
}

fn default_one() -> u32 {
    1
}

fn default_true() -> bool {
    true
}

fn default_unhealthy_threshold() -> u32 {
    2
}

fn default_health_interval() -> Duration {
    Duration::new("10s")
}

fn default_health_timeout() -> Duration {
    Duration::new("5s")
}

fn default_discovery_interval() -> Duration {
    Duration::new("30s")
}

impl Default for HealthSpec {
    fn default() -> Self {
        Self {
            mode: HealthMode::Active,
            path: None,
            interval: default_health_interval(),
            timeout: default_health_timeout(),
            unhealthy_threshold: default_unhealthy_threshold(),
            healthy_threshold: default_one(),
        }
    }
}

impl Default for DiscoverySpec {
    fn default() -> Self {
        Self {
            enabled: true,
            path: None,
            interval: default_discovery_interval(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the API server's CEL rules say to a spec, defaults filled in as it does.
    fn refusals(spec: &str) -> Vec<String> {
        let spec: LlmEndpointSpec =
            serde_saphyr::from_str(spec).unwrap_or_else(|e| panic!("{spec}: {e}"));
        match LlmEndpoint::new("a", spec).validate_cel() {
            Ok(()) => Vec::new(),
            Err(errors) => errors.into_vec().into_iter().map(|e| e.message).collect(),
        }
    }

    #[test]
    fn good_endpoints_are_accepted() {
        for spec in [
            "url: http://a:8000",
            "service: {name: a, port: 80}",
            "service: {name: a, port: http}",
            "podSelector: {matchLabels: {app: a}, port: 8000}",
            "podSelector: {matchExpressions: [{key: app, operator: Exists}], port: 8000}",
            "podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}], port: 8000}",
            "{url: http://a, health: {interval: 100ms, timeout: 1h}}",
            "{url: http://a, models: {discovery: {interval: 1s}}}",
            "{url: http://a, auth: {bearer: {valueFrom: {secretKeyRef: {name: s, key: k}}}}}",
            "{url: http://a, auth: {header: {name: X-A, valueFrom: {secretKeyRef: {name: s, key: k}}}}}",
        ] {
            assert_eq!(refusals(spec), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn exactly_one_target_must_be_named() {
        for spec in [
            "type: ollama",
            "{url: http://a, service: {name: a, port: 80}}",
            "{service: {name: a, port: 80}, podSelector: {matchLabels: {app: a}, port: 1}}",
        ] {
            assert_eq!(
                refusals(spec),
                ["spec: set exactly one of url, service, podSelector"],
                "{spec}"
            );
        }
    }

    #[test]
    fn a_selector_of_no_labels_is_refused() {
        assert_eq!(
            refusals("podSelector: {matchLabels: {}, port: 8000}"),
            [
                "podSelector: set matchLabels or matchExpressions; an empty selector would match every pod"
            ]
        );
    }

    #[test]
    fn values_must_fit_their_operator() {
        for expression in [
            "{key: a, operator: In}",
            "{key: a, operator: Exists, values: [b]}",
        ] {
            assert_eq!(
                refusals(&format!(
                    "podSelector: {{matchExpressions: [{expression}], port: 8000}}"
                )),
                [
                    "matchExpressions: In and NotIn need values; Exists and DoesNotExist must have none"
                ],
                "{expression}"
            );
        }
    }

    #[test]
    fn durations_of_nothing_are_refused() {
        for (spec, message) in [
            (
                "health: {interval: 99ms}",
                "health.interval: must be at least 100ms",
            ),
            (
                "health: {timeout: 0m0s}",
                "health.timeout: must be greater than 0s",
            ),
            (
                "models: {discovery: {interval: 999ms}}",
                "models.discovery.interval: must be at least 1s",
            ),
        ] {
            assert_eq!(refusals(&format!("url: http://a\n{spec}")), [message]);
        }
    }

    #[test]
    fn exactly_one_credential_must_be_named() {
        for auth in [
            "{}",
            "{bearer: {valueFrom: {secretKeyRef: {name: s, key: k}}}, basic: {valueFrom: {secretRef: {name: s}}}}",
        ] {
            assert_eq!(
                refusals(&format!("url: http://a\nauth: {auth}")),
                ["auth: set exactly one of bearer, basic, apiKey, header"],
                "{auth}"
            );
        }
    }
}
