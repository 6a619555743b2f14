//! Whatever objects and slices say, data planes take the table: what they would refuse is refused
//! in its object's own status.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use compile::{
    Facts, Objects, compile,
    facts::{ServiceFact, ServicePort, SliceAddress, SliceFact},
};
use crds::{LlmEndpoint, OllaRoute};
use proptest::prelude::*;
use serde_json::{Value, json};

/// What a schema's pattern may let pass, and a request line may not.
fn text() -> impl Strategy<Value = String> {
    let parts = vec![
        "/", "a", "B", "1", ".", "-", "_", "%41", "%", " ", "\t", "\r\n", "\u{85}", "\u{9f}",
        "\u{7f}", "\u{0}", "\u{e9}", "?", "#", "\"", "\\", "{",
    ];
    prop::collection::vec(prop::sample::select(parts), 0..5).prop_map(|parts| parts.concat())
}

fn endpoint(name: &str, spec: &Value) -> Arc<LlmEndpoint> {
    let object = json!({
        "apiVersion": "olla.dev/v1alpha1", "kind": "LlmEndpoint",
        "metadata": { "name": name }, "spec": spec,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn route(name: &str, spec: &Value) -> Arc<OllaRoute> {
    let object = json!({
        "apiVersion": "olla.dev/v1alpha1", "kind": "OllaRoute",
        "metadata": { "name": name }, "spec": spec,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

/// A Service `s` with one address.
fn facts(ip: &str, port: u16) -> Facts {
    let slice = SliceFact {
        ports: [(String::new(), port)].into(),
        addresses: vec![SliceAddress {
            ip: ip.to_owned(),
            ready: true,
            pod: None,
        }],
    };
    let service = ServiceFact {
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            tcp: true,
        }],
        slices: vec![Arc::new(slice)],
        external_name: None,
    };
    Facts {
        in_cluster: true,
        services: BTreeMap::from([("s".to_owned(), service)]),
        ..Facts::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_object_and_no_slice_makes_a_table_that_data_planes_refuse(
        texts in prop::array::uniform6(text()),
        port in prop::sample::select(vec![0u16, 1, 8080]),
    ) {
        let [base, health, discovery, header, prefix, ip] = &texts;
        let service = json!({ "name": "s", "port": 80 });
        let objects = Objects {
            endpoints: vec![
                endpoint("base", &json!({ "url": format!("http://x/{base}") })),
                endpoint("host", &json!({ "url": format!("http://x{base}") })),
                endpoint("health", &json!({ "url": "http://x", "health": { "path": format!("/{health}") } })),
                endpoint("models", &json!({ "url": "http://x",
                    "models": { "discovery": { "path": format!("/{discovery}") } } })),
                endpoint("service", &json!({ "service": service })),
                endpoint(header, &json!({ "url": "http://x" })),
            ],
            routes: vec![
                route("header", &json!({ "matches": [{ "headers": [{ "name": header, "value": base }] }] })),
                route("prefix", &json!({ "matches": [{ "pathPrefix": format!("/{prefix}") }] })),
            ],
        };
        let compiled = compile("a", &objects, &facts(ip, port));
        prop_assert_eq!(compiled.table.check(), Ok(()));
        prop_assert!(compiled.table.endpoints.contains_key("service"));
    }
}

#[test]
fn an_odd_path_is_refused_where_it_stands_and_nothing_else_is() {
    let objects = Objects {
        endpoints: vec![
            endpoint(
                "odd",
                &json!({ "url": "http://x", "health": { "path": "/health\u{85}" } }),
            ),
            endpoint("url", &json!({ "url": "http://x/v1\u{85}" })),
            endpoint("good", &json!({ "url": "http://x" })),
        ],
        routes: vec![],
    };
    let compiled = compile("a", &objects, &facts("10.0.0.1", 1));
    let said = compiled.verdicts.iter();
    let said = said.map(|verdict| match &verdict.accepted {
        Ok(()) => format!("{} is accepted", verdict.name),
        Err(problem) => format!("{}: {}", verdict.name, problem.field),
    });
    let said: Vec<_> = said.collect();
    assert_eq!(
        said,
        ["good is accepted", "odd: spec.health.path", "url: spec.url"]
    );
}
