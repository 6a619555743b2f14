//! The committed CRDs are those of the types.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("generated")
}

fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}.yaml", crd.metadata.name.as_deref().unwrap())
}

#[test]
fn generated_files_equal_the_types() {
    for crd in crds::all() {
        let name = file_name(&crd);
        let committed = fs::read_to_string(folder().join(&name)).unwrap_or_default();
        let made = crds::to_yaml(&crd).unwrap();
        let differs = committed
            .lines()
            .zip(made.lines())
            .position(|(a, b)| a != b);
        assert!(
            committed == made,
            "crds/generated/{name} differs from the types (first at line {}): run `just crds`",
            differs.map_or_else(|| "the end".to_owned(), |at| (at + 1).to_string())
        );
    }
}

#[test]
fn no_file_of_a_kind_that_is_gone_is_left() {
    let made: BTreeSet<_> = crds::all().iter().map(file_name).collect();
    let committed: BTreeSet<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        committed, made,
        "crds/generated: run `just crds` and delete what is left over"
    );
}

#[test]
fn the_schema_says_nothing_that_kubernetes_does_not_know() {
    for crd in crds::all() {
        let yaml = crds::to_yaml(&crd).unwrap();
        for noise in ["nullable:", "- null", "format: uint"] {
            assert!(!yaml.contains(noise), "{}: {noise}", file_name(&crd));
        }
    }
}

#[test]
fn no_field_or_value_is_a_boolean_to_kubectl() {
    const BOOLEANS: [&str; 6] = ["on", "off", "yes", "no", "y", "n"];
    fn look(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
        let is_boolean = |text: &str| BOOLEANS.contains(&text.to_ascii_lowercase().as_str());
        match value {
            serde_json::Value::Object(members) => {
                for (name, member) in members {
                    if is_boolean(name) {
                        found.push(format!("{at}.{name}"));
                    }
                    look(member, &format!("{at}.{name}"), found);
                }
            }
            serde_json::Value::Array(list) => {
                for member in list {
                    look(member, at, found);
                }
            }
            serde_json::Value::String(text) if is_boolean(text) => found.push(at.to_owned()),
            _ => {}
        }
    }
    for crd in crds::all() {
        let mut found = Vec::new();
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        look(&schema, "", &mut found);
        assert!(
            found.is_empty(),
            "kubectl reads these as true or false unless quoted: {found:?}"
        );
    }
}
