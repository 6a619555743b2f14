//! `LlmEndpoint`: a place that can answer.

#![allow(
    unreachable_pub,
    reason = "what KubeSchema derives repeats the structs inside functions"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, LabelSelector, common::SUBDOMAIN_PATTERN};

/// A place that can answer LLM requests: one URL, a Service, or the pods a selector finds.
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
    /// What kind of server answers: auto (default), ollama, openai, vllm, litellm, localai,
    /// gpustack, sglang, llamacpp, lm-studio. Decides health and listing paths and which
    /// `/olla/{type}/` prefixes reach it. `auto` finds out from the model listing.
    #[serde(rename = "type", default = "default_type")]
    #[schemars(length(min = 1, max = 63))]
    pub type_: String,

    /// Base URL, `http://` or `https://`, with an optional port and path. The path is kept
    /// before each request's own. Credentials in it are refused: use `auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^@\s]+$"))]
    pub url: Option<String>,

    /// A Service of the same namespace; each ready address behind it becomes an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceTarget>,

    /// Pods of the same namespace; each ready one becomes an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<PodSelectorTarget>,

    /// Which tier it stands in. Default 100. Lower is preferred, unless the route says
    /// `priorityOrder: HighestFirst`. Equal numbers share traffic.
    #[serde(default = "default_hundred")]
    #[schemars(range(max = 1_000_000))]
    pub priority: u32,

    /// Share inside its tier, in proportion to the weights of its neighbours. Default 100; 0
    /// takes no traffic.
    #[serde(default = "default_hundred")]
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,

    /// How the data planes find out whether it works.
    #[serde(default)]
    pub health: HealthSpec,

    /// Which models it serves.
    #[serde(default)]
    pub models: ModelsSpec,

    /// Credentials sent to the backend, from a Secret of the same namespace. They are used for
    /// inference and model listings only; other paths of an endpoint with `auth` are refused
    /// unless `paths` is `All`. Clients' own credentials never reach a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTarget {
    /// Name of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Port number as the Service names it (not the pods' target port).
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("size(self.matchLabels) > 0")
    .message("podSelector.matchLabels: name at least one label, or every pod would be a backend"))]
pub struct PodSelectorTarget {
    /// Labels that a pod must have, all of them.
    #[schemars(extend("maxProperties" = 32))]
    pub match_labels: std::collections::BTreeMap<String, String>,
    /// Port on which the pods answer.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

impl PodSelectorTarget {
    pub fn selector(&self) -> LabelSelector {
        LabelSelector {
            match_labels: self.match_labels.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.interval) >= duration('100ms')")
    .message("health.interval: must be at least 100ms"))]
#[x_kube(validation = Rule::new("duration(self.timeout) > duration('0s')")
    .message("health.timeout: must be longer than 0s"))]
pub struct HealthSpec {
    /// `Active` (default) probes at `interval`. `Passive` probes only after a request failed to
    /// connect or was reset before its answer, until a probe is good: for endpoints that bill or
    /// limit requests. `Disabled` never probes; the circuit breaker alone judges.
    #[serde(default)]
    pub mode: HealthMode,
    /// Path of the probe, a GET that costs no tokens; any 2xx is good. Default: the one of
    /// `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = "^/"))]
    pub path: Option<String>,
    /// Time between probes, at least 100ms, kept to within ±5 % of jitter. Default 10s. Where it
    /// is longer, the next probe after a failed one comes after 1s, and while the instance is out
    /// of use one comes every 10s, so that neither verdict waits for `interval`.
    #[serde(default = "default_health_interval")]
    pub interval: Duration,
    /// A probe that takes longer has failed. Default 5s: Ollama is slow to answer while it
    /// loads a model.
    #[serde(default = "default_health_timeout")]
    pub timeout: Duration,
    /// Failed probes in a row that take it out of use. Default 2.
    #[serde(default = "default_unhealthy_threshold")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_threshold: u32,
    /// Good probes in a row that bring it back. Default 1.
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
    /// Asking the backend for its list.
    #[serde(default)]
    pub discovery: DiscoverySpec,
    /// Models it serves whatever its list says. With discovery off and this empty, it is taken
    /// to serve every model.
    #[serde(rename = "static", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(min = 1, max = 256)))]
    pub fixed: Vec<String>,
    /// When not empty, only models that match one of these globs (`*`, `?`) are offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub include: Vec<String>,
    /// Models that match one of these globs are never offered.
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
    /// Path of the listing, a GET. Default: the one of `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = "^/"))]
    pub path: Option<String>,
    /// Time between listings, at least 1s. Default 30s. A backend that comes back is asked at
    /// once; one that failed to list is asked again after 2s, 4s and so on up to `interval`.
    #[serde(default = "default_discovery_interval")]
    pub interval: Duration,
}

/// Exactly one kind of credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.bearer), has(self.basic), has(self.apiKey), has(self.header)].exists_one(t, t)")
    .message("auth: set exactly one of bearer, basic, apiKey, header"))]
pub struct AuthSpec {
    /// `Authorization: Bearer VALUE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<SecretKeyRef>,
    /// `Authorization: Basic …` from the keys `username` and `password` of a Secret (type
    /// `kubernetes.io/basic-auth`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<SecretRef>,
    /// `X-Api-Key: VALUE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretKeyRef>,
    /// Any other header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderAuth>,
    /// Paths that clients may use with this credential. `Inference` (default): chats, completions,
    /// embeddings and the like, and model listings; other paths are answered 403. `All`: every
    /// path; whoever reaches the data plane may then do what the credential may, so use one with
    /// the rights of the clients, not an administrator's.
    #[serde(default)]
    pub paths: AuthPaths,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthPaths {
    #[default]
    Inference,
    All,
}

impl AuthSpec {
    /// The Secrets that are named, each with the field that does.
    pub fn secrets(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let bearer = self.bearer.as_ref().map(|key| key.name.as_str());
        let basic = self.basic.as_ref().map(|secret| secret.name.as_str());
        let api_key = self.api_key.as_ref().map(|key| key.name.as_str());
        let header = self.header.as_ref().map(|it| it.value_from.name.as_str());
        [
            ("spec.auth.bearer.name", bearer),
            ("spec.auth.basic.name", basic),
            ("spec.auth.apiKey.name", api_key),
            ("spec.auth.header.valueFrom.name", header),
        ]
        .into_iter()
        .filter_map(|(field, name)| Some((field, name?)))
    }
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN_PATTERN))]
    pub name: String,
}

/// One key of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN_PATTERN))]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderAuth {
    /// Name of the request header.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9-]+$"))]
    pub name: String,
    /// Where its value stands.
    pub value_from: SecretKeyRef,
}

/// What became of it.
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
    /// Its addresses, as the data planes see them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<InstanceCounts>,
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceCounts {
    /// Ready addresses found in the cluster.
    pub total: i32,
    /// Of these, how many at least one data plane can use.
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
            "podSelector: {matchLabels: {app: a}, port: 8000}",
            "{url: http://a, health: {interval: 100ms, timeout: 1h}}",
            "{url: http://a, models: {discovery: {interval: 1s}}}",
            "{url: http://a, auth: {bearer: {name: s, key: k}}}",
            "{url: http://a, auth: {header: {name: X-A, valueFrom: {name: s, key: k}}}}",
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
            ["podSelector.matchLabels: name at least one label, or every pod would be a backend"]
        );
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
                "health.timeout: must be longer than 0s",
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
        for auth in ["{}", "{bearer: {name: s, key: k}, basic: {name: s}}"] {
            assert_eq!(
                refusals(&format!("url: http://a\nauth: {auth}")),
                ["auth: set exactly one of bearer, basic, apiKey, header"],
                "{auth}"
            );
        }
    }
}
