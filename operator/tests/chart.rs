//! The chart agrees with the code: CRDs, permissions, ports, and every value has an effect.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use operator::{config::Config, injection, rbac};
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn chart(path: &str) -> String {
    fs::read_to_string(root().join("charts/olla").join(path)).unwrap()
}

/// The documents of a template whose templated lines are only names and labels.
fn documents(path: &str) -> Vec<Value> {
    chart(path)
        .split("\n---\n")
        .map(|text| {
            let plain: Vec<&str> = text.lines().filter(|line| !line.contains("{{")).collect();
            serde_saphyr::from_str(&plain.join("\n")).unwrap()
        })
        .collect()
}

fn words(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// `group resource verb`, the resource with its name if it is confined to one.
fn granted(kind: &str) -> BTreeSet<String> {
    let roles = documents("templates/rbac.yaml");
    let role = roles.iter().find(|role| role["kind"] == kind).unwrap();
    let mut all = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let names = words(&rule["resourceNames"]);
        let resources = words(&rule["resources"]).into_iter().flat_map(|resource| {
            let named = names.iter().map(|name| format!("{resource}/{name}"));
            let mut named: Vec<String> = named.collect();
            if named.is_empty() {
                named.push(resource);
            }
            named
        });
        for resource in resources {
            for group in words(&rule["apiGroups"]) {
                for verb in words(&rule["verbs"]) {
                    all.insert(format!("{group} {resource} {verb}"));
                }
            }
        }
    }
    all
}

fn needed(rules: &[rbac::Rule]) -> BTreeSet<String> {
    let each = rules.iter().flat_map(|(group, resource, verbs)| {
        verbs
            .iter()
            .map(move |verb| format!("{group} {resource} {verb}"))
    });
    each.collect()
}

/// `a.b` for each value that is no map, or an empty one.
fn leaves(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    // What Kubernetes defines is passed on whole.
    let whole = ["resources", "gateways.defaults"].contains(&path);
    match value.as_object() {
        Some(map) if !map.is_empty() && !whole => {
            for (key, value) in map {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(value, &format!("{path}{dot}{key}"), into);
            }
        }
        _ => {
            into.insert(path.to_owned());
        }
    }
}

#[test]
fn the_crds_in_the_chart_are_the_generated_ones() {
    let names = |folder: PathBuf| -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    };
    let generated = root().join("crds/generated");
    let copies = root().join("charts/olla/files/crds");
    assert_eq!(names(generated.clone()), names(copies.clone()));
    for name in names(generated.clone()) {
        let same =
            fs::read(generated.join(&name)).unwrap() == fs::read(copies.join(&name)).unwrap();
        assert!(same, "copy crds/generated/{name} to charts/olla/files/crds");
    }
}

#[test]
fn the_operator_may_do_what_it_does_and_nothing_else() {
    assert_eq!(granted("ClusterRole"), needed(rbac::CLUSTER));
    assert_eq!(granted("Role"), needed(rbac::OWN_NAMESPACE));
}

#[test]
fn every_value_is_used_and_every_value_used_is_documented() {
    let values: Value = serde_saphyr::from_str(&chart("values.yaml")).unwrap();
    let mut documented = BTreeSet::new();
    leaves(&values, "", &mut documented);
    let folder = root().join("charts/olla/templates");
    let mut used = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for part in text.split(".Values.").skip(1) {
            let end = part.find(|c: char| !c.is_alphanumeric() && c != '.');
            used.insert(part[..end.unwrap_or(part.len())].to_owned());
        }
    }
    assert_eq!(documented, used);
}

#[test]
fn the_schema_knows_exactly_the_values() {
    let values: Value = serde_saphyr::from_str(&chart("values.yaml")).unwrap();
    let schema: Value = serde_json::from_str(&chart("values.schema.json")).unwrap();
    let keys = |value: &Value| -> BTreeSet<String> {
        let map = value.as_object().unwrap();
        map.keys().filter(|key| *key != "global").cloned().collect()
    };
    assert_eq!(keys(&values), keys(&schema["properties"]));
    for part in ["image", "crds", "dataPlane", "injection", "tls"] {
        let known = &schema["properties"][part]["properties"];
        assert_eq!(keys(&values[part]), keys(known), "{part}");
    }
}

#[test]
fn the_chart_s_ports_are_the_operator_s_defaults() {
    let config = Config::default();
    let deployment = chart("templates/deployment.yaml");
    for port in [
        config.listen.port(),
        config.webhook.port(),
        config.admin.port(),
    ] {
        assert!(deployment.contains(&format!("containerPort: {port}\n")));
    }
    let service = &documents("templates/service.yaml")[0];
    assert_eq!(service["spec"]["ports"][0]["port"], config.listen.port());
    assert_eq!(service["metadata"]["name"], operator::MANAGER);
}

#[test]
fn the_webhooks_lead_to_the_operator_and_their_object_is_the_one_it_keeps() {
    let object = &documents("templates/webhook.yaml")[0];
    assert_eq!(object["metadata"]["name"], injection::WEBHOOKS);
    let webhooks = object["webhooks"].as_array().unwrap();
    let paths = [injection::POD_PATH, injection::NAMESPACE_PATH];
    assert_eq!(webhooks.len(), paths.len());
    for (webhook, path) in webhooks.iter().zip(paths) {
        let service = &webhook["clientConfig"]["service"];
        assert_eq!(service["name"], operator::WEBHOOK_SERVICE);
        assert_eq!(service["path"], path);
        assert_eq!(service["port"], Config::default().webhook.port());
        assert_eq!(webhook["failurePolicy"], "Ignore");
        assert_eq!(webhook["timeoutSeconds"], 5);
        let label = &webhook["objectSelector"]["matchExpressions"][0];
        assert_eq!(label["key"], ::injection::LABEL);
    }
    let service = &documents("templates/webhook.yaml")[1];
    assert_eq!(service["metadata"]["name"], operator::WEBHOOK_SERVICE);
    let port = &service["spec"]["ports"][0]["port"];
    assert_eq!(*port, Config::default().webhook.port());
}

#[test]
fn chart_and_operator_are_of_one_release() {
    let meta: Value = serde_saphyr::from_str(&chart("Chart.yaml")).unwrap();
    assert_eq!(meta["appVersion"], env!("CARGO_PKG_VERSION"));
}
