//! What the operator's binary says when it is asked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::process::{Command, Output};

fn operator(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olla-operator"));
    command.args(args).env_clear().output().unwrap()
}

#[test]
fn version_names_the_binary_and_its_version() {
    let done = operator(&["version"]);
    assert!(done.status.success());
    let expected = format!("olla-operator {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(done.stdout).unwrap(), expected);
}

#[test]
fn without_a_cluster_it_says_what_it_looked_for() {
    let done = operator(&["run"]);
    assert!(!done.status.success());
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(told.contains("KUBECONFIG"), "{told}");
}
