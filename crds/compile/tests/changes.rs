//! A namespace that has seen changes means the same as one that begins with what is there now.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{collections::BTreeMap, sync::Arc};

use compile::{
    Form, Kind, Namespace, Verdicts,
    facts::{PodFact, ServicePort, SliceAddress, SliceFact, Unlisted},
    namespace::{Service, Slice},
};
use dataplane_protocol::{ResourceKey, RoutingTable, Secret};
use proptest::prelude::*;
use serde_json::{Value, json};

#[derive(Clone, Debug)]
enum Change {
    Endpoint(u8, Option<Value>),
    Route(u8, Option<Value>),
    Service(u8, Option<Service>),
    Slice(u8, Option<Slice>),
    Pod(u8, Option<PodFact>),
    Secret(u8, bool),
    Unlisted(Unlisted),
}

impl Change {
    /// What a later change of the same thing replaces.
    fn key(&self) -> (&'static str, u8) {
        match self {
            Self::Endpoint(n, _) => ("e", *n),
            Self::Route(n, _) => ("r", *n),
            Self::Service(n, _) => ("s", *n),
            Self::Slice(n, _) => ("l", *n),
            Self::Pod(n, _) => ("p", *n),
            Self::Secret(n, _) => ("k", *n),
            Self::Unlisted(_) => ("u", 0),
        }
    }

    fn make(&self, namespace: &mut Namespace) {
        let (kind, n) = self.key();
        let name = format!("{kind}{n}");
        match self {
            Self::Endpoint(_, spec) => {
                let form = spec
                    .as_ref()
                    .map(|spec| object("LlmEndpoint", &name, n, spec));
                let form =
                    form.map(|it| Form::Object(Arc::new(serde_json::from_value(it).unwrap())));
                namespace.set_endpoint(&name, form);
            }
            Self::Route(_, spec) => {
                let form = spec
                    .as_ref()
                    .map(|spec| object("OllaRoute", &name, n, spec));
                let form =
                    form.map(|it| Form::Object(Arc::new(serde_json::from_value(it).unwrap())));
                namespace.set_route(&name, form);
            }
            Self::Service(_, service) => {
                namespace.set_service(&name, service.clone());
            }
            Self::Slice(_, slice) => {
                namespace.set_slice(&name, slice.clone());
            }
            Self::Pod(_, pod) => {
                namespace.set_pod(&name, pod.clone());
            }
            Self::Secret(_, there) => {
                let values =
                    there.then(|| BTreeMap::from([("key".into(), Secret::new("value"))]).into());
                namespace.set_secret(&name, values);
            }
            Self::Unlisted(unlisted) => namespace.set_unlisted(unlisted.clone()),
        }
    }
}

/// The younger, the smaller the number; every third has labels.
fn object(kind: &str, name: &str, n: u8, spec: &Value) -> Value {
    let labels = match n % 3 {
        0 => json!({ "tier": "gold" }),
        _ => json!({}),
    };
    json!({
        "apiVersion": "olla.dev/v1alpha1", "kind": kind, "spec": spec,
        "metadata": {
            "name": name, "namespace": "a", "labels": labels, "generation": 1,
            "creationTimestamp": format!("2026-11-27T10:00:{:02}Z", 60 - n % 4 - 1),
        },
    })
}

fn endpoint() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({ "url": "http://x" }),
        json!({ "type": "vllm", "url": "http://y", "priority": 7 }),
        json!({ "type": "no such type", "url": "http://x" }),
        json!({ "service": { "name": "s0", "port": 80 } }),
        json!({ "service": { "name": "s1", "port": 80 } }),
        json!({ "podSelector": { "matchLabels": { "app": "a" }, "port": 80 } }),
        json!({ "podSelector": { "matchLabels": { "app": "b", "z": "z" }, "port": "http" } }),
        json!({ "podSelector": { "port": "http",
            "matchExpressions": [{ "key": "z", "operator": "DoesNotExist" }] } }),
        json!({ "podSelector": { "matchLabels": { "app": "b" }, "port": 80 },
            "auth": { "bearer": { "valueFrom": { "secretKeyRef": { "name": "k0", "key": "key" } } } } }),
        json!({ "url": "http://x", "auth": { "bearer": { "valueFrom": { "secretKeyRef": { "name": "k1", "key": "key" } } } } }),
    ])
}

fn route() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({}),
        json!({ "matches": [{ "pathPrefix": "/x" }] }),
        json!({ "matches": [{ "pathPrefix": "/x/" }], "endpoints": { "refs": [{ "name": "e0" }] } }),
        json!({ "matches": [{ "pathPrefix": "/y" }, { "pathPrefix": "/x" }],
            "endpoints": { "refs": [{ "name": "e1" }] } }),
        json!({ "matches": [{ "pathPrefix": "no path" }] }),
        json!({ "matches": [{ "pathPrefix": "/z" }, { "pathPrefix": "/z" }],
            "endpoints": { "selector": { "matchLabels": { "tier": "gold" } } } }),
    ])
}

fn service() -> impl Strategy<Value = Service> {
    prop::sample::select(vec![None, Some("IPv4"), Some("IPv6")]).prop_map(|family| Service {
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            tcp: true,
        }],
        external_name: None,
        family: family.map(Into::into),
    })
}

fn slice() -> impl Strategy<Value = Slice> {
    (0..2u8, any::<bool>(), 0..4u8, any::<bool>()).prop_map(|(service, four, at, ready)| Slice {
        service: format!("s{service}"),
        family: if four { "IPv4" } else { "IPv6" }.into(),
        slice: Arc::new(SliceFact {
            ports: [("http".into(), 8080)].into(),
            addresses: vec![SliceAddress {
                ip: format!("10.0.0.{at}"),
                ready,
                pod: Some(format!("p{at}")),
            }],
        }),
    })
}

fn pod() -> impl Strategy<Value = PodFact> {
    (any::<bool>(), any::<bool>(), 0..3u8, any::<bool>()).prop_map(|(a, z, at, ready)| {
        let app = if a { "a" } else { "b" };
        let mut labels: BTreeMap<String, String> = [("app".into(), app.into())].into();
        if z {
            labels.insert("z".into(), "z".into());
        }
        PodFact {
            labels,
            ip: if at == 0 {
                String::new()
            } else {
                format!("10.1.0.{at}")
            },
            ready,
            ports: z.then(|| ("http".into(), 8080)).into_iter().collect(),
        }
    })
}

fn unlisted() -> impl Strategy<Value = Unlisted> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(services, pods, secret)| Unlisted {
        services,
        pods,
        secrets: secret.then(|| "k0".to_owned()).into_iter().collect(),
    })
}

fn change() -> impl Strategy<Value = Change> {
    let some = |strategy: BoxedStrategy<Value>| prop::option::weighted(0.8, strategy);
    prop_oneof![
        3 => (0..4u8, some(endpoint().boxed())).prop_map(|(n, it)| Change::Endpoint(n, it)),
        3 => (0..4u8, some(route().boxed())).prop_map(|(n, it)| Change::Route(n, it)),
        1 => (0..2u8, prop::option::of(service())).prop_map(|(n, it)| Change::Service(n, it)),
        2 => (0..4u8, prop::option::of(slice())).prop_map(|(n, it)| Change::Slice(n, it)),
        3 => (0..4u8, prop::option::of(pod())).prop_map(|(n, it)| Change::Pod(n, it)),
        1 => (0..2u8, any::<bool>()).prop_map(|(n, it)| Change::Secret(n, it)),
        1 => unlisted().prop_map(Change::Unlisted),
    ]
}

/// Without the routes that are to be kept: whether an older form of one was ever accepted is what
/// a namespace that begins cannot know.
fn table(namespace: &Namespace) -> RoutingTable {
    let mut table = namespace.resources().to_table("a");
    table
        .keep
        .retain(|key| !matches!(key, ResourceKey::Route(_)));
    table
}

fn all(verdicts: &Verdicts) -> Vec<compile::Verdict> {
    verdicts.values().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_changed_before_does_not_matter(
        steps in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..20),
    ) {
        let mut changed = Namespace::new(true);
        let mut last: BTreeMap<(&str, u8), Change> = BTreeMap::new();
        for step in steps {
            let (resources, verdicts) = (changed.resources().clone(), changed.verdicts().clone());
            for change in step {
                change.make(&mut changed);
                last.insert(change.key(), change);
            }
            let updated = changed.update();

            let mut new = Namespace::new(true);
            for change in last.values() {
                change.make(&mut new);
            }
            new.update();
            prop_assert_eq!(table(&changed), table(&new));
            prop_assert_eq!(all(changed.verdicts()), all(new.verdicts()));

            let difference = resources.difference(changed.resources());
            let told = resources.difference_at(changed.resources(), &updated.resources);
            prop_assert_eq!(difference, told);
            let names = (0..4u8).flat_map(|n| {
                [(Kind::LlmEndpoint, format!("e{n}")), (Kind::OllaRoute, format!("r{n}"))]
            });
            for name in names {
                let other = verdicts.get(&name) != changed.verdicts().get(&name);
                prop_assert!(!other || updated.verdicts.contains(&name), "{:?}", name);
            }
        }
    }
}
