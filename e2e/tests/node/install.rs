//! The five-minute path: from a cluster without anything of ours to a first answer, and back.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::{Cluster, Node, Tenant, wait};
use serde_json::Value;

use crate::support::{SOON, ask_from, image, toy};

const SYSTEM: &str = "olla-system";

const ROUTED: &str = "
apiVersion: olla.dev/v1alpha1
kind: LlmEndpoint
metadata: {name: toy}
spec: {type: openai, service: {name: toy, port: 80}}
---
apiVersion: olla.dev/v1alpha1
kind: OllaRoute
metadata: {name: default}
spec: {}
";

#[test]
fn an_install_and_two_objects_lead_to_an_answer_and_an_uninstall_leaves_only_the_kinds()
-> Result<()> {
    let node = Node::shared()?;
    let _alone = node.alone();
    let cluster = node.cluster();
    let begun = Instant::now();
    node.install("olla", SYSTEM, &[])?;
    println!("installed and ready after {:?}", begun.elapsed());

    let tenant = node.tenant("team-a")?;
    tenant.apply(&toy())?;
    tenant.apply(ROUTED)?;
    node.wait_rollout("team-a", "toy")?;
    wait("the gateway is made", SOON, || {
        let gateway = tenant.kubectl(&["get", "deployment", "olla-gateway"])?;
        Ok(Some(gateway))
    })?;
    node.wait_rollout("team-a", "olla-gateway")?;
    first_answer(node, "team-a")?;
    println!("first answer after {:?}", begun.elapsed());
    others_are_kept_out(node, &tenant)?;
    wait_condition(&tenant, "llmendpoints/toy", "Ready")?;
    wait_condition(&tenant, "ollaroutes/default", "Ready")?;
    a_job_finds_its_sidecar_ready_and_completes(&tenant)?;

    cluster.helm(&["uninstall", "olla", "-n", SYSTEM, "--wait"])?;
    wait(
        "nothing of the operator is left but the kinds",
        SOON,
        || {
            let left = left(cluster)?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(Some(()))
        },
    )?;
    // The kinds are kept, and the objects with them; gateways go with their owner.
    tenant.object("llmendpoints/toy")?;
    tenant.object("ollaroutes/default")?;
    let parts = "deploy,svc,sa,pdb,networkpolicy";
    wait("nothing of the gateway is left", SOON, || {
        let there = tenant.kubectl(&["get", parts, "-o", "name"])?;
        let left: Vec<_> = there.lines().filter(|it| it.contains("/olla")).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })?;

    // The kinds are still the first release's, as far as helm knows.
    let refused = node.install("another", "llm", &[]);
    let refused = format!("{:#}", refused.expect_err("the kinds have an owner"));
    ensure!(refused.contains("invalid ownership metadata"), "{refused}");
    node.install("another", "llm", &["--take-ownership"])?;
    tenant.apply(&ROUTED.replace("toy}", "new}"))?;
    wait_condition(&tenant, "llmendpoints/new", "Accepted")?;
    node.wait_rollout("team-a", "toy")?;
    first_answer_of(node, "team-a", "new")?;
    tenant.kubectl(&[
        "delete",
        "llmendpoint/toy",
        "llmendpoint/new",
        "ollaroute/default",
    ])?;
    cluster.helm(&["uninstall", "another", "-n", "llm", "--wait"])?;
    Ok(())
}

/// The gateway is its namespace's own: its network policy lets no pod of another one in.
fn others_are_kept_out(node: &'static Node, team: &Tenant) -> Result<()> {
    let stranger = node.tenant("team-b")?;
    stranger.apply(&toy())?;
    node.wait_rollout("team-b", "toy")?;
    let gateway = node.service(team.namespace(), "olla", 40114)?;
    ask_from(node, team, &gateway)?;
    let refused = ask_from(node, &stranger, &gateway);
    let refused = format!("{:#}", refused.expect_err("a stranger is let in"));
    ensure!(refused.contains("connect"), "{refused}");
    Ok(())
}

/// Its only deed is to ask for the sidecar, once: so that must be ready before, and must not keep the
/// Job from completing. With `ndots: 1` musl asks for the operator's name without the search list.
fn a_job_finds_its_sidecar_ready_and_completes(tenant: &Tenant) -> Result<()> {
    let image = image("olla-dataplane");
    tenant.apply(&format!(
        "
apiVersion: batch/v1
kind: Job
metadata: {{name: asks}}
spec:
  backoffLimit: 0
  template:
    metadata: {{labels: {{olla.dev/inject: 'true'}}}}
    spec:
      restartPolicy: Never
      securityContext: {{runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{type: RuntimeDefault}}}}
      dnsConfig: {{options: [{{name: ndots, value: '1'}}]}}
      containers:
        - name: app
          image: {image}
          command: [olla-dataplane, health, --ready, '--listen=localhost:40114']
          securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
    ))?;
    tenant.kubectl(&[
        "wait",
        "job/asks",
        "--for=condition=Complete",
        "--timeout=120s",
    ])?;
    let sidecar = "jsonpath={.items[0].spec.initContainers[0].name}";
    let sidecar = tenant.kubectl(&["get", "pods", "-l", "job-name=asks", "-o", sidecar])?;
    ensure!(sidecar == "olla-sidecar", "{sidecar:?}");
    Ok(())
}

/// A chat through Service `olla`, answered by the toy.
fn first_answer(node: &Node, namespace: &str) -> Result<()> {
    first_answer_of(node, namespace, "toy")
}

/// The same, from this endpoint.
fn first_answer_of(node: &Node, namespace: &str, endpoint: &str) -> Result<()> {
    let client = node.service(namespace, "olla", 40114)?;
    wait("a chat is answered through the Service", SOON, || {
        let models = client.get("/v1/models")?.good()?.json()?;
        let model = models["data"][0]["id"].as_str();
        let reply = client.chat(model.context("no model is listed")?)?.good()?;
        ensure!(reply.endpoint() == endpoint, "{:?}", reply.headers);
        Ok(Some(()))
    })
}

/// Until an object's condition is True.
fn wait_condition(tenant: &Tenant, path: &str, kind: &str) -> Result<()> {
    wait(&format!("{path} is {kind}"), SOON, || {
        let object = tenant.object(path)?;
        let conditions = object["status"]["conditions"].as_array();
        let holds = |it: &Value| it["type"] == kind && it["status"] == "True";
        ensure!(
            conditions.into_iter().flatten().any(holds),
            "{}",
            object["status"]
        );
        Ok(Some(()))
    })
}

/// What the release left: in its namespace, and of objects without one, but for the kinds.
fn left(cluster: &Cluster) -> Result<Vec<String>> {
    let kinds = cluster.kubectl(&[
        "api-resources",
        "--verbs=list",
        "--namespaced",
        "-o",
        "name",
    ])?;
    // Of every namespace, and what only tells of the past.
    let own = ["serviceaccount/default", "configmap/kube-root-ca.crt"];
    let past = ["event/", "event.events.k8s.io/"];
    let list = kinds.lines().collect::<Vec<_>>().join(",");
    let there = cluster.kubectl(&[
        "get",
        &list,
        "-n",
        SYSTEM,
        "-o",
        "name",
        "--ignore-not-found",
    ])?;
    let mut left: Vec<String> = there
        .lines()
        .filter(|name| !own.contains(name) && !past.iter().any(|it| name.starts_with(it)))
        .map(str::to_owned)
        .collect();
    let kinds = cluster.kubectl(&[
        "api-resources",
        "--verbs=list",
        "--namespaced=false",
        "-o",
        "name",
    ])?;
    let list = kinds.lines().collect::<Vec<_>>().join(",");
    let there = cluster.kubectl(&["get", &list, "-o", "name"])?;
    left.extend(
        there
            .lines()
            .filter(|name| name.contains("olla"))
            .filter(|name| {
                // The kinds, which are to stay; what the API server makes of them; and the
                // namespace, which helm never removes.
                !name.starts_with("customresourcedefinition.apiextensions.k8s.io/")
                    && !name.starts_with("namespace/")
                    && !name.starts_with("apiservice.apiregistration.k8s.io/")
            })
            .map(str::to_owned),
    );
    Ok(left)
}
