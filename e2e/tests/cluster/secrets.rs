//! Who is let in, and what stays secret: credentials of backends, tokens of data planes, and what
//! one namespace learns of another.

use anyhow::{Result, ensure};
use e2e::{DataPlane, MockLlm, Tenant, World, wait};

use crate::support::{MODEL, SOON, endpoint, route, served};

const AUTH: &str = "  auth:\n    bearer: {valueFrom: {secretKeyRef: {name: key, key: token}}}\n";

/// All that people can look at: pages, logs, statuses, the table on disk.
fn visible(world: &World, tenant: &Tenant, data_plane: &DataPlane) -> Result<String> {
    let mut text = world.operator_logs()? + &data_plane.log_text()? + &data_plane.kept()?;
    text += &world.operator_metrics()?;
    for page in [
        "status",
        "status/endpoints",
        "status/models",
        "metrics",
        "explain?model=m",
    ] {
        text += &data_plane
            .admin()
            .get(&format!("/internal/{page}"))?
            .good()?
            .body;
    }
    text += &tenant.kubectl(&["get", "llmep,olr,events,configmaps", "-o", "yaml"])?;
    Ok(text)
}

#[test]
fn a_secret_reaches_the_backend_and_nobody_else() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (old, new) = ("sk-e2e-before-5d1f0c", "sk-e2e-after-77ab21");
    let backend = MockLlm::start("guarded", &[MODEL])?;
    backend.require(&format!("Bearer {old}"));
    tenant.secret("key", &[("token", old)])?;
    tenant.apply(&(endpoint("guarded", &backend.url(), AUTH) + &route("main", "{}")))?;
    let data_plane = tenant.data_plane()?;
    let client = data_plane.client();
    wait("the key opens", SOON, || client.answerer(MODEL).map(Some))?;

    let chat = serde_json::json!({"model": MODEL, "messages": []});
    let own = [
        ("authorization", "Bearer sk-client-own"),
        ("x-api-key", "sk-client-own"),
    ];
    client.post("/v1/chat/completions", &chat, &own)?.good()?;
    for seen in backend.seen() {
        assert_eq!(
            seen.header("authorization"),
            Some(&*format!("Bearer {old}"))
        );
        assert!(!format!("{:?}", seen.headers).contains("sk-client-own"));
    }

    backend.require(&format!("Bearer {new}"));
    tenant.secret("key", &[("token", new)])?;
    wait("the new key opens", SOON, || {
        client.answerer(MODEL).map(Some)
    })?;
    let visible = visible(&world, &tenant, &data_plane)?;
    for part in ["data plane", "\"guarded\"", "olla_", "kind: LlmEndpoint"] {
        assert!(visible.contains(part), "nothing was collected: no {part}");
    }
    for secret in [old, new, "sk-client-own"] {
        let at = visible.find(secret);
        let around = at.and_then(|at| visible.get(at.saturating_sub(300)..at));
        assert_eq!(around, None, "what precedes a leaked {secret}");
    }
    Ok(())
}

#[test]
fn each_kind_of_credential_arrives_in_its_header() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    tenant.secret(
        "key",
        &[("token", "t0k"), ("username", "ann"), ("password", "p:w")],
    )?;
    for (name, auth, header, value) in [
        (
            "bearer",
            "{bearer: {valueFrom: {secretKeyRef: {name: key, key: token}}}}",
            "authorization",
            "Bearer t0k",
        ),
        // ann:p:w
        (
            "basic",
            "{basic: {valueFrom: {secretRef: {name: key}}}}",
            "authorization",
            "Basic YW5uOnA6dw==",
        ),
        (
            "api-key",
            "{apiKey: {valueFrom: {secretKeyRef: {name: key, key: token}}}}",
            "x-api-key",
            "t0k",
        ),
        (
            "header",
            "{header: {name: X-Team-Key, valueFrom: {secretKeyRef: {name: key, key: token}}}}",
            "x-team-key",
            "t0k",
        ),
    ] {
        let backend = MockLlm::start(name, &[name])?;
        let auth = format!("  auth: {auth}\n");
        tenant.apply(&(endpoint(name, &backend.url(), &auth) + &route("main", "{}")))?;
        let data_plane = tenant.data_plane()?;
        let client = data_plane.client();
        wait(&format!("{name} answers"), SOON, || {
            client.answerer(name).map(Some)
        })?;
        let seen = backend.seen();
        assert_eq!(seen[0].header(header), Some(value), "{name}: {seen:?}");
    }
    Ok(())
}

#[test]
fn without_its_secret_an_endpoint_is_never_asked() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, data_plane) = served(&tenant)?;
    let guarded = MockLlm::start("guarded", &[MODEL])?;
    guarded.require("Bearer right");
    tenant.apply(&endpoint(
        "guarded",
        &guarded.url(),
        &format!("  priority: 1\n{AUTH}"),
    ))?;
    let refs = tenant.wait_condition("llmendpoints/guarded", "ResolvedRefs", "False")?;
    assert_eq!(refs["reason"], "SecretNotFound", "{refs}");
    let answerers = data_plane.client().answerers(MODEL, 5)?;
    assert!(answerers.iter().all(|name| name == "base"), "{answerers:?}");
    assert_eq!((guarded.seen().len(), guarded.probes()), (0, 0));

    tenant.secret("key", &[("token", "right")])?;
    tenant.wait_condition("llmendpoints/guarded", "ResolvedRefs", "True")?;
    crate::support::wait_answer(&data_plane, "guarded")
}

#[test]
fn endpoints_of_another_namespace_never_appear() -> Result<()> {
    let world = World::shared()?;
    let (ours, theirs) = (world.tenant()?, world.tenant()?);
    let (_base, data_plane) = served(&ours)?;
    let (_theirs, their_data_plane) = served(&theirs)?;
    let foreign = MockLlm::start("foreign", &[MODEL, "foreign-model"])?;
    theirs.apply(&endpoint("foreign", &foreign.url(), "  priority: 1\n"))?;
    crate::support::wait_answer(&their_data_plane, "foreign")?;

    // Naming it does not make it ours.
    ours.apply(&route(
        "main",
        "{endpoints: {refs: [{name: base}, {name: foreign}]}}",
    ))?;
    let refs = ours.wait_condition("ollaroutes/main", "ResolvedRefs", "False")?;
    assert_eq!(refs["reason"], "EndpointNotFound", "{refs}");
    ours.wait_condition("ollaroutes/main", "Programmed", "True")?;
    assert_eq!(data_plane.client().chat("foreign-model")?.status, 404);
    let answerers = data_plane.client().answerers(MODEL, 5)?;
    assert!(answerers.iter().all(|name| name == "base"), "{answerers:?}");
    let known = data_plane.status()?.to_string() + &data_plane.kept()?;
    assert!(!known.contains(&foreign.url()), "{known}");
    Ok(())
}

#[test]
fn a_token_of_another_audience_or_none_is_refused() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, _data_plane) = served(&tenant)?;
    let cluster = tenant.cluster();
    let foreign = cluster.token(tenant.namespace(), "default", "somebody-else")?;
    for (name, token) in [
        ("foreign", &*foreign),
        ("made-up", "abc.def.ghi"),
        ("empty", ""),
    ] {
        let name = format!("{}-{name}", tenant.namespace());
        let stranger = DataPlane::start_with_token(cluster, tenant.namespace(), &name, token)?;
        wait(&format!("{name} is refused"), SOON, || {
            let status = stranger.status()?;
            let problem = status["config"]["problem"].to_string();
            ensure!(problem.contains("401"), "{status}");
            Ok(Some(()))
        })?;
        assert_eq!(stranger.instances()?, []);
        assert_eq!(stranger.client().get("/internal/ready")?.status, 503);
        assert!(
            !stranger.log_text()?.contains(&foreign),
            "its token is in the log"
        );
    }
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;
    let logs = world.operator_logs()?;
    assert!(!logs.contains(&foreign), "a token is in the operator's log");
    Ok(())
}
