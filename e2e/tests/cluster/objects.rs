//! What does a user see who applies something, right or wrong? Conditions, columns, events,
//! `kubectl explain`; and traffic that goes on as it was.

use anyhow::{Result, ensure};
use e2e::{MockLlm, World, wait};
use serde_json::{Value, json};

use crate::support::{MODEL, SOON, endpoint, route, served, wait_answer, wait_event};

#[test]
fn an_unknown_type_says_which_are_known_and_disturbs_nobody() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (base, data_plane) = served(&tenant)?;
    // It would be preferred, if it were accepted.
    let wrong = endpoint("wrong", &base.url(), "  priority: 1\n").replace("openai", "olama");
    tenant.apply(&wrong)?;
    let accepted = tenant.wait_condition("llmendpoints/wrong", "Accepted", "False")?;
    assert_eq!(accepted["reason"], "UnknownType", "{accepted}");
    let message = accepted["message"].to_string();
    for known in ["`olama`", "ollama", "vllm", "litellm"] {
        assert!(message.contains(known), "{message}");
    }
    wait_event(&tenant, "wrong", "UnknownType", "olama")?;
    let answerers = data_plane.client().answerers(MODEL, 5)?;
    assert!(answerers.iter().all(|name| name == "base"), "{answerers:?}");

    tenant.patch("llmendpoints/wrong", &json!({"spec": {"type": "openai"}}))?;
    tenant.wait_condition("llmendpoints/wrong", "Accepted", "True")?;
    wait_answer(&data_plane, "wrong")
}

#[test]
fn a_reference_to_nothing_is_named_and_the_others_serve() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, data_plane) = served(&tenant)?;
    tenant.apply(&route(
        "main",
        "{endpoints: {refs: [{name: base}, {name: nowhere}]}}",
    ))?;
    let refs = tenant.wait_condition("ollaroutes/main", "ResolvedRefs", "False")?;
    assert_eq!(refs["reason"], "EndpointNotFound", "{refs}");
    assert!(refs["message"].to_string().contains("nowhere"), "{refs}");
    tenant.wait_condition("ollaroutes/main", "Programmed", "True")?;
    let answerers = data_plane.client().answerers(MODEL, 5)?;
    assert!(answerers.iter().all(|name| name == "base"), "{answerers:?}");

    let late = MockLlm::start("nowhere", &[MODEL])?;
    tenant.apply(&endpoint("nowhere", &late.url(), "  priority: 1\n"))?;
    tenant.wait_condition("ollaroutes/main", "ResolvedRefs", "True")?;
    wait_answer(&data_plane, "nowhere")
}

#[test]
fn a_change_is_programmed_when_all_data_planes_have_it() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, _first) = served(&tenant)?;
    let mut second = tenant.data_plane()?;
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;

    tenant.apply(&route("main", "{loadBalancer: round_robin}"))?;
    let generation = tenant.object("ollaroutes/main")?["metadata"]["generation"].clone();
    assert_eq!(generation, 2);
    for type_ in ["Accepted", "ResolvedRefs", "Programmed"] {
        let condition = tenant.wait_condition("ollaroutes/main", type_, "True")?;
        assert_eq!(condition["observedGeneration"], generation, "{condition}");
    }
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;
    wait("the status speaks of it", SOON, || {
        let status = tenant.object("ollaroutes/main")?["status"].take();
        ensure!(status["observedGeneration"] == generation, "{status}");
        Ok(Some(()))
    })?;
    second.kill9()?;
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;
    Ok(())
}

#[test]
fn kubectl_get_answers_the_first_question_in_its_columns() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, _data_plane) = served(&tenant)?;
    tenant.wait_condition("llmendpoints/base", "Ready", "True")?;
    tenant.wait_condition("ollaroutes/main", "Ready", "True")?;
    tenant.apply(&route(
        "alone",
        "{matches: [{pathPrefix: /alone}], endpoints: {selector: {matchLabels: {a: b}}}}",
    ))?;
    tenant.wait_message(
        "ollaroutes/alone",
        "Ready",
        "False",
        "no accepted LlmEndpoint",
    )?;
    tenant.kubectl(&["delete", "olr", "alone"])?;
    let words = |text: &str| -> Vec<Vec<String>> {
        let lines = text.lines().filter(|line| !line.is_empty());
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        lines.map(words).collect()
    };
    let text = tenant.kubectl(&["get", "llmep"])?;
    let lines = words(&text);
    let head = [
        "NAME",
        "TYPE",
        "PRIORITY",
        "ACCEPTED",
        "READY",
        "INSTANCES",
        "MESSAGE",
        "AGE",
    ];
    assert_eq!(lines[0], head, "{text}");
    assert_eq!(
        lines[1][..6],
        ["base", "openai", "10", "True", "True", "1/1"],
        "{text}"
    );

    let text = tenant.kubectl(&["get", "olr"])?;
    let lines = words(&text);
    let head = [
        "NAME",
        "ENGINE",
        "BALANCER",
        "ACCEPTED",
        "PROGRAMMED",
        "READY",
        "MESSAGE",
        "AGE",
    ];
    assert_eq!(lines[0], head, "{text}");
    assert_eq!(
        lines[1][..6],
        ["main", "olla", "priority", "True", "True", "True"],
        "{text}"
    );
    assert!(text.contains("has a ready address"), "{text}");

    let both = tenant.kubectl(&["get", "olla", "-o", "name"])?;
    assert!(both.contains("llmendpoint.olla.dev/base"), "{both}");
    assert!(both.contains("ollaroute.olla.dev/main"), "{both}");
    Ok(())
}

#[test]
fn kubectl_explain_prints_units_and_defaults() -> Result<()> {
    let world = World::shared()?;
    let cluster = world.cluster();
    for (field, words) in [
        (
            "llmep.spec.priority",
            "form a tier and share its traffic. Default 100.",
        ),
        ("llmep.spec.health.interval", "Default 10s"),
        ("olr.spec.circuitBreaker.openFor", "Default 30s"),
        ("olr.spec.timeouts.firstToken", "Default 120s"),
    ] {
        // The API server publishes the schema of a new kind a moment after it serves the kind.
        let text = wait(&format!("kubectl explains {field}"), SOON, || {
            cluster.kubectl(&["explain", field]).map(Some)
        })?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "{text}");
    }
    Ok(())
}

#[test]
fn the_installed_kinds_are_those_of_the_operator() -> Result<()> {
    let world = World::shared()?;
    let cluster = world.cluster();
    let printed = e2e::process::ours("olla-operator", ["crds"])?.output()?;
    let printed = String::from_utf8(printed.stdout)?;
    let crds: Vec<Value> = serde_saphyr::from_multiple(&printed)?;
    assert_eq!(crds.len(), 3);
    for crd in crds {
        let name = crd["metadata"]["name"].as_str().unwrap_or_default();
        let installed = cluster.get_json(&["get", "crd", name])?;
        for part in ["schema", "additionalPrinterColumns"] {
            let version = |crd: &Value| plain_numbers(&crd["spec"]["versions"][0][part]);
            let (ours, theirs) = (version(&crd), version(&installed));
            assert!(ours == theirs, "{name}: {part}: {ours}\n{theirs}");
        }
    }
    Ok(())
}

/// The API server writes a bound of 100.0 as 100.
fn plain_numbers(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| (key.clone(), plain_numbers(value)))
            .collect(),
        Value::Array(items) => items.iter().map(plain_numbers).collect(),
        Value::Number(number) => json!(number.as_f64()),
        other => other.clone(),
    }
}

#[test]
fn a_deleted_endpoint_and_route_are_gone_from_traffic() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, data_plane) = served(&tenant)?;
    let other = MockLlm::start("other", &[MODEL])?;
    tenant.apply(&endpoint("other", &other.url(), "  priority: 1\n"))?;
    wait_answer(&data_plane, "other")?;
    tenant.kubectl(&["delete", "llmep", "other"])?;
    wait_answer(&data_plane, "base")?;
    tenant.kubectl(&["delete", "olr", "main"])?;
    wait("nothing is routed", SOON, || {
        let reply = data_plane.client().chat(MODEL)?;
        ensure!(reply.status == 404, "{reply:?}");
        Ok(Some(()))
    })
}

#[test]
fn an_object_that_no_longer_fits_its_kind_does_not_stop_the_others() -> Result<()> {
    let world = World::alone()?;
    let tenant = world.tenant()?;
    let (base, data_plane) = served(&tenant)?;
    let api = world.cluster().api();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/llmendpoints.olla.dev";
    let good = api.get(path)?.unwrap_or_default()["spec"]["versions"].take();
    let mut loose = good.clone();
    loose[0]["schema"] = json!({"openAPIV3Schema": {
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
    }});
    // As if written by an older release with another schema.
    api.patch(path, &json!({"spec": {"versions": loose}}))?;
    let (broken, worse) = (
        endpoint("broken", &base.url(), "  priority: high\n"),
        // Here the kind's own rules cannot even be evaluated.
        endpoint("worse", "5", ""),
    );
    let created = wait("the loose schema holds", SOON, || {
        tenant.apply(&(broken.clone() + &worse)).map(Some)
    });
    api.patch(path, &json!({"spec": {"versions": good}}))?;
    created?;
    let nonsense = endpoint("nonsense", "http://10.88.0.1:1", "  priority: high\n");
    wait("the real schema holds again", SOON, || {
        Ok(tenant.apply(&nonsense).is_err().then_some(()))
    })?;

    let accepted = tenant.wait_condition("llmendpoints/broken", "Accepted", "False");
    let next = MockLlm::start("next", &[MODEL])?;
    tenant.apply(&endpoint("next", &next.url(), "  priority: 1\n"))?;
    wait_answer(&data_plane, "next")?;
    next.kill()?;
    wait_answer(&data_plane, "base")?;
    assert!(!base.seen().is_empty());
    let accepted = accepted?;
    assert_eq!(accepted["reason"], "Undecodable", "{accepted}");
    // The API server may take no status for such a one, so that only its Event can tell.
    wait_event(&tenant, "worse", "Undecodable", "expected a string")?;
    tenant.kubectl(&["delete", "llmep", "broken", "worse"])?;
    Ok(())
}
