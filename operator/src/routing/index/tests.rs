//! Objects are applied; what a user would notice is which namespaces are compiled, and with what.

use compile::facts::SliceFact;
use serde_json::json;

use super::*;

fn endpoint(namespace: &str, name: &str, spec: serde_json::Value) -> Item {
    let object = json!({
        "apiVersion": "olla.dev/v1alpha1", "kind": "LlmEndpoint",
        "metadata": { "namespace": namespace, "name": name }, "spec": spec,
    });
    let fact = Fact::Endpoint(Decoded::Object(Arc::new(
        serde_json::from_value(object).unwrap(),
    )));
    item(namespace, name, fact)
}

fn item(namespace: &str, name: &str, fact: Fact) -> Item {
    Item {
        namespace: namespace.into(),
        name: name.into(),
        fact,
    }
}

fn url(namespace: &str, name: &str) -> Item {
    endpoint(namespace, name, json!({ "url": "http://x" }))
}

fn pod(namespace: &str, name: &str, ready: bool) -> Item {
    let fact = Fact::Pod(PodFact {
        ready,
        ..PodFact::default()
    });
    item(namespace, name, fact)
}

fn slice(name: &str, service: &str, family: &str) -> Item {
    let fact = Fact::Slice(SliceEntry {
        service: service.into(),
        family: family.into(),
        slice: SliceFact::default(),
    });
    item("a", name, fact)
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
    index.apply(pod("b", "p", true));
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
        "auth": { "bearer": { "name": "key", "key": "token" } } });
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
    let auth = json!({ "basic": { "name": "cloud," } });
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
        let service = ServiceEntry {
            ports: vec![],
            family: Some("IPv6".into()),
        };
        index.apply(item("a", name, Fact::Service(service)));
    }
    index.apply(slice("s-4", "s", "IPv4"));
    index.apply(slice("s-6", "s", "IPv6"));
    let (_, facts) = index.view("a");
    assert_eq!(facts.services.keys().collect::<Vec<_>>(), ["s"]);
    assert_eq!(facts.services["s"].slices.len(), 1);
    assert!(facts.in_cluster);
}

#[test]
fn a_watch_that_stopped_leaves_nothing_behind() {
    let mut index = Index::default();
    let pods = Source::Pods("a".into());
    index.reset(&pods, vec![pod("a", "p", true)]);
    take(&mut index);
    index.forget(&pods);
    assert_eq!(take(&mut index), ["a"]);
    assert!(index.view("a").1.pods.is_empty());
    assert!(index.namespaces.is_empty());
}

#[test]
fn an_undecodable_object_becomes_a_verdict_and_no_object() {
    let mut index = Index::default();
    let fact = Fact::Route(Decoded::Undecodable {
        generation: 3,
        message: "spec: unknown variant".into(),
    });
    index.apply(item("a", "r", fact));
    assert!(index.view("a").0.routes.is_empty());
    let verdicts = index.undecodable("a");
    assert_eq!(verdicts.len(), 1);
    let problem = verdicts[0].accepted.clone().unwrap_err();
    assert_eq!(
        (verdicts[0].generation, problem.reason),
        (3, Reason::Undecodable)
    );
}
