//! Objects are applied; what a user would notice is which namespaces are compiled, and with what.

use std::{collections::BTreeMap, sync::Arc};

use compile::{
    Compiled, Form, Kind, Unreadable,
    facts::{PodFact, ServicePort, SliceAddress, SliceFact},
    namespace::{Service, Slice},
};
use dataplane_protocol::{ResourceKey, Secret, table::Credential};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use serde_json::json;

use super::*;

mod forms;

fn endpoint(namespace: &str, name: &str, spec: serde_json::Value) -> CachedObject {
    let object = json!({
        "apiVersion": "olla.dev/v1alpha1", "kind": "LlmEndpoint",
        "metadata": { "namespace": namespace, "name": name }, "spec": spec,
    });
    let data = ObjectData::Endpoint(Form::Object(Arc::new(
        serde_json::from_value(object).unwrap(),
    )));
    item(namespace, name, data)
}

fn item(namespace: &str, name: &str, data: ObjectData) -> CachedObject {
    CachedObject {
        namespace: namespace.into(),
        name: name.into(),
        data,
    }
}

fn url(namespace: &str, name: &str) -> CachedObject {
    endpoint(namespace, name, json!({ "url": "http://x" }))
}

fn pod(namespace: &str, name: &str, ready: bool) -> CachedObject {
    let data = ObjectData::Pod(PodFact {
        ready,
        ..PodFact::default()
    });
    item(namespace, name, data)
}

fn slice(name: &str, service: &str, family: &str) -> CachedObject {
    let data = ObjectData::Slice(Slice {
        service: service.into(),
        family: family.into(),
        slice: Arc::new(SliceFact {
            ports: [("http".to_owned(), 80)].into(),
            addresses: vec![SliceAddress {
                ip: name.to_owned(),
                ready: true,
                pod: None,
            }],
        }),
    });
    item("a", name, data)
}

/// What a namespace means now.
fn compiled(index: &mut Index, namespace: &str) -> Compiled {
    let Some((known, _)) = index.update(namespace) else {
        return Compiled {
            table: dataplane_protocol::RoutingTable::default(),
            verdicts: Vec::new(),
        };
    };
    Compiled {
        table: known.resources().to_table(namespace),
        verdicts: known.verdicts().values().cloned().collect(),
    }
}

fn take(index: &mut Index) -> Vec<String> {
    index.take_dirty(|_, _| true)
}

#[test]
fn a_change_marks_its_own_namespace_only() {
    let mut index = Index::default();
    index.apply(url("a", "e"));
    index.apply(url("b", "e"));
    take(&mut index);
    index.apply(url("b", "another"));
    assert_eq!(take(&mut index), ["b"]);
}

#[test]
fn the_same_object_again_marks_nothing() {
    let mut index = Index::default();
    index.apply(url("a", "e"));
    take(&mut index);
    index.apply(url("a", "e"));
    assert!(take(&mut index).is_empty());
}

#[test]
fn a_reset_deletes_what_it_does_not_mention() {
    let mut index = Index::default();
    index.reset(
        &Source::Endpoints,
        vec![url("a", "gone"), url("b", "stays")],
    );
    take(&mut index);
    index.reset(&Source::Endpoints, vec![url("b", "stays")]);
    assert_eq!(take(&mut index), ["a"]);
    assert_eq!(index.occupied(), ["b".to_owned()].into());
}

#[test]
fn nothing_is_ready_before_both_kinds_and_all_it_needs_are_listed() {
    let mut index = Index::default();
    let spec = json!({ "podSelector": { "matchLabels": { "app": "x" }, "port": 80 },
        "auth": { "bearer": { "valueFrom": { "secretKeyRef": { "name": "key", "key": "token" } } } } });
    index.reset(&Source::Endpoints, vec![endpoint("a", "e", spec)]);
    assert!(!index.ready("a"));
    index.reset(&Source::Routes, vec![]);
    assert!(!index.ready("a"), "its pods and its Secret are missing");
    assert!(index.ready("b"));
    let needs = index.needs("a");
    assert_eq!(needs.len(), 2);
    for source in &needs {
        index.reset(source, vec![]);
    }
    assert!(index.ready("a"));
    assert!(take(&mut index).contains(&"a".to_owned()));
}

#[test]
fn a_name_that_no_secret_can_have_is_not_asked_for() {
    let mut index = Index::default();
    let auth = json!({ "basic": { "valueFrom": { "secretRef": { "name": "cloud," } } } });
    let spec = json!({ "url": "http://x", "auth": auth });
    index.reset(&Source::Endpoints, vec![endpoint("a", "e", spec)]);
    index.reset(&Source::Routes, vec![]);
    assert!(index.needs("a").is_empty());
    assert!(index.ready("a"));
}

#[test]
fn an_unready_namespace_stays_dirty_until_it_is_ready() {
    let mut index = Index::default();
    index.apply(url("a", "e"));
    assert!(index.take_dirty(Index::ready).is_empty());
    index.reset(&Source::Endpoints, vec![url("a", "e")]);
    index.reset(&Source::Routes, vec![]);
    assert_eq!(index.take_dirty(Index::ready), ["a"]);
}

#[test]
fn only_services_that_an_endpoint_names_are_seen_and_in_one_address_family() {
    let mut index = Index::default();
    let spec = json!({ "service": { "name": "s", "port": 80 } });
    index.apply(endpoint("a", "e", spec));
    for name in ["s", "other"] {
        let service = Service {
            ports: vec![ServicePort {
                name: "http".into(),
                port: 80,
                tcp: true,
            }],
            external_name: None,
            family: Some("IPv6".into()),
        };
        index.apply(item("a", name, ObjectData::Service(service)));
    }
    index.apply(slice("s-4", "s", "IPv4"));
    index.apply(slice("s-6", "s", "IPv6"));
    index.listed.extend(index.needs("a"));
    let instances = &compiled(&mut index, "a").table.instances;
    let hosts: Vec<_> = (instances.values().flat_map(|list| list.iter()))
        .map(|instance| instance.host.as_str())
        .collect();
    assert_eq!(hosts, ["s-6"]);
    // A Service without a selector may name a family that it has no address of.
    index.delete(&Source::Slices("a".into()), "a", "s-6");
    let instances = &compiled(&mut index, "a").table.instances;
    let hosts: Vec<_> = (instances.values().flat_map(|list| list.iter()))
        .map(|instance| instance.host.as_str())
        .collect();
    assert_eq!(hosts, ["s-4"]);
}

#[test]
fn a_watch_that_stopped_leaves_nothing_behind() {
    let mut index = Index::default();
    let pods = Source::Pods("a".into());
    index.reset(&pods, vec![pod("a", "p", true)]);
    take(&mut index);
    index.forget(&pods);
    assert!(index.namespaces.is_empty());
}

#[test]
fn what_no_endpoint_uses_may_change_without_a_compilation() {
    let selecting = |labels: serde_json::Value| {
        let target = json!({ "matchLabels": labels, "port": 80 });
        endpoint("a", "e", json!({ "podSelector": target }))
    };
    let labelled = |app: &str, ready: bool| {
        let labels = [("app".to_owned(), app.to_owned())].into();
        let ip = String::new();
        item(
            "a",
            "p",
            ObjectData::Pod(PodFact {
                labels,
                ip,
                ready,
                ..PodFact::default()
            }),
        )
    };
    let mut index = Index::default();
    index.apply(selecting(json!({ "app": "llm" })));
    index.apply(endpoint(
        "a",
        "s",
        json!({ "service": { "name": "s", "port": 80 } }),
    ));
    take(&mut index);
    let changes = [
        (labelled("job", false), false),
        (labelled("job", true), false),
        (labelled("llm", true), true),
        (labelled("llm", true), false),
        (labelled("llm", false), true),
        (labelled("job", false), true),
        (slice("other-1", "other", "IPv4"), false),
        (slice("s-1", "s", "IPv4"), true),
    ];
    for (at, (change, counts)) in changes.into_iter().enumerate() {
        assert_eq!(index.apply(change), counts, "{at}");
        assert_eq!(!take(&mut index).is_empty(), counts, "{at}");
    }
    let pods = Source::Pods("a".into());
    assert!(!index.delete(&pods, "a", "p"));
    // It was there before the endpoint that wants it.
    index.apply(labelled("job", true));
    index.apply(selecting(json!({ "app": "job" })));
    assert_eq!(take(&mut index), ["a"]);
    assert!(index.delete(&pods, "a", "p"));
}
