//! An object's newest form and the one in use: which of them is served, and when neither is known.

use super::*;

fn at(generation: i64, uid: &str, spec: serde_json::Value) -> CachedObject {
    let mut item = endpoint("a", "e", spec);
    let ObjectData::Endpoint(Form::Object(object)) = &mut item.data else {
        panic!("no endpoint")
    };
    let object = Arc::make_mut(object);
    object.metadata.generation = Some(generation);
    object.metadata.uid = Some(uid.into());
    item
}

fn good(generation: i64) -> CachedObject {
    at(generation, "u", json!({ "url": "http://good" }))
}

fn undecodable(generation: i64) -> CachedObject {
    let object = Unreadable {
        kind: Kind::LlmEndpoint,
        name: "e".into(),
        uid: Some("u".into()),
        generation,
        labels: BTreeMap::new(),
        message: "spec: unknown variant".into(),
    };
    let data = ObjectData::Endpoint(Form::Unreadable(object.into()));
    item("a", "e", data)
}

/// Host of `e` in the table, if it is there, and its verdict.
fn judged(index: &mut Index) -> (Option<String>, compile::Verdict) {
    let compiled = compiled(index, "a");
    let host = compiled.table.instances.get("e");
    let host = host.and_then(|list| Some(list.first()?.host.clone()));
    (host, compiled.verdicts[0].clone())
}

fn problem(verdict: &compile::Verdict) -> String {
    verdict.accepted.clone().unwrap_err().to_string()
}

#[test]
fn an_invalid_edit_changes_nothing_but_its_own_status() {
    let bad = at(8, "u", json!({ "type": "vlm", "url": "http://bad" }));
    for (edit, why) in [
        (bad, "spec.type: `vlm` is not a known type"),
        (undecodable(8), "spec: unknown variant"),
    ] {
        let mut index = Index::default();
        index.apply(good(7));
        judged(&mut index);
        index.apply(edit);
        let (host, verdict) = judged(&mut index);
        assert_eq!(host.as_deref(), Some("good"));
        assert_eq!((verdict.generation, verdict.instances), (8, 1));
        assert_eq!(verdict.in_use, Some(7));
        let text = problem(&verdict);
        assert!(text.starts_with(why), "{text}");
        assert!(text.ends_with("; generation 7 remains in use"), "{text}");
        index.apply(at(9, "u", json!({ "url": "http://mended" })));
        let (host, verdict) = judged(&mut index);
        assert_eq!(host.as_deref(), Some("mended"));
        assert_eq!((verdict.accepted, verdict.in_use), (Ok(()), None));
    }
}

#[test]
fn an_object_that_was_never_accepted_is_in_no_table() {
    let mut index = Index::default();
    index.apply(undecodable(3));
    let (host, verdict) = judged(&mut index);
    assert_eq!((host, verdict.generation), (None, 3));
    assert_eq!(problem(&verdict), "spec: unknown variant");
}

#[test]
fn an_object_that_was_deleted_or_replaced_is_not_served_on() {
    let bad = |uid: &str| at(1, uid, json!({ "type": "vlm", "url": "http://bad" }));
    let mut index = Index::default();
    index.apply(good(1));
    judged(&mut index);
    index.apply(bad("another"));
    assert_eq!(judged(&mut index).0, None, "replaced between two looks");
    index.apply(good(2));
    judged(&mut index);
    index.delete(&Source::Endpoints, "a", "e");
    assert!(compiled(&mut index, "a").table.endpoints.is_empty());
    index.apply(bad("u"));
    assert_eq!(judged(&mut index).0, None);
}

/// What data planes are to do with what they hold of `e`: keep it, or let go of it.
fn is_kept(index: &mut Index) -> bool {
    let key = ResourceKey::Endpoint("e".into());
    compiled(index, "a").table.keep.contains(&key)
}

#[test]
fn what_data_planes_hold_of_a_deleted_object_is_not_kept_for_a_refused_one_of_its_name() {
    let bad = |uid: &str| at(1, uid, json!({ "type": "vlm", "url": "http://bad" }));
    let waiting = |uid: &str| {
        let pods = json!({ "matchLabels": { "app": "x" }, "port": 80 });
        at(1, uid, json!({ "podSelector": pods }))
    };
    let mut first_list = Index::default();
    first_list.reset(&Source::Endpoints, vec![bad("u")]);
    assert!(
        is_kept(&mut first_list),
        "another process may have accepted a form"
    );
    for form in [bad, waiting] {
        let begin = || {
            let mut index = Index::default();
            index.reset(&Source::Endpoints, vec![good(1)]);
            judged(&mut index);
            index
        };
        let mut deleted = begin();
        deleted.delete(&Source::Endpoints, "a", "e");
        deleted.apply(form("another"));
        assert!(!is_kept(&mut deleted), "in one look");
        let mut replaced = begin();
        replaced.reset(&Source::Endpoints, vec![form("another")]);
        assert!(!is_kept(&mut replaced), "by another list");
        let mut edited = begin();
        let mut unseen = form("another");
        if let ObjectData::Endpoint(Form::Object(object)) = &mut unseen.data {
            Arc::make_mut(object).metadata.generation = Some(2);
        }
        edited.reset(&Source::Endpoints, vec![unseen]);
        assert!(is_kept(&mut edited), "its first form may be in use");
        let mut new = Index::default();
        new.reset(&Source::Endpoints, vec![]);
        new.apply(form("another"));
        assert!(!is_kept(&mut new), "while a data plane was away");
    }
}

#[test]
fn what_the_form_in_use_needs_is_watched_until_another_is_accepted() {
    let pods = || json!({ "matchLabels": { "app": "x" }, "port": 80 });
    let mut index = Index::default();
    index.apply(at(1, "u", json!({ "podSelector": pods() })));
    compiled(&mut index, "a");
    index.apply(at(2, "u", json!({ "type": "vlm", "url": "http://bad" })));
    compiled(&mut index, "a");
    let needed: BTreeSet<_> = [Source::Pods("a".into())].into();
    assert_eq!(index.needs("a"), needed);
    index.apply(at(3, "u", json!({ "url": "http://good" })));
    assert_eq!(index.needs("a"), needed, "until it is looked at");
    compiled(&mut index, "a");
    assert!(index.needs("a").is_empty());
}

/// With a credential from this Secret.
fn keyed(secret: &str, target: &serde_json::Value) -> serde_json::Value {
    let key = json!({ "name": secret, "key": "token" });
    let mut spec = json!({ "auth": { "bearer": { "valueFrom": { "secretKeyRef": key } } } });
    for (field, value) in target.as_object().unwrap() {
        spec[field] = value.clone();
    }
    spec
}

/// The Secret has been listed; its value is its name.
fn list_secret(index: &mut Index, name: &str) {
    let values = BTreeMap::from([("token".to_owned(), Secret::new(name))]);
    let source = Source::Secret {
        namespace: "a".into(),
        name: name.into(),
    };
    let found = item("a", name, ObjectData::Secret(values.into()));
    index.reset(&source, vec![found]);
}

/// Hosts of `e`, and the credential that they get.
fn sent(index: &mut Index) -> (Vec<String>, String) {
    let table = compiled(index, "a").table;
    let hosts = table.instances["e"].iter().map(|it| it.host.clone());
    let credential = match &table.endpoints["e"].credential {
        Credential::Header { value, .. } => value.expose().to_owned(),
        other => panic!("{other:?}"),
    };
    (hosts.collect(), credential)
}

#[test]
fn while_a_list_is_out_the_form_before_stays_in_use_with_its_own_credential() {
    let pods = json!({ "podSelector": { "matchLabels": { "app": "x" }, "port": 80 } });
    let service = json!({ "service": { "name": "s", "port": 80 } });
    let old = json!({ "url": "http://old" });
    for (newer, listed) in [(&pods, "new"), (&service, "new"), (&old, "old")] {
        let mut index = Index::default();
        list_secret(&mut index, "old");
        index.apply(at(1, "u", keyed("old", &old)));
        assert_eq!(sent(&mut index), (vec!["old".into()], "Bearer old".into()));
        list_secret(&mut index, listed);
        index.apply(at(2, "u", keyed("new", newer)));
        // A second look changes nothing: the form that waits has not become the accepted one.
        for _ in 0..2 {
            assert_eq!(sent(&mut index), (vec!["old".into()], "Bearer old".into()));
            index.apply(url("a", "f"));
            let verdict = judged(&mut index).1;
            assert_eq!((verdict.generation, verdict.in_use), (2, Some(1)));
            let pending = verdict.resolved_refs.unwrap_err();
            assert_eq!(pending.reason, crds::Reason::Pending);
            let said = pending.to_string();
            assert!(said.ends_with("; generation 1 remains in use"), "{said}");
        }
        let needs = index.needs("a");
        let waits = needs.iter().filter(|it| !index.listed.contains(it));
        for source in waits.cloned().collect::<Vec<_>>() {
            index.reset(&source, vec![]);
        }
        let verdict = judged(&mut index).1;
        assert_eq!((verdict.generation, verdict.in_use), (2, None));
    }
}

#[test]
fn an_endpoint_whose_list_is_out_and_of_which_no_older_form_is_known_is_kept_whole() {
    let mut index = Index::default();
    list_secret(&mut index, "new");
    let pods = json!({ "podSelector": { "matchLabels": { "app": "x" }, "port": 80 } });
    index.apply(at(2, "u", keyed("new", &pods)));
    let table = compiled(&mut index, "a").table;
    assert!(table.endpoints.is_empty(), "its credential is for the pods");
    let whole = ["e"].map(|e| {
        [
            ResourceKey::Endpoint(e.into()),
            ResourceKey::Instances(e.into()),
        ]
    });
    assert_eq!(table.keep, whole.concat().into_iter().collect());
}

fn route(name: &str, generation: i64, prefix: &str) -> CachedObject {
    let object = json!({
        "apiVersion": "olla.dev/v1alpha1", "kind": "OllaRoute",
        "metadata": { "namespace": "a", "name": name, "generation": generation },
        "spec": { "matches": [{ "pathPrefix": prefix }] },
    });
    let route = serde_json::from_value(object).unwrap();
    item("a", name, ObjectData::Route(Form::Object(Arc::new(route))))
}

#[test]
fn after_a_restart_a_route_that_lost_its_requests_is_kept_only_if_it_was_edited() {
    // Data planes may have its first form, which lost nothing.
    let mut index = Index::default();
    index.apply(route("one", 1, "/one"));
    index.apply(route("two", 2, "/one"));
    let kept = compiled(&mut index, "a").table.keep;
    assert_eq!(kept, [ResourceKey::Route("two".into())].into());
    // They may have this form, which lost its requests to an edit that no operator saw happen.
    let mut index = Index::default();
    index.apply(route("one", 2, "/one"));
    index.apply(route("two", 1, "/one"));
    let after = compiled(&mut index, "a");
    assert!(after.table.keep.is_empty(), "{:?}", after.table.keep);
    assert_eq!(after.table.routes.len(), 1);
}

#[test]
fn after_a_restart_no_younger_route_takes_over_while_an_older_one_s_form_in_use_is_not_known() {
    let mut index = Index::default();
    let lost = |generation| ObjectStatus {
        conditions: vec![Condition {
            type_: condition::ACCEPTED.into(),
            status: "False".into(),
            reason: "Conflicted".into(),
            message: String::new(),
            observed_generation: Some(generation),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }],
        ..ObjectStatus::default()
    };
    // Data planes use an earlier form of `one`, which takes `/one`.
    index.apply(route("one", 2, "no path"));
    index.note_status("a", "two", &lost(1));
    index.apply(route("two", 1, "/one"));
    // Its conflict was of an older generation of it.
    index.note_status("a", "three", &lost(1));
    index.apply(route("three", 2, "/three"));
    let used = |index: &mut Index| -> Vec<String> {
        let routes = compiled(index, "a").table.routes;
        routes.iter().map(|it| it.id.as_str().to_owned()).collect()
    };
    assert_eq!(used(&mut index), ["three"]);
    let said = problem(&compiled(&mut index, "a").verdicts[2]);
    assert!(said.contains("OllaRoute `one`"), "{said}");
    index.apply(route("one", 3, "/another"));
    assert_eq!(used(&mut index), ["one", "three", "two"]);
    // From now on its own forms are known.
    index.apply(route("one", 4, "no path"));
    assert_eq!(used(&mut index), ["one", "three", "two"]);
}

#[test]
fn a_route_that_was_edited_into_another_s_way_keeps_its_own() {
    let mut index = Index::default();
    index.apply(route("one", 1, "/one"));
    index.apply(route("two", 1, "/two"));
    compiled(&mut index, "a");
    index.apply(route("two", 2, "/one"));
    let both = compiled(&mut index, "a");
    assert_eq!(both.table.routes.len(), 2);
    let two = &both.verdicts[1];
    assert_eq!((two.generation, two.in_use), (2, Some(1)));
    // The one in use gives way as any other would.
    index.apply(route("three", 1, "/two"));
    index.apply(route("another", 1, "/two"));
    let compiled = compiled(&mut index, "a");
    let used: Vec<_> = compiled
        .table
        .routes
        .iter()
        .map(|r| r.id.as_str())
        .collect();
    assert_eq!(used, ["another", "one"]);
    assert!(
        compiled
            .verdicts
            .iter()
            .all(|verdict| verdict.in_use.is_none())
    );
}
