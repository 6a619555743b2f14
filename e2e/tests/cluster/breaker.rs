//! Does an endpoint's own `kubectl describe` tell that data planes stopped sending to it, and that
//! they do again?

use anyhow::Result;
use e2e::mock_llm::Mode;
use e2e::{MockLlm, World, wait};

use crate::support::{MODEL, SOON, endpoint, route, wait_answer, wait_event};

#[test]
fn a_breaker_that_opens_and_closes_is_an_event_of_its_endpoint() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (weak, spare) = (
        MockLlm::start("weak", &[MODEL])?,
        MockLlm::start("spare", &[MODEL])?,
    );
    let breaker = "{circuitBreaker: {consecutiveFailures: 2, openFor: 1s}}";
    let yaml = [
        endpoint("weak", &weak.url(), "  priority: 1\n"),
        endpoint("spare", &spare.url(), "  priority: 2\n"),
        route("main", breaker),
    ];
    tenant.apply(&yaml.concat())?;
    let data_plane = tenant.data_plane()?;
    let client = data_plane.client();
    wait_answer(&data_plane, "weak")?;
    let none = tenant.events("weak")?;
    assert!(
        none.iter()
            .all(|(reason, _)| !reason.starts_with("Breaker"))
    );

    weak.set_mode(Mode::Fail(503));
    // No client sees it.
    let answerers = client.answerers(MODEL, 5)?;
    assert!(
        answerers.iter().all(|name| name == "spare"),
        "{answerers:?}"
    );
    let opened = "circuit breaker of instance weak opened, no requests are sent to it: ";
    wait_event(&tenant, "weak", "BreakerOpened", opened)?;

    weak.set_mode(Mode::Answer);
    wait("it is tried again", SOON, || {
        Ok((client.answerer(MODEL)? == "weak").then_some(()))
    })?;
    let closed = "circuit breaker of instance weak closed, requests are sent to it again";
    wait_event(&tenant, "weak", "BreakerClosed", closed)?;
    let told = tenant.kubectl(&["describe", "llmep", "weak"])?;
    for reason in ["BreakerOpened", "BreakerClosed"] {
        assert!(told.contains(reason), "{told}");
    }
    let spares = tenant.events("spare")?;
    assert!(
        spares
            .iter()
            .all(|(reason, _)| !reason.starts_with("Breaker"))
    );
    Ok(())
}
