//! What was asked of the API server, as its audit log has it: the operator's requests only, all
//! others are not written down.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::names::AUDIT_LOG;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub verb: String,
    pub group: String,
    /// With its subresource: `llmendpoints/status`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub code: u64,
}

impl Cluster {
    /// All that the operator has asked for in this run.
    pub fn asked_by_the_operator(&self) -> Result<Vec<Asked>> {
        let path = self.scratch.join(AUDIT_LOG);
        let text = std::fs::read_to_string(&path);
        let text = text.with_context(|| format!("read {}", path.display()))?;
        // The last line may be half written.
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole.map(asked).collect()
    }
}

fn asked(line: &str) -> Result<Asked> {
    let event: Value = serde_json::from_str(line).with_context(|| format!("audit: {line}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    let resource = match object["subresource"].as_str() {
        Some(part) => format!("{}/{part}", text(&object["resource"])),
        None => text(&object["resource"]),
    };
    Ok(Asked {
        verb: text(&event["verb"]),
        group: text(&object["apiGroup"]),
        resource,
        namespace: text(&object["namespace"]),
        name: text(&object["name"]),
        code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_verb_object_and_answer() -> Result<()> {
        let line = r#"{"verb":"patch","objectRef":{"resource":"llmendpoints","namespace":"n",
            "name":"a","apiGroup":"olla.dev","subresource":"status"},"responseStatus":{"code":200}}"#;
        let wanted = Asked {
            verb: "patch".to_owned(),
            group: "olla.dev".to_owned(),
            resource: "llmendpoints/status".to_owned(),
            namespace: "n".to_owned(),
            name: "a".to_owned(),
            code: 200,
        };
        assert_eq!(asked(line)?, wanted);
        Ok(())
    }
}
