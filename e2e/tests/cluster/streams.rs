//! What becomes of an answer that is under way when somebody leaves, dies, hangs or stops?

use anyhow::{Result, ensure};
use e2e::mock_llm::Mode;
use e2e::{MockLlm, World, wait};

use crate::support::{MODEL, SOON, endpoint, route, served, wait_answer};

#[test]
fn a_client_that_leaves_ends_the_backends_work_and_counts_as_no_failure() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (backend, data_plane) = served(&tenant)?;
    backend.hold();
    let mut stream = data_plane.client().stream(MODEL)?;
    ensure!(stream.next_piece()?.is_some(), "it has begun");
    assert_eq!(backend.open_streams(), 1);
    drop(stream);
    wait("the backend is let off", SOON, || {
        Ok((backend.open_streams() == 0).then_some(()))
    })?;
    backend.release();
    let status = data_plane.status()?;
    assert_eq!(status["endpoints"][0]["failures"], 0, "{status}");
    assert_eq!(data_plane.client().answerer(MODEL)?, "base");
    Ok(())
}

#[test]
fn a_cut_stream_never_looks_finished() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (backend, data_plane) = served(&tenant)?;
    let spare = MockLlm::start("spare", &[MODEL])?;
    tenant.apply(&endpoint("spare", &spare.url(), "  priority: 20\n"))?;
    backend.hold();
    let mut stream = data_plane.client().stream(MODEL)?;
    let mut text = stream.next_piece()?.unwrap_or_default();
    backend.kill()?;
    let end = loop {
        match stream.next_piece() {
            Ok(Some(piece)) => text += &piece,
            end => break end,
        }
    };
    assert!(end.is_err(), "a clean end after: {text}");
    assert!(!text.contains("[DONE]"), "{text}");
    assert!(
        text.contains("\"error\""),
        "the client is not told why: {text}"
    );
    assert_eq!(spare.seen().len(), 0, "nobody answers twice");
    wait_answer(&data_plane, "spare")
}

#[test]
fn a_silent_backend_is_left_for_another_before_the_first_token() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (backend, data_plane) = served(&tenant)?;
    let spare = MockLlm::start("spare", &[MODEL])?;
    let hurried = route("main", "{timeouts: {firstToken: 300ms}}");
    tenant.apply(&(endpoint("spare", &spare.url(), "  priority: 20\n") + &hurried))?;
    tenant.wait_condition("ollaroutes/main", "Programmed", "True")?;
    wait("the spare one is known", SOON, || {
        let known = data_plane.instances()?;
        ensure!(known.contains(&("spare".to_owned(), true)), "{known:?}");
        Ok(Some(()))
    })?;
    backend.set_mode(Mode::Hang);
    let reply = data_plane.client().chat(MODEL)?.good()?;
    assert_eq!(reply.endpoint(), "spare");
    assert_eq!(reply.header("x-olla-attempts"), "2");
    Ok(())
}

#[test]
fn a_data_plane_that_is_told_to_stop_finishes_its_streams_first() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (backend, mut data_plane) = served(&tenant)?;
    backend.hold();
    let mut stream = data_plane.client().stream(MODEL)?;
    let mut text = stream.next_piece()?.unwrap_or_default();
    data_plane.terminate()?;
    wait("it takes no new connection", SOON, || {
        Ok(data_plane
            .client()
            .get("/internal/health")
            .err()
            .map(|_| ()))
    })?;
    backend.release();
    text += &stream.rest()?;
    assert!(text.contains("[DONE]"), "{text}");
    let status = data_plane.wait_exit()?;
    assert!(status.success(), "{status}");
    Ok(())
}
