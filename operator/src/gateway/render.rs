//! The objects that a gateway is made of. In: its settings. Out: each as it is to be applied. Pure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crds::gateway::{AccessFrom, AccessSpec, AutoscalingSpec, PodSettings};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Map, Value, json};

use super::settings::{Effective, Settings, is_absent};
use crate::{CA_CONFIG_MAP, MANAGER};
use dataplane_protocol::sync::AUDIENCE;

/// Name of all objects of a gateway but its Service.
pub const NAME: &str = "olla-gateway";
/// Name of the Service.
pub const SERVICE: &str = "olla";
/// Where clients connect.
pub const PORT: u16 = 40114;
/// Metrics and admin pages.
const ADMIN_PORT: u16 = 40115;
/// Annotation by which an object is known to be as it was last rendered.
pub const HASH: &str = "olla.dev/gateway-hash";

const DRAIN_DELAY_SECONDS: u32 = 3;
const DRAIN_SECONDS: u32 = 300;
const REPLICAS: u32 = 2;

/// A kind of object that a gateway is made of, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKind {
    ServiceAccount,
    NetworkPolicy,
    Deployment,
    Service,
    PodDisruptionBudget,
    HorizontalPodAutoscaler,
}

impl ChildKind {
    pub const ALL: [Self; 6] = [
        Self::ServiceAccount,
        Self::NetworkPolicy,
        Self::Deployment,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::HorizontalPodAutoscaler,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Deployment => "Deployment",
            Self::Service => "Service",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
        }
    }

    /// As in `apiVersion`.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::ServiceAccount | Self::Service => "v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::Deployment => "apps/v1",
            Self::PodDisruptionBudget => "policy/v1",
            Self::HorizontalPodAutoscaler => "autoscaling/v2",
        }
    }

    /// As in URLs.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceaccounts",
            Self::NetworkPolicy => "networkpolicies",
            Self::Deployment => "deployments",
            Self::Service => "services",
            Self::PodDisruptionBudget => "poddisruptionbudgets",
            Self::HorizontalPodAutoscaler => "horizontalpodautoscalers",
        }
    }

    /// What an object of this kind is called in each namespace.
    pub const fn object_name(self) -> &'static str {
        match self {
            Self::Service => SERVICE,
            _ => NAME,
        }
    }
}

/// One object of a gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    pub kind: ChildKind,
    /// Of all that is in `body`; in its annotation [`HASH`], too.
    pub hash: String,
    pub body: Value,
}

/// All objects of a namespace's gateway. `replicas`: with an autoscaler, the number of pods that it
/// has set.
pub fn render(
    namespace: &str,
    effective: &Effective,
    settings: &Settings,
    owner: Option<&OwnerReference>,
    replicas: Option<i64>,
) -> Vec<Child> {
    let mut parts = vec![
        (ChildKind::ServiceAccount, service_account()),
        (
            ChildKind::NetworkPolicy,
            network_policy(effective, settings),
        ),
        (ChildKind::Deployment, deployment(effective, settings)),
        (ChildKind::Service, service(effective)),
        (ChildKind::PodDisruptionBudget, disruption_budget()),
    ];
    if let Some(autoscaling) = &effective.spec.autoscaling {
        let autoscaler = autoscaler(autoscaling);
        parts.push((ChildKind::HorizontalPodAutoscaler, autoscaler));
    }
    let finish = |(kind, body)| {
        let mut child = child(kind, namespace, body, owner);
        // No part of the hash: that it is another number now is nothing to be put right.
        if kind == ChildKind::Deployment
            && let Some(replicas) = replicas
        {
            child.body["spec"]["replicas"] = replicas.into();
        }
        child
    };
    parts.into_iter().map(finish).collect()
}

/// `body`: without what all objects have in common.
fn child(
    kind: ChildKind,
    namespace: &str,
    mut body: Value,
    owner: Option<&OwnerReference>,
) -> Child {
    let mut labels = Map::new();
    labels.insert("app.kubernetes.io/name".into(), NAME.into());
    labels.insert("app.kubernetes.io/part-of".into(), "olla".into());
    labels.insert("app.kubernetes.io/managed-by".into(), MANAGER.into());
    body["apiVersion"] = kind.api_version().into();
    body["kind"] = kind.as_str().into();
    let metadata = &mut body["metadata"];
    metadata["name"] = kind.object_name().into();
    metadata["namespace"] = namespace.into();
    metadata["labels"] = Value::Object(labels);
    if let Some(owner) = owner {
        metadata["ownerReferences"] = json!([owner]);
    }
    // Equal content has an equal text: members of objects are sorted.
    let mut hasher = DefaultHasher::new();
    body.to_string().hash(&mut hasher);
    let hash = format!("{:016x}", hasher.finish());
    body["metadata"]["annotations"][HASH] = hash.clone().into();
    Child { kind, hash, body }
}

fn selector() -> Value {
    json!({ "app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": "olla" })
}

fn service_account() -> Value {
    // Its pods talk to the operator, not to the API server.
    json!({ "metadata": {}, "automountServiceAccountToken": false })
}

fn service(effective: &Effective) -> Value {
    let service = effective.spec.service.clone().unwrap_or_default();
    let type_ = service
        .type_
        .unwrap_or(crds::gateway::ServiceType::ClusterIp);
    let protocol = if effective.spec.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let mut body = json!({
        "metadata": { "annotations": service.annotations },
        "spec": {
            "type": type_.as_str(),
            "selector": selector(),
            "ports": [{
                "name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP",
                "appProtocol": protocol,
            }],
            // Where the server knows it: a pod of the client's zone if there is one.
            "trafficDistribution": "PreferClose",
        },
    });
    if let Some(class) = service.load_balancer_class {
        body["spec"]["loadBalancerClass"] = class.into();
    }
    body
}

fn disruption_budget() -> Value {
    json!({
        "metadata": {},
        "spec": {
            "maxUnavailable": 1,
            "selector": { "matchLabels": selector() },
            // Pods that are not ready keep no node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    })
}

fn network_policy(effective: &Effective, settings: &Settings) -> Value {
    let clients = match effective.spec.access.as_ref() {
        Some(AccessSpec {
            from: AccessFrom::All,
            ..
        }) => None,
        Some(AccessSpec {
            from: AccessFrom::Namespaces,
            namespaces,
        }) => {
            let own = json!({ "podSelector": {} });
            let others = namespaces.as_ref();
            let others = others.map(|it| json!({ "namespaceSelector": it }));
            Some(json!(
                std::iter::once(own).chain(others).collect::<Vec<_>>()
            ))
        }
        Some(AccessSpec {
            from: AccessFrom::SameNamespace,
            ..
        })
        | None => Some(json!([{ "podSelector": {} }])),
    };
    let mut traffic = json!({ "ports": [{ "port": PORT, "protocol": "TCP" }] });
    if let Some(clients) = clients {
        traffic["from"] = clients;
    }
    let mut ingress = vec![traffic];
    if let Some(namespaces) = &settings.defaults.metrics_from {
        ingress.push(json!({
            "ports": [{ "port": ADMIN_PORT, "protocol": "TCP" }],
            "from": [{ "namespaceSelector": namespaces }],
        }));
    }
    json!({
        "metadata": {},
        "spec": {
            "podSelector": { "matchLabels": selector() },
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    })
}

fn autoscaler(autoscaling: &AutoscalingSpec) -> Value {
    let mut metrics = Vec::new();
    if let Some(percent) = autoscaling.target_cpu_percent {
        metrics.push(json!({
            "type": "Resource",
            "resource": {
                "name": "cpu",
                "target": { "type": "Utilization", "averageUtilization": percent },
            },
        }));
    }
    if let Some(requests) = autoscaling.target_in_flight {
        metrics.push(json!({
            "type": "Pods",
            "pods": {
                "metric": { "name": "olla_in_flight_requests" },
                "target": { "type": "AverageValue", "averageValue": requests.to_string() },
            },
        }));
    }
    json!({
        "metadata": {},
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": NAME },
            "minReplicas": autoscaling.min_replicas,
            "maxReplicas": autoscaling.max_replicas,
            "metrics": metrics,
        },
    })
}

fn deployment(effective: &Effective, settings: &Settings) -> Value {
    let spec = &effective.spec;
    let pod = spec.pod.clone().unwrap_or_default();
    let drain = spec.drain_seconds.unwrap_or(DRAIN_SECONDS);
    let mut body = json!({
        "metadata": {},
        "spec": {
            "selector": { "matchLabels": selector() },
            // A new pod serves before an old one goes.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 },
            },
            "template": {
                "metadata": { "labels": labels(&pod), "annotations": pod.annotations },
                "spec": pod_spec(effective, settings, &pod, drain),
            },
        },
    });
    if spec.autoscaling.is_none() {
        body["spec"]["replicas"] = spec.replicas.unwrap_or(REPLICAS).into();
    }
    body
}

fn labels(pod: &PodSettings) -> Value {
    let mut labels = json!(pod.labels);
    if let (Value::Object(labels), Value::Object(ours)) = (&mut labels, selector()) {
        labels.extend(ours);
        // A namespace whose pods get sidecars has gateways without.
        labels.insert("olla.dev/inject".into(), "false".into());
    }
    labels
}

fn pod_spec(effective: &Effective, settings: &Settings, pod: &PodSettings, drain: u32) -> Value {
    let mut spec = json!({
        "serviceAccountName": NAME,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // Longer than the two of the container together.
        "terminationGracePeriodSeconds": DRAIN_DELAY_SECONDS + drain + 5,
        // The image names a user; a cluster that chooses one (OpenShift) may do so.
        "securityContext": {
            "runAsNonRoot": true,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "topologySpreadConstraints": [spread("kubernetes.io/hostname"), spread("topology.kubernetes.io/zone")],
        "containers": [container(effective, settings, drain)],
        "volumes": volumes(effective),
    });
    let defaults = &settings.defaults;
    let more = [
        ("imagePullSecrets", json!(defaults.image_pull_secrets)),
        ("nodeSelector", json!(pod.node_selector)),
        ("tolerations", json!(pod.tolerations)),
        ("affinity", json!(pod.affinity)),
        ("priorityClassName", json!(pod.priority_class_name)),
    ];
    for (field, value) in more {
        if !is_absent(&value) {
            spec[field] = value;
        }
    }
    spec
}

fn spread(key: &str) -> Value {
    json!({
        "topologyKey": key,
        "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": selector() },
        // The pods of a rollout count among themselves.
        "matchLabelKeys": ["pod-template-hash"],
    })
}

fn container(effective: &Effective, settings: &Settings, drain: u32) -> Value {
    let mut args = vec![
        "run".to_owned(),
        format!("--operator={}", settings.operator_url),
        format!("--listen=[::]:{PORT}"),
        format!("--admin-listen=[::]:{ADMIN_PORT}"),
        format!("--drain-delay-seconds={DRAIN_DELAY_SECONDS}"),
        format!("--drain-seconds={drain}"),
    ];
    let mut mounts = vec![
        json!({ "name": "operator", "mountPath": "/var/run/secrets/olla.dev", "readOnly": true }),
        json!({ "name": "state", "mountPath": "/var/lib/olla" }),
    ];
    let scheme = if effective.spec.tls.is_some() {
        args.push("--tls-cert=/etc/olla/tls/tls.crt".to_owned());
        args.push("--tls-key=/etc/olla/tls/tls.key".to_owned());
        mounts.push(json!({ "name": "tls", "mountPath": "/etc/olla/tls", "readOnly": true }));
        "HTTPS"
    } else {
        "HTTP"
    };
    let probe = |path: &str, period: u32| {
        json!({
            "httpGet": { "path": path, "port": "http", "scheme": scheme },
            "periodSeconds": period,
            "timeoutSeconds": 2,
        })
    };
    let mut container = json!({
        "name": "olla",
        "image": effective.image,
        "args": args,
        "env": [{ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        "ports": [
            { "name": "http", "containerPort": PORT, "protocol": "TCP" },
            { "name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP" },
        ],
        "readinessProbe": probe("/internal/ready", 2),
        "livenessProbe": probe("/internal/health", 10),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": mounts,
    });
    container["resources"] = match &effective.spec.resources {
        Some(resources) => json!(resources),
        None => json!({
            "requests": { "cpu": "100m", "memory": "64Mi" },
            "limits": { "memory": "512Mi" },
        }),
    };
    if let Some(policy) = &settings.defaults.image_pull_policy {
        container["imagePullPolicy"] = policy.clone().into();
    }
    container
}

fn volumes(effective: &Effective) -> Value {
    let token = json!({ "audience": AUDIENCE, "expirationSeconds": 3600, "path": "token" });
    let mut volumes = vec![
        json!({ "name": "operator", "projected": { "sources": [
            { "serviceAccountToken": token },
            { "configMap": { "name": CA_CONFIG_MAP } },
        ] } }),
        // In memory: the table holds credentials.
        json!({ "name": "state", "emptyDir": { "medium": "Memory", "sizeLimit": "256Mi" } }),
    ];
    if let Some(tls) = &effective.spec.tls {
        let secret = json!({ "secretName": tls.secret_name });
        volumes.push(json!({ "name": "tls", "secret": secret }));
    }
    json!(volumes)
}
