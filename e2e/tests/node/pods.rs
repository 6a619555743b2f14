//! Does the node itself hold? Nothing of the operator runs here: these tests fail when the node
//! lacks something that all others build on.

use anyhow::{Result, ensure};
use e2e::{Node, wait};

use crate::support::{SOON, toy};

#[test]
fn a_restricted_pod_of_our_image_runs_as_any_user_and_answers_through_a_service() -> Result<()> {
    let node = Node::shared()?;
    let tenant = node.tenant("any-user")?;
    tenant.apply(&toy())?;
    node.wait_rollout(tenant.namespace(), "toy")?;
    let client = node.service(tenant.namespace(), "toy", 80)?;
    wait("the toy lists its models", SOON, || {
        let models = client.get("/v1/models")?.good()?.json()?;
        let models = models["data"].as_array();
        ensure!(
            models.is_some_and(|models| !models.is_empty()),
            "{models:?}"
        );
        Ok(Some(()))
    })?;
    // As a health check of Compose asks: by the program's name, and nothing else is in the image.
    let exec = ["exec", "deploy/toy", "-n", tenant.namespace(), "--"];
    let health = ["olla-dataplane", "health", "--listen=0.0.0.0:8080"];
    node.cluster().kubectl(&[&exec[..], &health[..]].concat())?;
    let shell = node.cluster().kubectl(&[&exec[..], &["sh"]].concat());
    let refused = format!("{:#}", shell.expect_err("there is a shell"));
    ensure!(refused.contains("executable file not found"), "{refused}");
    Ok(())
}
