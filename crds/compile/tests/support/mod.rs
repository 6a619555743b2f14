//! Kubernetes documents → what `compile` takes. Only what the golden cases and the order test
//! need; the operator has its own way in, from watches.

use std::{collections::BTreeMap, sync::Arc};

use compile::{
    Facts, Objects,
    facts::{PodFact, ServiceFact, ServicePort, SliceAddress, SliceFact},
};
use dataplane_protocol::Secret;
use k8s_openapi::{
    Resource,
    api::{
        core::v1::{self as core, Pod, Service},
        discovery::v1::EndpointSlice,
    },
};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) fn read(yaml: &str) -> (Objects, Facts) {
    let mut objects = Objects::default();
    let mut facts = Facts {
        in_cluster: true,
        ..Facts::default()
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    for document in documents {
        let name = document["metadata"]["name"].as_str().unwrap().to_owned();
        match document["kind"].as_str().unwrap() {
            "LlmEndpoint" => objects.endpoints.push(Arc::new(to(document))),
            "OllaRoute" => objects.routes.push(Arc::new(to(document))),
            // The case is about a data plane without a cluster.
            "Standalone" => facts.in_cluster = false,
            Service::KIND => service(facts.services.entry(name).or_default(), to(document)),
            EndpointSlice::KIND => {
                let slice: EndpointSlice = to(document);
                let labels = slice.metadata.labels.clone().unwrap();
                let of = labels["kubernetes.io/service-name"].clone();
                let fact = facts.services.entry(of).or_default();
                fact.slices.push(Arc::new(slice_fact(slice)));
            }
            Pod::KIND => {
                facts.pods.insert(name, pod(to(document)));
            }
            core::Secret::KIND => {
                facts.secrets.insert(name, secret(to(document)).into());
            }
            other => panic!("no case needs a {other}"),
        }
    }
    (objects, facts)
}

fn to<T: DeserializeOwned>(document: Value) -> T {
    serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{e}: {document}"))
}

fn service(fact: &mut ServiceFact, service: Service) {
    let spec = service.spec.unwrap();
    fact.external_name = spec.external_name;
    let ports = spec.ports.unwrap_or_default().into_iter();
    let ports = ports.map(|port| ServicePort {
        name: port.name.unwrap_or_default(),
        port: port.port.try_into().unwrap(),
        tcp: port.protocol.is_none_or(|protocol| protocol == "TCP"),
    });
    fact.ports = ports.collect();
}

fn slice_fact(slice: EndpointSlice) -> SliceFact {
    let mut addresses = Vec::new();
    for endpoint in slice.endpoints {
        let conditions = endpoint.conditions.unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true) && conditions.terminating != Some(true);
        let pod = endpoint
            .target_ref
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|target| target.name);
        addresses.extend(endpoint.addresses.into_iter().map(|ip| SliceAddress {
            ip,
            ready,
            pod: pod.clone(),
        }));
    }
    let ports = slice.ports.unwrap_or_default().into_iter();
    SliceFact {
        ports: ports
            .map(|port| {
                let number = port.port.unwrap().try_into().unwrap();
                (port.name.unwrap_or_default(), number)
            })
            .collect(),
        addresses,
    }
}

fn pod(pod: Pod) -> PodFact {
    let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
    let ports = containers
        .into_iter()
        .flat_map(|it| it.ports.unwrap_or_default());
    let named =
        ports.filter_map(|port| Some((port.name?, port.container_port.try_into().unwrap())));
    let ports = named.collect();
    let status = pod.status.unwrap_or_default();
    let is_ready = status
        .conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    PodFact {
        labels: pod.metadata.labels.unwrap_or_default(),
        ip: status.pod_ip.unwrap_or_default(),
        ready: is_ready && pod.metadata.deletion_timestamp.is_none(),
        ports,
    }
}

fn secret(secret: core::Secret) -> BTreeMap<String, Secret> {
    let data = secret.data.unwrap_or_default().into_iter();
    let plain = secret.string_data.unwrap_or_default();
    data.map(|(key, value)| (key, String::from_utf8(value.0).unwrap()))
        .chain(plain)
        .map(|(key, value)| (key, Secret::new(value)))
        .collect()
}
