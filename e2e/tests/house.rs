//! The walls of the house: who may import whom, what the lower floors may not touch, and what lies
//! on the top shelf of the repository, and whether its map is true. In: `cargo metadata`, folder
//! listings and the README.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Our packages, lowest floor first, with what each may import of ours.
const HOUSE: [(&str, &[&str]); 12] = [
    ("crds", &[]),
    ("dataplane-protocol", &[]),
    ("http1", &[]),
    ("serving", &[]),
    ("compile", &["crds", "dataplane-protocol"]),
    ("injection", &["crds", "dataplane-protocol"]),
    ("manifest", &["compile", "crds", "dataplane-protocol"]),
    ("dataplane-core", &["dataplane-protocol"]),
    ("dialect", &["dataplane-protocol"]),
    (
        "dataplane",
        &[
            "compile",
            "dataplane-core",
            "dataplane-protocol",
            "http1",
            "manifest",
            "serving",
            "dialect",
        ],
    ),
    (
        "operator",
        &[
            "compile",
            "crds",
            "dataplane-protocol",
            "injection",
            "serving",
        ],
    ),
    (
        "e2e",
        &[
            "compile",
            "crds",
            "dataplane",
            "dataplane-core",
            "dataplane-protocol",
            "http1",
            "injection",
            "manifest",
            "operator",
            "serving",
            "dialect",
        ],
    ),
];

/// Floors 1 and 2: values in, values out.
const PURE: [&str; 8] = [
    "crds",
    "dataplane-protocol",
    "compile",
    "injection",
    "dataplane-core",
    "http1",
    "manifest",
    "dialect",
];

/// Each would bring I/O, tasks, clocks or chance into a pure package.
const IMPURE: [&str; 7] = [
    "fastrand",
    "hyper",
    "hyper-util",
    "kube-client",
    "kube-runtime",
    "rand",
    "tokio",
];

const TOP_SHELF: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "charts",
    "crds",
    "dataplane",
    "deploy",
    "e2e",
    "operator",
    "rust-toolchain.toml",
];

/// One line of some package's `[dependencies]`, `[build-…]` or `[dev-dependencies]`.
struct Dependency {
    name: String,
    /// In this workspace, not from a registry.
    ours: bool,
    dev: bool,
    features: BTreeSet<String>,
    default_features: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("e2e lies in the repository")
}

fn packages() -> BTreeMap<String, Vec<Dependency>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            (
                text(&package["name"]),
                dependencies.iter().map(dependency).collect(),
            )
        })
        .collect()
}

fn dependency(line: &Value) -> Dependency {
    let features = line["features"].as_array().expect("features");
    Dependency {
        name: text(&line["name"]),
        ours: !line["path"].is_null(),
        dev: line["kind"] == "dev",
        features: features.iter().map(text).collect(),
        default_features: line["uses_default_features"] == true,
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

#[test]
fn every_package_has_its_floor() {
    let known: BTreeSet<&str> = HOUSE.iter().map(|(name, _)| *name).collect();
    let packages = packages();
    let found: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    assert_eq!(found, known);
}

#[test]
fn packages_import_only_what_lies_below_them() {
    let packages = packages();
    for (name, allowed) in HOUSE {
        for dependency in packages[name].iter().filter(|line| line.ours && !line.dev) {
            assert!(
                allowed.contains(&dependency.name.as_str()),
                "{name} must not import {}; it may import {allowed:?}",
                dependency.name
            );
        }
    }
}

/// Tests help production, never the reverse: a package's own tests see no more than the package.
#[test]
fn tests_of_a_package_import_no_more_than_the_package_may() {
    let packages = packages();
    for (name, allowed) in HOUSE {
        for dependency in packages[name].iter().filter(|line| line.ours && line.dev) {
            assert!(
                allowed.contains(&dependency.name.as_str()) || dependency.name == name,
                "the tests of {name} must not import {}: such a test belongs into e2e",
                dependency.name
            );
        }
    }
}

#[test]
fn the_lower_floors_touch_no_socket_task_or_chance() {
    let packages = packages();
    for name in PURE {
        for dependency in packages[name].iter().filter(|line| !line.dev) {
            assert!(
                !IMPURE.contains(&dependency.name.as_str()),
                "{name} is pure and must not depend on {}",
                dependency.name
            );
        }
    }
}

/// kube's types and derive macros are how kinds are written down; its client is a shell's business.
#[test]
fn the_lower_floors_know_kube_only_as_types() {
    let packages = packages();
    for name in PURE {
        for kube in packages[name].iter().filter(|line| line.name == "kube") {
            assert!(
                ["crds", "compile"].contains(&name),
                "{name} must not know Kubernetes"
            );
            let shell = ["client", "runtime"]
                .iter()
                .any(|feature| kube.features.contains(*feature));
            assert!(
                !shell && !kube.default_features,
                "{name} may have kube without its client and runtime, not with {:?}",
                kube.features
            );
        }
    }
}

#[test]
fn the_top_of_the_repository_stays_as_it_is() {
    let entries = std::fs::read_dir(root()).expect("the repository can be listed");
    for entry in entries {
        let name = entry.expect("an entry").file_name();
        let name = name.to_string_lossy();
        assert!(
            name.starts_with('.') || name == "target" || TOP_SHELF.contains(&&*name),
            "{name} does not belong at the top of the repository"
        );
    }
}

/// All files below `folder`, as paths from the root of the repository.
fn files(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be listed") {
        let path = entry.expect("an entry").path();
        let inner = path.strip_prefix(root()).expect("below the root");
        let name = inner.to_string_lossy().into_owned();
        match path.is_dir() {
            true if name == "target" || name == ".git" => {}
            true => files(&path, found),
            false => found.push(name),
        }
    }
}

/// The walks name files by the end of their path: `index.rs`, `proxy/mod.rs`.
#[test]
fn every_file_and_folder_that_the_readme_names_is_there() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    let mut all = Vec::new();
    files(root(), &mut all);
    let words: Vec<&str> = readme.split('`').skip(1).step_by(2).collect();
    let named: Vec<&&str> = words
        .iter()
        .filter(|it| it.split('.').next_back() == Some("rs"))
        .collect();
    assert!(named.len() > 15, "the walks are in the README: {named:?}");
    for name in named {
        let ends = |path: &String| path == *name || path.ends_with(&format!("/{name}"));
        assert!(all.iter().any(ends), "there is no {name}");
    }
    let links = readme
        .split("](")
        .skip(1)
        .filter_map(|it| it.split(')').next());
    for link in links.filter(|link| !link.contains("://")) {
        assert!(root().join(link).exists(), "there is no {link}");
    }
}
