//! What the operator may do: exactly the calls it makes, and where each is made. The chart's
//! roles are compared with this list by `tests/chart.rs`.

/// `(API group, resource, verbs)`, in any namespace.
pub const CLUSTER: &[Rule] = &[
    // routing/watch.rs
    ("olla.dev", "llmendpoints", &["list", "watch"]),
    ("olla.dev", "ollaroutes", &["list", "watch"]),
    ("", "pods", &["list", "watch"]),
    ("", "services", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    // Only those that an LlmEndpoint names, each by its name.
    ("", "secrets", &["list", "watch"]),
    // routing/writer.rs
    ("olla.dev", "llmendpoints/status", &["patch"]),
    ("olla.dev", "ollaroutes/status", &["patch"]),
    // tls.rs, by server-side apply, which needs `create` for what is not there yet. That cannot be
    // confined to a name.
    ("", "configmaps", &["create"]),
    ("", "configmaps/olla-operator-ca", &["patch"]),
    // injection/trust.rs
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations/olla-injection",
        &["get", "patch"],
    ),
    // events.rs
    ("events.k8s.io", "events", &["create", "patch"]),
    // gateway/watch.rs
    ("olla.dev", "ollagateways", &["list", "watch"]),
    ("", "namespaces", &["list", "watch"]),
    // gateway/watch.rs and gateway/write.rs, by server-side apply: only objects of a gateway's names.
    ("", "serviceaccounts/olla-gateway", PART),
    ("networking.k8s.io", "networkpolicies/olla-gateway", PART),
    ("apps", "deployments/olla-gateway", PART),
    ("", "services/olla", PART_OF_SERVICES),
    ("policy", "poddisruptionbudgets/olla-gateway", PART),
    ("autoscaling", "horizontalpodautoscalers/olla-gateway", PART),
    ("", "serviceaccounts", &["create"]),
    ("networking.k8s.io", "networkpolicies", &["create"]),
    ("apps", "deployments", &["create"]),
    ("", "services", &["create"]),
    ("policy", "poddisruptionbudgets", &["create"]),
    ("autoscaling", "horizontalpodautoscalers", &["create"]),
    ("olla.dev", "ollagateways/status", &["patch"]),
    // Their owner.
    (
        "rbac.authorization.k8s.io",
        "clusterroles/olla-operator",
        &["list", "watch"],
    ),
    // tokens.rs
    ("authentication.k8s.io", "tokenreviews", &["create"]),
];

/// In the operator's own namespace. `create` cannot be confined to a name.
pub const OWN_NAMESPACE: &[Rule] = &[
    // tls/store.rs
    ("", "secrets", &["create"]),
    ("", "secrets/olla-operator-tls", &["get", "update"]),
    // election.rs
    ("coordination.k8s.io", "leases", &["create"]),
    (
        "coordination.k8s.io",
        "leases/olla-operator",
        &["get", "update"],
    ),
    // leader.rs: the label of the pod that leads.
    ("", "pods", &["patch"]),
];

const PART: &[&str] = &["list", "watch", "patch", "delete"];
/// All of them are listed and watched anyway.
const PART_OF_SERVICES: &[&str] = &["patch", "delete"];

pub type Rule = (&'static str, &'static str, &'static [&'static str]);
