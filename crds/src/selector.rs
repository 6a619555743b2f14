//! Selecting by labels, as Kubernetes does.

#![allow(
    unreachable_pub,
    reason = "what KubeSchema derives repeats the structs inside functions"
)]

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A label selector as in other Kubernetes objects: all of its requirements must hold. An empty
/// one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that an object must have with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub match_labels: Labels,
    /// Further requirements on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)")
    .message("matchExpressions: In and NotIn need values; Exists and DoesNotExist must have none"))]
pub struct Requirement {
    /// Key of the label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// `In` and `NotIn` compare the label's value with `values`; an object without the label
    /// satisfies `NotIn`. `Exists` and `DoesNotExist` ask for the label alone.
    pub operator: Operator,
    /// Values for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)))]
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        let mut equal = self.match_labels.iter();
        equal.all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|it| it.holds(labels))
    }

    /// Place in `match_expressions` of one whose `values` do not fit its `operator`.
    pub fn malformed(&self) -> Option<usize> {
        let mut all = self.match_expressions.iter();
        all.position(|it| {
            let compares = matches!(it.operator, Operator::In | Operator::NotIn);
            compares == it.values.is_empty()
        })
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
    use kube::core::SelectorExt as _;

    use super::*;

    fn read(yaml: &str) -> LabelSelector {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn it_selects_what_the_same_selector_selects_elsewhere_in_kubernetes() {
        let labelled = |text: &str| -> Labels {
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            pairs.map(|(k, v)| (k.into(), v.into())).collect()
        };
        for selector in [
            "{}",
            "{matchLabels: {a: '1'}}",
            "{matchLabels: {a: '1', b: '2'}}",
            "{matchExpressions: [{key: a, operator: In, values: ['1', '2']}]}",
            "{matchExpressions: [{key: a, operator: NotIn, values: ['1']}]}",
            "{matchExpressions: [{key: a, operator: Exists}]}",
            "{matchExpressions: [{key: a, operator: DoesNotExist}]}",
            "{matchLabels: {b: '2'}, matchExpressions: [{key: a, operator: Exists}, \
             {key: a, operator: NotIn, values: ['2']}]}",
        ] {
            let ours = read(selector);
            assert_eq!(ours.malformed(), None);
            let theirs: meta::LabelSelector =
                serde_json::from_value(serde_json::to_value(&ours).unwrap()).unwrap();
            let theirs = kube::core::Selector::try_from(theirs).unwrap();
            for labels in ["", "a=1", "a=2", "a=1,b=2", "b=2", "a=3,b=2", "a="] {
                let labels = labelled(labels);
                assert_eq!(
                    ours.matches(&labels),
                    theirs.matches(&labels),
                    "{selector} on {labels:?}"
                );
            }
        }
    }

    #[test]
    fn values_that_do_not_fit_their_operator_are_found() {
        for bad in [
            "{key: a, operator: In}",
            "{key: a, operator: NotIn, values: []}",
            "{key: a, operator: Exists, values: ['1']}",
            "{key: a, operator: DoesNotExist, values: ['1']}",
        ] {
            let selector = read(&format!(
                "{{matchExpressions: [{{key: b, operator: Exists}}, {bad}]}}"
            ));
            assert_eq!(selector.malformed(), Some(1), "{bad}");
        }
    }
}
