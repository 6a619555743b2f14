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
    // tokens.rs
    ("authentication.k8s.io", "tokenreviews", &["create"]),
];

/// In the operator's own namespace: `tls/store.rs`. `create` cannot be confined to a name.
pub const OWN_NAMESPACE: &[Rule] = &[
    ("", "secrets", &["create"]),
    ("", "secrets/olla-operator-tls", &["get", "update"]),
];

pub type Rule = (&'static str, &'static str, &'static [&'static str]);
