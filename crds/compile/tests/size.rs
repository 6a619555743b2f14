//! A namespace's table is bounded, however its objects multiply.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use compile::{Form, Kind, Namespace};
use crds::Reason;
use serde_json::{Value, json};

fn object(kind: &str, name: &str, second: u32, spec: &Value) -> Value {
    json!({
        "apiVersion": "olla.dev/v1alpha1", "kind": kind, "spec": spec,
        "metadata": {
            "name": name, "generation": 1,
            "creationTimestamp": format!("2026-11-27T10:{:02}:{:02}Z", second / 60, second % 60),
        },
    })
}

fn add_endpoint(namespace: &mut Namespace, name: &str) {
    let object = object("LlmEndpoint", name, 0, &json!({ "url": "http://x" }));
    let form = Form::Object(Arc::new(serde_json::from_value(object).unwrap()));
    namespace.set_endpoint(name, Some(form));
}

/// Routes that each select all endpoints, by a selector of their own; `r0` is the oldest.
fn add_route(namespace: &mut Namespace, number: u32) {
    let name = format!("r{number}");
    let missing = json!({ "key": format!("k{number}"), "operator": "DoesNotExist" });
    let spec = json!({
        "matches": [{ "pathPrefix": format!("/{number}") }],
        "endpoints": { "selector": { "matchExpressions": [missing] } },
    });
    let object = object("OllaRoute", &name, number, &spec);
    let form = Form::Object(Arc::new(serde_json::from_value(object).unwrap()));
    namespace.set_route(&name, Some(form));
}

fn refused(namespace: &Namespace) -> Vec<&str> {
    let verdicts = namespace.verdicts().iter();
    let refused = verdicts.filter_map(|((kind, name), verdict)| {
        let problem = verdict.accepted.as_ref().err()?;
        assert_eq!((*kind, problem.reason), (Kind::OllaRoute, Reason::TooLarge));
        Some(name.as_str())
    });
    refused.collect()
}

#[test]
fn the_newest_routes_whose_selectors_select_too_much_are_refused_until_there_is_room() {
    let mut namespace = Namespace::new(true);
    for number in 0..1000 {
        add_endpoint(&mut namespace, &format!("e{number}"));
    }
    for number in (0..203).rev() {
        add_route(&mut namespace, number);
    }
    namespace.update();
    assert_eq!(refused(&namespace), ["r200", "r201", "r202"]);
    let table = namespace.resources().to_table("a");
    assert_eq!(table.routes.len(), 200);
    let members = table.sets.values().map(|set| set.members.len());
    assert_eq!(members.sum::<usize>(), 200_000);
    // An older one goes, and the oldest of those that had no room has it.
    namespace.set_route("r7", None);
    namespace.update();
    assert_eq!(refused(&namespace), ["r201", "r202"]);
    // A label that comes or goes is the same as a route that does.
    add_endpoint(&mut namespace, "one-more");
    namespace.update();
    assert_eq!(refused(&namespace), ["r200", "r201", "r202"]);
}
