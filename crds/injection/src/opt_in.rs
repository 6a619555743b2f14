//! Who asks for a sidecar: a label on the pod, or else on its namespace.

use std::collections::BTreeMap;

use serde_json::Value;

/// `"true"` on a pod or namespace asks for a sidecar, `"false"` on a pod declines it. The pod's
/// wins; other values say nothing.
pub const LABEL: &str = "olla.dev/inject";

pub(crate) fn asks(pod: &Value, namespace_labels: &BTreeMap<String, String>) -> bool {
    let own = pod["metadata"]["labels"][LABEL].as_str();
    let of_namespace = namespace_labels.get(LABEL).map(String::as_str);
    own.and_then(read)
        .or_else(|| of_namespace.and_then(read))
        .unwrap_or(false)
}

fn read(value: &str) -> Option<bool> {
    match value {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}
