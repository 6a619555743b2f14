//! What an administrator has set for all gateways, and what of it an `OllaGateway` changes. Pure.

use std::time::Duration;

use crds::{
    OllaGatewaySpec,
    gateway::{AccessFrom, AccessSpec, PodSettings, ServiceSettings, ServiceType},
};
use k8s_openapi::api::core::v1::LocalObjectReference;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How the operator runs gateways.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of the data plane.
    pub image: String,
    /// URL of the operator's port for data planes.
    pub operator_url: String,
    pub defaults: Defaults,
    /// Name of the ClusterRole that owns all that is made: it is of the operator's release and in no
    /// namespace, so that gateways go with the release. Nothing is written while there is none.
    pub owner: Option<String>,
    /// From a namespace's last route to the end of its gateway.
    pub removal_delay: Duration,
}

/// What `--gateway-defaults` says, JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Defaults {
    /// For what an OllaGateway leaves out.
    #[serde(default)]
    pub spec: OllaGatewaySpec,
    /// Whether an OllaGateway may name an image.
    #[serde(default)]
    pub allow_image: bool,
    #[serde(default)]
    pub image_pull_policy: Option<String>,
    /// In the namespaces of the gateways.
    #[serde(default)]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Namespaces whose pods may read the metrics and admin pages of gateways, by labels.
    #[serde(default)]
    pub metrics_from: Option<crds::LabelSelector>,
}

impl Defaults {
    /// From JSON. What the API server would refuse in an OllaGateway is refused here.
    pub fn parse(text: &str) -> Result<Self, String> {
        let given: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let defaults: Self =
            serde_json::from_value(given.clone()).map_err(|error| error.to_string())?;
        let known = serde_json::to_value(&defaults).map_err(|error| error.to_string())?;
        if let Some(field) = unknown(&given, &known, "") {
            return Err(format!("{field}: there is no such field"));
        }
        let spec = &defaults.spec;
        if spec.replicas.is_some() && spec.autoscaling.is_some() {
            return Err("spec: set replicas or autoscaling, not both".to_owned());
        }
        if let Some(access) = &spec.access
            && (access.from == AccessFrom::Namespaces) != access.namespaces.is_some()
        {
            let message = "set namespaces with from: Namespaces, and only then";
            return Err(format!("spec.access: {message}"));
        }
        Ok(defaults)
    }
}

/// The first field of `given` that is lost in `known`, what it was read as.
fn unknown(given: &Value, known: &Value, path: &str) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{key}");
            match known.get(key) {
                Some(known) => unknown(value, known, &path),
                None => (!is_absent(value)).then_some(path),
            }
        }),
        (Value::Array(given), Value::Array(known)) => {
            let mut pairs = given.iter().zip(known).enumerate();
            pairs.find_map(|(at, (given, known))| unknown(given, known, &format!("{path}[{at}]")))
        }
        _ => None,
    }
}

/// Nothing, which Kubernetes leaves out.
pub(super) fn is_absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// The settings of one namespace's gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    pub spec: OllaGatewaySpec,
    pub image: String,
}

/// Why an OllaGateway cannot be followed: field and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub field: &'static str,
    pub message: String,
}

impl Settings {
    /// `own`: the namespace's OllaGateway, if it has one.
    pub fn effective(&self, own: Option<&OllaGatewaySpec>) -> Result<Effective, Refusal> {
        let base = &self.defaults.spec;
        let empty = OllaGatewaySpec::default();
        let own = own.unwrap_or(&empty);
        let image = match &own.image {
            Some(_) if !self.defaults.allow_image => {
                return Err(Refusal {
                    field: "spec.image",
                    message: "the operator does not allow gateways to choose an image; remove the field, or install the chart with gateways.allowImage=true".to_owned(),
                });
            }
            Some(image) => image.clone(),
            None => base.image.clone().unwrap_or_else(|| self.image.clone()),
        };
        // One of these two: whoever sets one does not want the other.
        let (replicas, autoscaling) = if own.replicas.is_some() || own.autoscaling.is_some() {
            (own.replicas, own.autoscaling.clone())
        } else {
            (base.replicas, base.autoscaling.clone())
        };
        let spec = OllaGatewaySpec {
            enabled: own.enabled.or(base.enabled),
            replicas,
            autoscaling,
            resources: own.resources.clone().or_else(|| base.resources.clone()),
            service: Some(service(own.service.as_ref(), base.service.as_ref())),
            tls: own.tls.clone().or_else(|| base.tls.clone()),
            pod: Some(pod(own.pod.as_ref(), base.pod.as_ref())),
            image: None,
            drain_seconds: own.drain_seconds.or(base.drain_seconds),
            access: Some(access(own.access.as_ref(), base.access.as_ref())),
        };
        Ok(Effective { spec, image })
    }
}

fn service(own: Option<&ServiceSettings>, base: Option<&ServiceSettings>) -> ServiceSettings {
    let empty = ServiceSettings::default();
    let (own, base) = (own.unwrap_or(&empty), base.unwrap_or(&empty));
    let mut annotations = base.annotations.clone();
    annotations.extend(own.annotations.clone());
    let type_ = own.type_.or(base.type_);
    let class = own.load_balancer_class.as_ref();
    let class = class.or(base.load_balancer_class.as_ref());
    ServiceSettings {
        type_,
        annotations,
        // Refused for other types.
        load_balancer_class: class
            .filter(|_| type_ == Some(ServiceType::LoadBalancer))
            .cloned(),
    }
}

fn pod(own: Option<&PodSettings>, base: Option<&PodSettings>) -> PodSettings {
    let empty = PodSettings::default();
    let (own, base) = (own.unwrap_or(&empty), base.unwrap_or(&empty));
    let (mut labels, mut annotations) = (base.labels.clone(), base.annotations.clone());
    labels.extend(own.labels.clone());
    annotations.extend(own.annotations.clone());
    let node_selector = [&own.node_selector, &base.node_selector];
    let tolerations = [&own.tolerations, &base.tolerations];
    PodSettings {
        labels,
        annotations,
        node_selector: node_selector
            .into_iter()
            .find(|map| !map.is_empty())
            .cloned()
            .unwrap_or_default(),
        tolerations: tolerations
            .into_iter()
            .find(|list| !list.is_empty())
            .cloned()
            .unwrap_or_default(),
        affinity: own.affinity.clone().or_else(|| base.affinity.clone()),
        priority_class_name: (own.priority_class_name.clone())
            .or_else(|| base.priority_class_name.clone()),
    }
}

fn access(own: Option<&AccessSpec>, base: Option<&AccessSpec>) -> AccessSpec {
    own.or(base).cloned().unwrap_or(AccessSpec {
        from: AccessFrom::SameNamespace,
        namespaces: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_refused_where_an_olla_gateway_would_be() {
        let good = r#"{"spec": {"replicas": 3, "pod": {"tolerations": [], "labels": {"a": "b"}},
            "resources": {"requests": {"cpu": "1"}}}, "metricsFrom": {"matchLabels": {"a": "b"}}}"#;
        assert_eq!(Defaults::parse(good).unwrap().spec.replicas, Some(3));
        for (bad, word) in [
            (r#"{"spec": {"replica": 3}}"#, "spec.replica: "),
            (
                r#"{"spec": {"service": {"typ": "NodePort"}}}"#,
                "spec.service.typ: ",
            ),
            (r#"{"specs": {}}"#, "specs"),
            (
                r#"{"spec": {"access": {"from": "Namespaces"}}}"#,
                "spec.access: ",
            ),
            (
                r#"{"spec": {"replicas": 1, "autoscaling": {"maxReplicas": 3}}}"#,
                "not both",
            ),
        ] {
            let refused = Defaults::parse(bad).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
    }
}
