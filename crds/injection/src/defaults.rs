//! What a cluster's owner says about all sidecars.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::quantity::Quantity;

/// For what a pod's annotations leave open.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Defaults {
    pub(crate) resources: Resources,
    pub(crate) image_pull_policy: Option<PullPolicy>,
    /// In the pods' namespaces.
    pub(crate) image_pull_secrets: Vec<Reference>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Resources {
    pub(crate) requests: Amounts,
    pub(crate) limits: Amounts,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Amounts {
    pub(crate) cpu: Option<Amount>,
    pub(crate) memory: Option<Amount>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct Amount(pub(crate) Quantity);

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reference {
    pub(crate) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl Defaults {
    /// From JSON: `resources` (`requests` and `limits` of `cpu` and `memory`), `imagePullPolicy`,
    /// `imagePullSecrets`.
    ///
    /// # Errors
    /// What is wrong with it: no JSON, an unknown field, an amount that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        // A list would be taken for the fields in their order.
        let map: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        serde_json::from_value(map.into()).map_err(|error| error.to_string())
    }
}

impl PullPolicy {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl TryFrom<Value> for Amount {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let text = match &value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let quantity = Quantity::parse(&text);
        quantity
            .map(Self)
            .ok_or_else(|| format!("{value} is not a quantity"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_default_is_refused_and_says_why() {
        for (text, why) in [
            ("[]", "invalid"),
            (r#"{"resource": {}}"#, "unknown field `resource`"),
            (
                r#"{"resources": {"requests": {"gpu": 1}}}"#,
                "unknown field `gpu`",
            ),
            (
                r#"{"resources": {"limits": {"cpu": "fast"}}}"#,
                "\"fast\" is not a quantity",
            ),
            (r#"{"imagePullPolicy": "Sometimes"}"#, "unknown variant"),
        ] {
            let told = Defaults::parse(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
        let numbers = Defaults::parse(r#"{"resources": {"limits": {"cpu": 1}}}"#).unwrap();
        assert!(numbers.resources.limits.cpu.is_some());
        assert_eq!(Defaults::parse("{}").unwrap(), Defaults::default());
    }
}
