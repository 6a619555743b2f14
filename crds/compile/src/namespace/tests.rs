//! The bound on the instances of a namespace.

use crds::Reason;
use serde_json::json;

use super::*;

/// The `age`th endpoint, with all pods.
fn endpoint(name: &str, age: u32) -> Form<LlmEndpoint> {
    let object = json!({
        "apiVersion": "olla.dev/v1alpha1", "kind": "LlmEndpoint",
        "metadata": { "name": name, "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z") },
        "spec": { "podSelector": { "matchLabels": { "app": "a" }, "port": 80 } },
    });
    Form::Object(serde_json::from_value(object).unwrap())
}

fn set_pod(namespace: &mut Namespace, at: u8, ready: bool) {
    let pod = PodFact {
        labels: [("app".to_owned(), "a".to_owned())].into(),
        ip: format!("10.0.0.{at}"),
        ready,
        ports: [].into(),
    };
    namespace.set_pod(&format!("p{at}"), Some(pod));
}

/// Six pods and room for ten instances.
fn crowded() -> Namespace {
    let mut namespace = Namespace::new(true);
    namespace.most_instances = 10;
    (1..=6).for_each(|at| set_pod(&mut namespace, at, true));
    namespace
}

/// How many instances each endpoint has, as the table has it.
fn counts(namespace: &Namespace, names: &[&str]) -> Vec<usize> {
    let table = namespace.resources().to_table("a");
    let count = |name: &&str| table.instances.get(*name).map_or(0, |list| list.len());
    names.iter().map(count).collect()
}

fn is_cut(namespace: &Namespace, name: &str) -> bool {
    let verdict = &namespace.verdicts[&(Kind::LlmEndpoint, name.to_owned())];
    matches!(&verdict.resolved_refs, Err(problem) if problem.reason == Reason::TooLarge)
}

#[test]
fn the_endpoints_that_were_there_first_have_room_for_all_of_their_pods() {
    let names = ["a", "b", "c"];
    let mut one_by_one = crowded();
    for (age, name) in [(1, "c"), (2, "b"), (3, "a")] {
        one_by_one.set_endpoint(name, Some(endpoint(name, age)));
        one_by_one.update();
    }
    let mut after_a_restart = crowded();
    for (age, name) in [(3, "a"), (1, "c"), (2, "b")] {
        after_a_restart.set_endpoint(name, Some(endpoint(name, age)));
    }
    after_a_restart.update();
    for namespace in [one_by_one, after_a_restart] {
        assert_eq!(counts(&namespace, &names), [0, 4, 6]);
        let cut = names.map(|name| is_cut(&namespace, name));
        assert_eq!(cut, [true, true, false]);
    }
}

#[test]
fn room_that_becomes_free_is_used_and_a_pod_too_many_takes_none_from_others() {
    let mut namespace = crowded();
    for (age, name) in [(1, "a"), (2, "b")] {
        namespace.set_endpoint(name, Some(endpoint(name, age)));
        namespace.update();
    }
    assert_eq!(counts(&namespace, &["a", "b"]), [6, 4]);
    set_pod(&mut namespace, 6, false);
    namespace.update();
    assert_eq!(counts(&namespace, &["a", "b"]), [5, 5]);
    assert!(!is_cut(&namespace, "b"));
    set_pod(&mut namespace, 6, true);
    namespace.update();
    let counts_now = counts(&namespace, &["a", "b"]);
    assert_eq!(counts_now.iter().sum::<usize>(), 10, "{counts_now:?}");
    namespace.set_endpoint("a", None);
    namespace.update();
    assert_eq!(counts(&namespace, &["a", "b"]), [0, 6]);
    assert!(!is_cut(&namespace, "b"));
}
