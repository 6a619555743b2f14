//! Pods from text, and what becomes of them as text.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::collections::BTreeMap;

use injection::{Decision, LABEL, Settings};
use serde_json::Value;

pub(crate) fn settings() -> Settings {
    Settings {
        image: Some("registry.example.com/olla-dataplane:1".to_owned()),
        operator_url: "https://olla-operator.olla-system.svc:9443".to_owned(),
        ca_config_map: "olla-operator-ca".to_owned(),
        native_sidecars: true,
        assigns_users: false,
        defaults: injection::Defaults::default(),
    }
}

pub(crate) fn pod(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// In a namespace that says nothing.
pub(crate) fn decide(text: &str) -> Decision {
    decide_in(text, "", &settings())
}

pub(crate) fn decide_in(text: &str, namespace: &str, settings: &Settings) -> Decision {
    let mut labels = BTreeMap::new();
    if !namespace.is_empty() {
        labels.insert(LABEL.to_owned(), namespace.to_owned());
    }
    injection::decide(&pod(text), &labels, settings)
}

pub(crate) fn patched(pod: &Value, decision: &Decision) -> Value {
    let mut pod = pod.clone();
    if let Decision::Inject { patch, .. } = decision {
        json_patch::patch(&mut pod, &patch.0).unwrap();
    }
    pod
}

/// A line for each addition; the sidecar and its volumes by name alone.
pub(crate) fn told(decision: &Decision) -> String {
    let Decision::Inject { patch, warnings } = decision else {
        return match decision {
            Decision::Refuse(obstacle) => obstacle.to_string(),
            _ => "left alone".to_owned(),
        };
    };
    let operations = patch.0.iter().map(|operation| {
        let operation = serde_json::to_value(operation).unwrap();
        let value = &operation["value"];
        let name = &value["name"];
        let short = match operation["path"].as_str().unwrap() {
            path if path.starts_with("/spec/volumes")
                || path.starts_with("/spec/initContainers") =>
            {
                if name.is_string() && value["value"].is_null() {
                    name.clone()
                } else {
                    names(value)
                }
            }
            _ => value.clone(),
        };
        format!("{} {}", operation["path"].as_str().unwrap(), short)
    });
    let warnings = warnings.iter().map(|warning| format!("warning: {warning}"));
    operations.chain(warnings).collect::<Vec<_>>().join("\n")
}

fn names(value: &Value) -> Value {
    match value.as_array() {
        Some(list) => list.iter().map(names).collect(),
        None if value["value"].is_null() => value["name"].clone(),
        None => value.clone(),
    }
}
