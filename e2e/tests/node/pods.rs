//! Does the node itself hold? Nothing of the operator runs here: these tests fail when the node
//! lacks something that all others build on.

use anyhow::{Result, ensure};
use e2e::{Node, Tenant, wait};

use crate::support::{SOON, ask_from, toy};

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

/// Ingress from pods of the namespace alone.
const SAME_NAMESPACE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: same-namespace}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {}}]}]
";

#[test]
fn a_network_policy_keeps_pods_of_other_namespaces_out() -> Result<()> {
    let node = Node::shared()?;
    let (inside, outside) = (node.tenant("inside")?, node.tenant("outside")?);
    for tenant in [&inside, &outside] {
        tenant.apply(&toy())?;
    }
    for tenant in [&inside, &outside] {
        node.wait_rollout(tenant.namespace(), "toy")?;
    }
    let toy = node.service("inside", "toy", 80)?;
    let ask = |from: &Tenant| ask_from(node, from, &toy);
    for from in [&inside, &outside] {
        wait("the toy is reached without a policy", SOON, || {
            ask(from).map(Some)
        })?;
    }
    inside.apply(SAME_NAMESPACE)?;
    wait("the policy holds", SOON, || {
        let refused = ask(&outside).err();
        let refused = refused
            .map(|error| format!("{error:#}"))
            .unwrap_or_default();
        ensure!(refused.contains("connect"), "let in: {refused}");
        Ok(Some(()))
    })?;
    ask(&inside)?;
    Ok(())
}
