//! Olla's own config files: what they mean here, and what is said about the rest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod guide;
mod own;

use compile::compile;
use dataplane_protocol::{
    RoutingTable,
    table::{Endpoint, Route},
};
use manifest::{Loaded, Source, load};

fn read(text: &str) -> Loaded {
    let source = Source {
        name: "config.yaml".to_owned(),
        text: text.to_owned(),
    };
    let env = |name: &str| (name == "OPENAI_API_KEY").then(|| "sk-hunter2".to_owned());
    load(&[source], "default", &env)
}

fn notes(loaded: &Loaded) -> Vec<String> {
    let notes = loaded.notes.iter();
    notes
        .map(|note| format!("{} {note}", note.severity))
        .collect()
}

/// The table of a file in which nothing is wrong, warnings aside.
fn table(text: &str) -> RoutingTable {
    let loaded = read(text);
    assert!(!loaded.has_errors(), "{:?}", notes(&loaded));
    let input = &loaded.namespaces["default"];
    let compiled = compile("default", &input.objects, &input.facts);
    for verdict in &compiled.verdicts {
        assert_eq!(verdict.accepted, Ok(()), "{}", verdict.name);
        assert_eq!(verdict.resolved_refs, Ok(()), "{}", verdict.name);
    }
    compiled.table
}

fn route(table: &RoutingTable) -> &Route {
    assert_eq!(table.routes.len(), 1);
    assert_eq!(table.routes[0].id.as_str(), "olla");
    &table.routes[0]
}

/// Endpoints by tier, best first.
fn tiers(text: &str) -> Vec<Vec<String>> {
    let table = table(text);
    let mut tiers: Vec<Vec<String>> = Vec::new();
    for target in table.targets(route(&table)) {
        tiers.resize(tiers.len().max(target.tier as usize + 1), Vec::new());
        tiers[target.tier as usize].push(target.endpoint.to_string());
    }
    tiers
}

fn endpoint(text: &str) -> Endpoint {
    let table = table(text);
    assert_eq!(table.endpoints.len(), 1);
    table.endpoints.values().next().unwrap().as_ref().clone()
}

/// A file with one endpoint, in Olla's own layout; `more` are further members of it.
fn one(more: &str) -> String {
    format!(
        "discovery:\n  static:\n    endpoints:\n      - url: http://gpu:8000\n        \
         name: gpu\n{more}"
    )
}
