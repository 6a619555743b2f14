//! What the API server is told to write down.

use std::path::Path;

use anyhow::{Context, Result};

use crate::names::SYSTEM;

/// When a watch begins is written, too: it may never end.
pub(crate) fn write(path: &Path) -> Result<()> {
    let policy = serde_json::json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {
                "level": "Metadata",
                "users": [format!("system:serviceaccount:{SYSTEM}:olla-operator")],
            },
            {"level": "None"},
        ],
    });
    std::fs::write(path, policy.to_string()).with_context(|| format!("write {}", path.display()))
}
