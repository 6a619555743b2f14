//! Objects of the API server → [`CachedObject`]s: only what a table or a status is made of. Pure.
//! Runs in the watch's own task, so that whole Pods and Secrets live for one line of code.

use std::{collections::BTreeMap, sync::Arc};

use compile::{
    Form, Kind, Unreadable,
    facts::{PodFact, SecretFact, ServicePort, SliceAddress, SliceFact},
    namespace::{Service, Slice},
};
use crds::{LlmEndpoint, LlmEndpointSpec, OllaRoute, OllaRouteSpec};
use dataplane_protocol::Secret;
use k8s_openapi::api::{
    core::v1,
    discovery::v1::{Endpoint, EndpointSlice},
};
use kube::{
    ResourceExt as _,
    api::{DynamicObject, ObjectMeta},
};
use serde::de::DeserializeOwned;

use super::{
    object::{CachedObject, ObjectData},
    status::ObjectStatus,
    status_cache::CachedStatus,
};

/// Type of a Secret that holds the token of a ServiceAccount.
const SERVICE_ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";

/// Label on an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An LlmEndpoint, and what its status says now.
pub fn endpoint(object: DynamicObject) -> (CachedObject, CachedStatus) {
    own(
        object,
        Kind::LlmEndpoint,
        |metadata, spec: LlmEndpointSpec| {
            ObjectData::Endpoint(Form::Object(Arc::new(LlmEndpoint {
                metadata,
                spec,
                status: None,
            })))
        },
    )
}

/// An OllaRoute, and what its status says now.
pub fn route(object: DynamicObject) -> (CachedObject, CachedStatus) {
    own(object, Kind::OllaRoute, |metadata, spec: OllaRouteSpec| {
        ObjectData::Route(Form::Object(Arc::new(OllaRoute {
            metadata,
            spec,
            status: None,
        })))
    })
}

pub fn service(service: v1::Service) -> CachedObject {
    let (namespace, name) = names(&service.metadata);
    let spec = service.spec.unwrap_or_default();
    let ports = spec
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter_map(|port| {
            Some(ServicePort {
                name: port.name.unwrap_or_default(),
                port: u16::try_from(port.port).ok()?,
                tcp: is_tcp(port.protocol.as_deref()),
            })
        })
        .collect();
    let external_name = spec
        .external_name
        .filter(|_| spec.type_.as_deref() == Some("ExternalName"));
    let family = spec.ip_families.unwrap_or_default().into_iter().next();
    CachedObject {
        namespace,
        name,
        data: ObjectData::Service(Service {
            ports,
            external_name,
            family,
        }),
    }
}

pub fn slice(slice: EndpointSlice) -> CachedObject {
    let (namespace, name) = names(&slice.metadata);
    let service = slice
        .metadata
        .labels
        .and_then(|mut labels| labels.remove(SERVICE_NAME))
        .unwrap_or_default();
    // A port without a number would mean all ports; a Service does not make such slices.
    let ports = slice
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .filter_map(|port| {
            let number = u16::try_from(port.port?).ok()?;
            Some((port.name.unwrap_or_default(), number))
        })
        .collect();
    let addresses = slice.endpoints.into_iter().filter_map(address).collect();
    CachedObject {
        namespace,
        name,
        data: ObjectData::Slice(Slice {
            service,
            family: slice.address_type,
            slice: Arc::new(SliceFact { ports, addresses }),
        }),
    }
}

pub fn pod(pod: v1::Pod) -> CachedObject {
    let (namespace, name) = names(&pod.metadata);
    let status = pod.status.unwrap_or_default();
    // An ended pod keeps its address, which may be another's by now, and sometimes its condition.
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let ready = pod.metadata.deletion_timestamp.is_none()
        && !ended
        && status
            .conditions
            .unwrap_or_default()
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    CachedObject {
        namespace,
        name,
        data: ObjectData::Pod(PodFact {
            labels: pod.metadata.labels.unwrap_or_default(),
            ip: status.pod_ip.unwrap_or_default(),
            ready,
            ports: pod.spec.map(named_ports).unwrap_or_default(),
        }),
    }
}

/// Those of init containers count, too: sidecars are such.
fn named_ports(spec: v1::PodSpec) -> BTreeMap<String, u16> {
    let init = spec.init_containers.unwrap_or_default();
    let containers = init.into_iter().chain(spec.containers);
    containers
        .flat_map(|container| container.ports.unwrap_or_default())
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .filter_map(|port| Some((port.name?, u16::try_from(port.container_port).ok()?)))
        .collect()
}

/// What is no text in a value is marked by U+FFFD; compile refuses it.
pub fn secret(secret: v1::Secret) -> CachedObject {
    let (namespace, name) = names(&secret.metadata);
    let is_token = secret.type_.as_deref() == Some(SERVICE_ACCOUNT_TOKEN);
    let data = secret.data.filter(|_| !is_token).unwrap_or_default();
    let values: BTreeMap<String, Secret> = data
        .into_iter()
        .map(|(key, value)| (key, Secret::new(String::from_utf8_lossy(&value.0))))
        .collect();
    CachedObject {
        namespace,
        name,
        data: ObjectData::Secret(SecretFact { values, is_token }),
    }
}

fn own<S: DeserializeOwned>(
    object: DynamicObject,
    kind: Kind,
    make: impl Fn(ObjectMeta, S) -> ObjectData,
) -> (CachedObject, CachedStatus) {
    let (namespace, name) = names(&object.metadata);
    let uid = object.uid().unwrap_or_default();
    let mut fields = object.data;
    let status = fields.get_mut("status").map(serde_json::Value::take);
    let spec = fields
        .get_mut("spec")
        .map(serde_json::Value::take)
        .unwrap_or_default();
    let metadata = trimmed(object.metadata);
    let data = match serde_json::from_value(spec) {
        Ok(spec) => make(metadata, spec),
        Err(error) => unreadable(kind, &metadata, &error),
    };
    let status = CachedStatus {
        uid,
        // A status of another shape is one that is written anew.
        status: status
            .and_then(|status| serde_json::from_value::<ObjectStatus>(status).ok())
            .unwrap_or_default(),
    };
    let object = CachedObject {
        namespace,
        name,
        data,
    };
    (object, status)
}

fn unreadable(kind: Kind, metadata: &ObjectMeta, error: &serde_json::Error) -> ObjectData {
    let object = Unreadable {
        kind,
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone(),
        generation: metadata.generation.unwrap_or_default(),
        labels: metadata.labels.clone().unwrap_or_default(),
        message: format!("spec: {error} (does the object match the {kind} CRD of this release?)"),
    };
    match kind {
        Kind::LlmEndpoint => ObjectData::Endpoint(Form::Unreadable(object.into())),
        Kind::OllaRoute => ObjectData::Route(Form::Unreadable(object.into())),
    }
}

/// What compile reads. Annotations often hold the whole object once more; a resource version
/// would make each of our own status writes look like a change.
fn trimmed(metadata: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        generation: metadata.generation,
        creation_timestamp: metadata.creation_timestamp,
        labels: metadata.labels,
        ..ObjectMeta::default()
    }
}

/// TCP is what ports without a protocol are.
fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn names(metadata: &ObjectMeta) -> (String, String) {
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

fn address(endpoint: Endpoint) -> Option<SliceAddress> {
    let conditions = endpoint.conditions.unwrap_or_default();
    Some(SliceAddress {
        // Consumers use the first one only, says the API; further ones are the same place.
        ip: endpoint.addresses.into_iter().next()?,
        ready: conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false),
        pod: endpoint
            .target_ref
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|target| target.name),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: serde_json::Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_object_of_another_shape_says_what_is_wrong_with_it() {
        let (item, _) = route(object(json!({
            "apiVersion": "olla.dev/v1alpha1", "kind": "OllaRoute",
            "metadata": { "namespace": "a", "name": "r", "generation": 4 },
            "spec": { "loadBalancer": "dice" },
        })));
        let ObjectData::Route(Form::Unreadable(object)) = item.data else {
            panic!("decoded")
        };
        assert_eq!((object.name.as_str(), object.generation), ("r", 4));
        let message = object.message;
        assert!(message.contains("dice"), "{message}");
    }

    #[test]
    fn a_status_write_does_not_look_like_a_change() {
        let with = |version: &str, status: serde_json::Value| {
            object(json!({
                "apiVersion": "olla.dev/v1alpha1", "kind": "LlmEndpoint",
                "metadata": { "namespace": "a", "name": "e", "resourceVersion": version },
                "spec": { "url": "http://x" }, "status": status,
            }))
        };
        let (before, _) = endpoint(with("1", json!(null)));
        let (after, entry) = endpoint(with("2", json!({ "observedGeneration": 1 })));
        assert_eq!(before, after);
        assert_eq!(entry.status.observed_generation, Some(1));
    }

    #[test]
    fn managed_fields_and_annotations_take_no_memory() {
        let (item, _) = endpoint(object(json!({
            "apiVersion": "olla.dev/v1alpha1", "kind": "LlmEndpoint",
            "metadata": {
                "namespace": "a", "name": "e", "labels": { "gpu": "h100" },
                "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}" },
                "managedFields": [{ "manager": "kubectl", "operation": "Apply" }],
            },
            "spec": { "url": "http://x" },
        })));
        let ObjectData::Endpoint(Form::Object(kept)) = item.data else {
            panic!("not decoded")
        };
        assert_eq!(kept.metadata.managed_fields, None);
        assert_eq!(kept.metadata.annotations, None);
        assert_eq!(kept.labels()["gpu"], "h100");
    }

    #[test]
    fn the_token_of_a_service_account_is_known_as_that_and_not_kept() {
        let whole = json!({
            "metadata": { "namespace": "a", "name": "robot" },
            "type": SERVICE_ACCOUNT_TOKEN, "data": { "token": "eA==" },
        });
        let ObjectData::Secret(fact) = secret(serde_json::from_value(whole).unwrap()).data else {
            panic!("no Secret")
        };
        assert!(fact.is_token && fact.values.is_empty());
    }

    #[test]
    fn a_terminating_or_ended_pod_is_not_ready_though_its_condition_says_so() {
        let of = |metadata: serde_json::Value, phase: &str| {
            let whole = json!({ "metadata": metadata,
                "status": { "phase": phase, "podIP": "10.0.0.1", "conditions": [{ "type": "Ready", "status": "True" }] } });
            let ObjectData::Pod(fact) = pod(serde_json::from_value(whole).unwrap()).data else {
                panic!("no pod")
            };
            fact.ready
        };
        assert!(of(json!({ "name": "p" }), "Running"));
        assert!(!of(json!({ "name": "p" }), "Failed"));
        let leaving = json!({ "name": "p", "deletionTimestamp": "2026-11-22T00:00:00Z" });
        assert!(!of(leaving, "Running"));
    }

    #[test]
    fn named_tcp_ports_of_all_containers_are_kept() {
        let whole = json!({
            "metadata": { "name": "p" },
            "spec": {
                "initContainers": [{ "name": "sidecar", "ports": [{ "name": "admin", "containerPort": 9 }] }],
                "containers": [{ "name": "llm", "ports": [
                    { "name": "http", "containerPort": 8000 },
                    { "containerPort": 8001 },
                    { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                ] }],
            },
        });
        let ObjectData::Pod(fact) = pod(serde_json::from_value(whole).unwrap()).data else {
            panic!("no pod")
        };
        let expected = [("admin".to_owned(), 9), ("http".to_owned(), 8000)];
        assert_eq!(fact.ports, BTreeMap::from(expected));
    }

    #[test]
    fn ports_of_other_protocols_are_known_as_that_and_never_targets() {
        let whole = json!({
            "metadata": { "name": "s", "namespace": "a" },
            "spec": { "ports": [{ "port": 53, "protocol": "UDP" }, { "port": 80 }] },
        });
        let ObjectData::Service(entry) = service(serde_json::from_value(whole).unwrap()).data
        else {
            panic!("no Service")
        };
        let ports = entry.ports.iter().map(|port| (port.port, port.tcp));
        assert_eq!(ports.collect::<Vec<_>>(), [(53, false), (80, true)]);
        let whole = json!({
            "metadata": { "name": "s-1", "namespace": "a" }, "addressType": "IPv4", "endpoints": [],
            "ports": [{ "port": 53, "protocol": "UDP", "name": "dns" }, { "port": 8080, "protocol": "TCP" }],
        });
        let ObjectData::Slice(entry) = slice(serde_json::from_value(whole).unwrap()).data else {
            panic!("no slice")
        };
        assert_eq!(entry.slice.ports, BTreeMap::from([(String::new(), 8080)]));
    }

    #[test]
    fn only_a_service_of_that_type_is_an_external_name() {
        let of = |spec: serde_json::Value| {
            let whole = json!({ "metadata": { "name": "s" }, "spec": spec });
            let ObjectData::Service(entry) = service(serde_json::from_value(whole).unwrap()).data
            else {
                panic!("no Service")
            };
            entry.external_name
        };
        let external = json!({ "type": "ExternalName", "externalName": "x.example" });
        assert_eq!(of(external).as_deref(), Some("x.example"));
        assert_eq!(
            of(json!({ "type": "ClusterIP", "externalName": "x" })),
            None
        );
    }

    #[test]
    fn an_address_without_conditions_is_ready_and_a_terminating_one_is_not() {
        let whole = json!({
            "metadata": { "name": "s-1", "namespace": "a", "labels": { SERVICE_NAME: "s" } },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 11434 }],
            "endpoints": [
                { "addresses": ["10.0.0.1"], "targetRef": { "kind": "Pod", "name": "p" } },
                { "addresses": ["10.0.0.2"], "conditions": { "ready": true, "terminating": true } },
            ],
        });
        let ObjectData::Slice(entry) = slice(serde_json::from_value(whole).unwrap()).data else {
            panic!("no slice")
        };
        assert_eq!(entry.service, "s");
        let ready: Vec<bool> = entry.slice.addresses.iter().map(|a| a.ready).collect();
        assert_eq!(ready, [true, false]);
        assert_eq!(entry.slice.addresses[0].pod.as_deref(), Some("p"));
    }
}
