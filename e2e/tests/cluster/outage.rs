//! What breaks when the operator or a data plane dies? Nothing that a client sees.

use anyhow::{Result, ensure};
use e2e::{MockLlm, World, wait};

use crate::support::{MODEL, SOON, endpoint, route, served, wait_answer};

#[test]
fn data_planes_serve_on_without_the_operator_and_follow_it_when_it_is_back() -> Result<()> {
    let mut world = World::alone()?;
    let tenant = world.tenant()?;
    let (_base, first) = served(&tenant)?;
    let second = tenant.data_plane()?;
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;
    let before = tenant.wait_condition("ollaroutes/main", "Programmed", "True")?;

    world.kill_operator()?;
    let other = MockLlm::start("other", &[MODEL])?;
    tenant.apply(&endpoint("other", &other.url(), "  priority: 1\n"))?;
    for data_plane in [&first, &second] {
        let answerers = data_plane.client().answerers(MODEL, 20)?;
        assert!(answerers.iter().all(|name| name == "base"), "{answerers:?}");
    }

    world.start_operator()?;
    wait("both have the change", SOON, || {
        for data_plane in [&first, &second] {
            // Anything but a 200 on the way is a failure, not a "not yet".
            let answerer = data_plane
                .client()
                .answerer(MODEL)
                .expect("no client error");
            ensure!(answerer == "other", "{answerer} answers");
        }
        Ok(Some(()))
    })?;
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;
    let after = tenant.wait_condition("ollaroutes/main", "Programmed", "True")?;
    assert_eq!(
        after["lastTransitionTime"], before["lastTransitionTime"],
        "a restart of the operator is no news"
    );
    Ok(())
}

#[test]
fn a_data_plane_that_restarts_without_the_operator_serves_from_its_disk() -> Result<()> {
    let mut world = World::alone()?;
    let tenant = world.tenant()?;
    let (_base, mut data_plane) = served(&tenant)?;
    let guarded = MockLlm::start("guarded", &["guarded-model"])?;
    guarded.require("Bearer right");
    tenant.secret("key", &[("token", "right")])?;
    let auth = "  auth:\n    bearer: {valueFrom: {secretKeyRef: {name: key, key: token}}}\n";
    tenant.apply(&endpoint("guarded", &guarded.url(), auth))?;
    wait("the guarded one answers", SOON, || {
        data_plane.client().answerer("guarded-model").map(Some)
    })?;

    world.kill_operator()?;
    data_plane.kill9()?;
    let asked = guarded.seen().len();
    data_plane.restart()?;
    wait_answer(&data_plane, "base")?;
    assert_eq!(data_plane.origin()?, "disk");
    let reply = data_plane.client().chat("guarded-model")?;
    assert_ne!(reply.status, 200, "credentials are not kept on disk");
    assert_eq!(guarded.seen().len(), asked, "asked without its credential");

    world.start_operator()?;
    wait("the guarded one answers again", SOON, || {
        data_plane.client().answerer("guarded-model").map(Some)
    })?;
    assert_eq!(data_plane.origin()?, "operator");
    Ok(())
}

#[test]
fn a_data_plane_that_is_killed_comes_back_beside_its_sibling() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, mut first) = served(&tenant)?;
    let second = tenant.data_plane()?;
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;
    first.kill9()?;
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;
    tenant.apply(&route("main", "{loadBalancer: round_robin}"))?;
    wait_answer(&second, "base")?;
    first.restart()?;
    wait_answer(&first, "base")?;
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;
    Ok(())
}

#[test]
fn a_data_plane_that_hangs_is_counted_no_longer() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, mut first) = served(&tenant)?;
    let _second = tenant.data_plane()?;
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;
    first.freeze()?;
    tenant.apply(&route("main", "{loadBalancer: round_robin}"))?;
    tenant.wait_message("ollaroutes/main", "Programmed", "False", "1 of 2")?;
    // It answers no ping: ten seconds until the next one, twenty for its answer.
    wait("one is left", 3 * SOON, || {
        tenant
            .wait_message("ollaroutes/main", "Programmed", "True", "all connected")
            .map(Some)
    })?;
    first.thaw()?;
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;
    wait_answer(&first, "base")
}

#[test]
fn a_frozen_operator_holds_up_changes_and_nothing_else() -> Result<()> {
    let mut world = World::alone()?;
    let tenant = world.tenant()?;
    let (_base, data_plane) = served(&tenant)?;
    world.freeze_operator()?;
    let other = MockLlm::start("other", &[MODEL])?;
    let applied = tenant.apply(&endpoint("other", &other.url(), "  priority: 1\n"));
    let answerers = data_plane.client().answerers(MODEL, 20);
    // Thawed in any case, or the tests after this one would wait for it.
    world.thaw_operator()?;
    applied?;
    let answerers = answerers?;
    assert!(answerers.iter().all(|name| name == "base"), "{answerers:?}");
    wait_answer(&data_plane, "other")
}

#[test]
fn an_api_server_that_goes_away_and_returns_is_nothing_to_clients() -> Result<()> {
    let world = World::alone()?;
    let tenant = world.tenant()?;
    let (base, data_plane) = served(&tenant)?;
    let spare = MockLlm::start("spare", &[MODEL])?;
    tenant.apply(&endpoint("spare", &spare.url(), "  priority: 20\n"))?;
    tenant.wait_condition("llmendpoints/spare", "Ready", "True")?;
    let client = data_plane.client();
    world.cluster().without_api_server(|| {
        let answerers = client.answerers(MODEL, 20)?;
        ensure!(answerers.iter().all(|name| name == "base"), "{answerers:?}");
        base.kill()?;
        let answerers = client.answerers(MODEL, 20)?;
        ensure!(
            answerers.iter().all(|name| name == "spare"),
            "{answerers:?}"
        );
        Ok(())
    })?;
    let next = MockLlm::start("next", &[MODEL])?;
    tenant.apply(&endpoint("next", &next.url(), "  priority: 1\n"))?;
    wait_answer(&data_plane, "next")?;
    tenant.wait_condition("llmendpoints/next", "Ready", "True")?;
    tenant.wait_condition("llmendpoints/base", "Ready", "False")?;
    Ok(())
}
