//! Who asks for a sidecar: a label on the pod, or else on its namespace.

use std::collections::BTreeMap;

use serde_json::Value;

/// `"true"` on a pod or namespace asks for a sidecar, `"false"` on a pod declines it. The pod's
/// wins; other values say nothing.
pub const LABEL: &str = "olla.dev/inject";

pub(crate) fn asks(pod: &Value, namespace_labels: &BTreeMap<String, String>) -> bool {
    let of_namespace = namespace_labels.get(LABEL).map(String::as_str);
    own(pod)
        .or_else(|| of_namespace.and_then(read))
        .unwrap_or(false)
}

/// Not only by its namespace.
pub(crate) fn itself_asks(pod: &Value) -> bool {
    own(pod) == Some(true)
}

fn own(pod: &Value) -> Option<bool> {
    let label = pod["metadata"]["labels"][LABEL].as_str();
    label.and_then(read)
}

fn read(value: &str) -> Option<bool> {
    match value {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}
