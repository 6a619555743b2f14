//! Real clients and LiteLLM, which are Python. In: a script of `e2e/python` and its arguments.
//! Out: the JSON line it printed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Runs a script to its end; on failure the error is what it complained about.
pub fn run_python(script: &str, args: &[&str]) -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("python")
        .join(script);
    let output = Command::new(python()?)
        .arg(path)
        .args(args)
        // Only `base_url` says where to go, whatever the tests' own environment holds.
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .env_remove("ALL_PROXY")
        .output()
        .with_context(|| format!("start {script}"))?;
    ensure!(
        output.status.success(),
        "{script}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).with_context(|| format!("{script} printed {text}"))
}

/// The interpreter that `e2e/setup` prepared.
pub(crate) fn python() -> Result<PathBuf> {
    std::env::var_os("OLLA_E2E_PYTHON")
        .map(PathBuf::from)
        .context("OLLA_E2E_PYTHON is not set: run the cluster tests by ./e2e/test cluster")
}
