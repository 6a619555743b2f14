//! Any pod in, a valid pod out; a second time changes nothing; what the pod said stays.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use injection::{CONTAINER, Decision, LABEL, decide};
use k8s_openapi::api::core::v1::Pod;
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};
use serde_json::{Map, Value, json};
use support::{patched, settings};

fn maybe(strategy: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    prop_oneof![3 => strategy, 1 => Just(Value::Null)].boxed()
}

fn words(of: &'static [&'static str]) -> BoxedStrategy<Value> {
    select(of).prop_map(Value::from).boxed()
}

/// With the names that a stranger could choose so that they meet ours.
fn variable() -> impl Strategy<Value = Value> {
    let names = &[
        "OPENAI_BASE_URL",
        "OPENAI_API_KEY",
        "OLLAMA_HOST",
        "LEVEL",
        "POD_NAME",
    ];
    let values = &["", "olla", "http://127.0.0.1:40114", "https://example.com"];
    (words(names), maybe(words(values))).prop_map(|(name, value)| match value {
        Value::Null => json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": "x" } } }),
        value => json!({ "name": name, "value": value }),
    })
}

fn container() -> impl Strategy<Value = Value> {
    const PORTS: [u16; 5] = [80, 11434, 40113, 40114, 40115];
    let port = (select(&PORTS[..]), maybe(words(&["TCP", "UDP"]))).prop_map(|(port, protocol)| {
        object([("containerPort", json!(port)), ("protocol", protocol)])
    });
    let source = maybe(words(&["", "DB_", "OLLAMA_", "OPENAI_B"]))
        .prop_map(|prefix| object([("prefix", prefix), ("configMapRef", json!({"name": "c"}))]));
    (
        maybe(vec(variable(), 0..3).prop_map(Value::from)),
        maybe(vec(source, 0..2).prop_map(Value::from)),
        maybe(vec(port, 0..2).prop_map(Value::from)),
        maybe(words(&["Always"])),
    )
        .prop_map(|(env, env_from, ports, restart)| {
            object([
                ("image", json!("i")),
                ("env", env),
                ("envFrom", env_from),
                ("ports", ports),
                ("restartPolicy", restart),
            ])
        })
}

/// Without the members that are null.
fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let members = members.into_iter().filter(|(_, value)| !value.is_null());
    let members = members.map(|(name, value)| (name.to_owned(), value));
    Value::Object(members.collect())
}

/// Each with a name of its own.
fn containers(prefix: &'static str, least: usize) -> BoxedStrategy<Value> {
    vec((container(), proptest::bool::weighted(0.05)), least..4)
        .prop_map(move |containers| {
            let mut taken = false;
            let named = containers
                .into_iter()
                .enumerate()
                .map(|(n, (mut c, ours))| {
                    let ours = ours && !std::mem::replace(&mut taken, ours);
                    c["name"] = if ours {
                        CONTAINER.into()
                    } else {
                        format!("{prefix}-{n}").into()
                    };
                    c
                });
            named.collect::<Vec<_>>().into()
        })
        .boxed()
}

fn volumes() -> BoxedStrategy<Value> {
    let names = &["data", "olla-sidecar-state", "olla-sidecar-operator"];
    proptest::sample::subsequence(names, 0..=3)
        .prop_map(|names| {
            let volumes = names
                .iter()
                .map(|name| json!({"name": name, "emptyDir": {}}));
            volumes.collect::<Vec<_>>().into()
        })
        .boxed()
}

fn annotations() -> BoxedStrategy<Value> {
    let names = &[
        injection::START_WITHOUT_TABLE_AFTER,
        injection::CPU_REQUEST,
        injection::CPU_LIMIT,
        injection::MEMORY_REQUEST,
        injection::MEMORY_LIMIT,
        injection::START_AFTER,
        injection::NOT_SET,
        "note",
    ];
    let values = &[
        "", "0", "1", "5m", "20Mi", "1e3", "3s", "init-0", "init-1", "?",
    ];
    btree_map(select(&names[..]), words(values), 0..5)
        .prop_map(|map| {
            map.into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<Map<_, _>>()
                .into()
        })
        .boxed()
}

prop_compose! {
    fn any_pod()(
        label in maybe(words(&["true", "true", "false", "yes"])),
        annotations in maybe(annotations()),
        init in maybe(containers("init", 0)),
        containers in containers("app", 1),
        volumes in maybe(volumes()),
        host_network in proptest::bool::weighted(0.1),
        os in maybe(words(&["linux", "linux", "windows"])),
        pod_resources in proptest::bool::weighted(0.2),
    ) -> Value {
        let labels = match label {
            Value::Null => Value::Null,
            label => json!({ LABEL: label }),
        };
        let spec = object([
            ("initContainers", init),
            ("containers", containers),
            ("volumes", volumes),
            ("hostNetwork", if host_network { json!(true) } else { Value::Null }),
            ("os", if os.is_null() { os } else { json!({ "name": os }) }),
            ("resources", if pod_resources { json!({"limits": {"cpu": "1"}}) } else { Value::Null }),
            ("someFieldOfTheFuture", json!({ "kept": [1.5, null] })),
        ]);
        object([
            ("apiVersion", json!("v1")),
            ("kind", json!("Pod")),
            ("metadata", object([("name", json!("p")), ("labels", labels), ("annotations", annotations)])),
            ("spec", spec),
        ])
    }
}

fn namespace(opted_in: bool) -> BTreeMap<String, String> {
    let label = opted_in.then(|| (LABEL.to_owned(), "true".to_owned()));
    label.into_iter().collect()
}

/// What the API server would say about what we added.
fn assert_valid(before: &Value, text: &Value) {
    let pod: Pod = serde_json::from_value(text.clone()).unwrap();
    let spec = pod.spec.unwrap();
    let init = spec.init_containers.unwrap_or_default();
    let volumes = spec.volumes.unwrap_or_default();
    unique(volumes.iter().map(|volume| &volume.name), text);
    unique(init.iter().chain(&spec.containers).map(|c| &c.name), text);
    for container in init.iter().filter(|c| c.name == CONTAINER) {
        for mount in container.volume_mounts.iter().flatten() {
            assert!(volumes.iter().any(|v| v.name == mount.name), "{text}");
        }
    }
    for container in init.iter().chain(&spec.containers) {
        let own = containers_of(before).find(|own| own["name"] == *container.name);
        let own = own.and_then(|own| own["env"].as_array());
        for name in [
            "OPENAI_BASE_URL",
            "OPENAI_API_BASE",
            "OPENAI_API_KEY",
            "OLLAMA_HOST",
        ] {
            let now = container.env.iter().flatten();
            let now = now.filter(|variable| variable.name == name).count();
            let own = own.into_iter().flatten();
            let own = own.filter(|variable| variable["name"] == name).count();
            // A stranger may have it twice; we add none to one that is there.
            assert!(now == own || (own, now) == (0, 1), "{name}: {text}");
        }
    }
}

fn containers_of(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    lists.into_iter().flatten().flatten()
}

fn unique<'a>(names: impl Iterator<Item = &'a String>, pod: &Value) {
    let mut seen = BTreeSet::new();
    for name in names {
        assert!(seen.insert(name), "{name} twice: {pod}");
    }
}

/// What is in `after` and was in `before`, with what was added taken out: lists may have grown,
/// maps have more members, nothing else differs.
fn assert_kept(before: &Value, after: &Value, path: &str) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                // Ours to write.
                if name != injection::NOT_SET {
                    assert_kept(value, &after[name], &format!("{path}/{name}"));
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            let mut rest = after.iter();
            for value in before {
                let name = &value["name"];
                let same = |it: &&Value| it["name"] == *name;
                let found = if name.is_null() {
                    rest.next()
                } else {
                    rest.find(same)
                };
                assert_kept(value, found.unwrap(), &format!("{path}[{name}]"));
            }
        }
        (before, after) => assert_eq!(before, after, "{path}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_pod_becomes_a_valid_pod_once_and_keeps_what_it_said(pod in any_pod(), opted_in: bool) {
        let labels = namespace(opted_in);
        let decision = decide(&pod, &labels, &settings());
        let after = patched(&pod, &decision);
        assert_kept(&pod, &after, "");
        let Decision::Inject { .. } = decision else { return Ok(()) };
        assert_valid(&pod, &after);
        let init = after["spec"]["initContainers"].as_array().unwrap();
        prop_assert_eq!(init.iter().filter(|c| c["name"] == CONTAINER).count(), 1);
        prop_assert_eq!(decide(&after, &labels, &settings()), Decision::LeaveAlone);
    }

    #[test]
    fn what_is_no_pod_is_left_to_the_api_server(
        spec in prop_oneof![Just(Value::Null), Just(json!("x")), Just(json!({"containers": "x"}))]
    ) {
        let pod = json!({"metadata": {"labels": {LABEL: "true"}}, "spec": spec});
        prop_assert_eq!(decide(&pod, &namespace(true), &settings()), Decision::LeaveAlone);
    }
}
