//! Of two operators one leads, whatever becomes of the other.

use anyhow::{Result, ensure};
use e2e::{World, wait};

use crate::support::{SOON, endpoint, route, served, wait_answer};

#[test]
fn the_other_replica_takes_over_and_the_first_one_comes_back_to_a_leader() -> Result<()> {
    let mut world = World::alone()?;
    let tenant = world.tenant()?;
    let (_backend, data_plane) = served(&tenant)?;
    let second = world.second_operator()?;
    wait("the second one watches", SOON, || {
        ensure!(!second.leads()?, "both lead");
        Ok(Some(()))
    })?;
    ensure!(
        world.operator_leads()?,
        "the first one does not lead any more"
    );
    let before = tenant.object("ollaroutes/main")?["metadata"]["resourceVersion"].clone();

    // As a node does that is cut off: its Lease ends.
    world.freeze_operator()?;
    wait("the second one leads", SOON * 2, || {
        ensure!(second.leads()?, "it does not lead");
        Ok(Some(()))
    })?;
    tenant.apply(&route("later", "{matches: [{models: [later]}]}"))?;
    tenant.wait_condition("ollaroutes/later", "Accepted", "True")?;
    assert_eq!(data_plane.client().answerer(crate::support::MODEL)?, "base");
    let after = tenant.object("ollaroutes/main")?["metadata"]["resourceVersion"].clone();
    assert_eq!(after, before, "a new leader rewrites what has not changed");
    world.thaw_operator()?;
    wait("the first one does not lead any more", SOON, || {
        ensure!(!world.operator_leads()?, "both lead");
        Ok(Some(()))
    })?;

    // A replica that stops gives the Lease back.
    second.terminate()?;
    wait("the first one leads again", SOON, || {
        ensure!(world.operator_leads()?, "it does not lead");
        Ok(Some(()))
    })?;
    let other = e2e::MockLlm::start("other", &[crate::support::MODEL])?;
    tenant.apply(&endpoint("other", &other.url(), "  priority: 1\n"))?;
    wait_answer(&data_plane, "other")
}
