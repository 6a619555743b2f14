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
