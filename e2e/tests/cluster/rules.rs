//! What does the API server refuse, and does it say why? Each rule of the installed kinds, and
//! some of their schema.

use std::collections::BTreeSet;

use anyhow::Result;
use e2e::World;
use serde_json::Value;

use crate::support::{endpoint, route};

const URL: &str = "http://10.88.0.1:1";

/// Of an LlmEndpoint, what is not its URL.
fn with(more: &str) -> String {
    endpoint("a", URL, &format!("  {more}\n"))
}

/// An LlmEndpoint of this spec only.
fn only(spec: &str) -> String {
    with(spec).replace(&format!("  url: {URL}\n"), "")
}

/// Objects that one rule refuses, each with the message of that rule.
fn refused() -> Vec<(&'static str, Vec<String>)> {
    let routed = |specs: &[&str]| specs.iter().map(|spec| route("a", spec)).collect();
    vec![
        (
            "spec: set exactly one of url, service, podSelector",
            vec![only("priority: 1"), with("service: {name: a, port: 80}")],
        ),
        (
            "podSelector: set matchLabels or matchExpressions; an empty selector would match every pod",
            vec![only("podSelector: {matchLabels: {}, port: 80}")],
        ),
        (
            "matchExpressions: In and NotIn need values; Exists and DoesNotExist must have none",
            vec![
                only("podSelector: {matchExpressions: [{key: a, operator: In}], port: 80}"),
                route(
                    "a",
                    "{endpoints: {selector: {matchExpressions: \
                     [{key: a, operator: Exists, values: [b]}]}}}",
                ),
            ],
        ),
        (
            "auth: set exactly one of bearer, basic, apiKey, header",
            vec![
                with("auth: {}"),
                with(
                    "auth: {basic: {valueFrom: {secretRef: {name: a}}}, bearer: {valueFrom: {secretKeyRef: {name: a, key: b}}}}",
                ),
            ],
        ),
        (
            "health.interval: must be at least 100ms",
            vec![with("health: {interval: 99ms}")],
        ),
        (
            "health.timeout: must be greater than 0s",
            vec![with("health: {timeout: 0s}")],
        ),
        (
            "models.discovery.interval: must be at least 1s",
            vec![with("models: {discovery: {interval: 999ms}}")],
        ),
        (
            "spec.circuitBreaker: engine sherpa has no circuit breaker; use engine olla",
            routed(&["{engine: sherpa, circuitBreaker: {}}"]),
        ),
        (
            "circuitBreaker.minRequests: has no effect without failurePercent",
            routed(&["{circuitBreaker: {minRequests: 5}}"]),
        ),
        (
            "circuitBreaker.openFor: must be greater than 0s",
            routed(&["{circuitBreaker: {openFor: 0s}}"]),
        ),
        (
            "endpoints: set refs, selector or both; omit endpoints to use all LlmEndpoints of the namespace",
            routed(&["{endpoints: {}}"]),
        ),
        (
            "timeouts: each must be greater than 0s; omit a timeout to use its default",
            routed(&[
                "{timeouts: {connect: 0s}}",
                "{timeouts: {firstToken: 0s}}",
                "{timeouts: {streamIdle: 0s}}",
                "{timeouts: {request: 0s}}",
            ]),
        ),
    ]
}

/// The messages of all rules below `schema`.
fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    let rules = schema["x-kubernetes-validations"].as_array();
    let told = rules.into_iter().flatten().map(|rule| &rule["message"]);
    found.extend(told.map(|message| message.as_str().unwrap_or("no message").to_owned()));
    match schema {
        Value::Object(members) => members.values().for_each(|part| messages(part, found)),
        Value::Array(items) => items.iter().for_each(|part| messages(part, found)),
        _ => {}
    }
}

#[test]
fn each_rule_of_the_kinds_refuses_with_its_message() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let mut rules = BTreeSet::new();
    for kind in ["llmendpoints.olla.dev", "ollaroutes.olla.dev"] {
        let crd = world.cluster().get_json(&["get", "crd", kind])?;
        messages(&crd["spec"]["versions"], &mut rules);
    }
    let tried: BTreeSet<String> = refused().iter().map(|(rule, _)| (*rule).into()).collect();
    assert_eq!(
        rules, tried,
        "a rule without an object here, or the reverse"
    );
    for (message, objects) in refused() {
        for yaml in objects {
            let told = tenant.apply(&yaml).expect_err(&yaml).to_string();
            assert!(told.contains(message), "{yaml}{told}");
            // Nothing else is wrong with it.
            let others = rules.iter().filter(|other| told.contains(other.as_str()));
            assert_eq!(others.count(), 1, "{yaml}{told}");
        }
    }
    Ok(())
}

#[test]
fn what_the_schema_forbids_is_refused_with_its_field() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    for (yaml, word) in [
        (with("priority: -1"), "spec.priority"),
        (
            with("auth: {basic: {valueFrom: {secretRef: {name: \"cloud,\"}}}}"),
            "spec.auth.basic.valueFrom.secretRef.name",
        ),
        (endpoint("a", "http://user:pass@host", ""), "spec.url"),
        (route("a", "{loadBalancer: random}"), "spec.loadBalancer"),
        (route("a", "{nonsense: true}"), "nonsense"),
    ] {
        let refused = tenant.apply(&yaml).expect_err(word);
        assert!(refused.to_string().contains(word), "{refused}");
    }
    Ok(())
}
