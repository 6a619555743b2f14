//! Does traffic follow the readiness of pods? Pods are written by hand, since no kubelet runs;
//! Services and EndpointSlices are the real controllers' work.

use anyhow::{Result, ensure};
use e2e::mock_llm::POD_PORT;
use e2e::{Client, DataPlane, MockLlm, Tenant, World, wait};

use crate::support::{MODEL, SOON, route};

const LABELS: [(&str, &str); 1] = [("app", "llm")];

/// A pod that is ready and answers with its own name.
fn pod(tenant: &Tenant, name: &str) -> Result<MockLlm> {
    let mock = MockLlm::start_as_pod(name, &[MODEL])?;
    let std::net::IpAddr::V4(ip) = mock.address().ip() else {
        anyhow::bail!("pods have IPv4 addresses here");
    };
    let cluster = tenant.cluster();
    cluster.create_pod(tenant.namespace(), name, &LABELS, ip, POD_PORT)?;
    Ok(mock)
}

/// The pods that answer the next eight chats, each once.
fn answering(client: &Client) -> Result<Vec<String>> {
    let mut pods = Vec::new();
    for _ in 0..8 {
        let body = client.chat(MODEL)?.good()?.body;
        let (_, rest) = body.split_once("Hello from ").unwrap_or_default();
        pods.push(rest.split(' ').next().unwrap_or_default().to_owned());
    }
    pods.sort();
    pods.dedup();
    Ok(pods)
}

fn wait_answering(data_plane: &DataPlane, want: &[&str]) -> Result<()> {
    wait(&format!("{want:?} answer"), SOON, || {
        let pods = answering(&data_plane.client())?;
        ensure!(pods == want, "{pods:?} answer");
        Ok(Some(()))
    })
}

fn service(tenant: &Tenant) -> Result<DataPlane> {
    let yaml = "apiVersion: v1\n\
         kind: Service\n\
         metadata: {name: llm}\n\
         spec: {selector: {app: llm}, ports: [{port: 80, targetPort: http}]}\n\
         ---\n\
         apiVersion: olla.dev/v1alpha1\n\
         kind: LlmEndpoint\n\
         metadata: {name: llm}\n\
         spec: {type: openai, service: {name: llm, port: 80}}\n";
    tenant.apply(&(yaml.to_owned() + &route("main", "{}")))?;
    tenant.data_plane()
}

#[test]
fn an_unready_pod_gets_no_new_request_and_finishes_its_stream() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (a, b) = (pod(&tenant, "pod-a")?, pod(&tenant, "pod-b")?);
    let data_plane = service(&tenant)?;
    wait_answering(&data_plane, &["pod-a", "pod-b"])?;
    let ready = tenant.wait_condition("llmendpoints/llm", "Ready", "True")?;
    ensure!(
        ready["message"] == "2 of 2 instances can be used",
        "{ready}"
    );

    a.hold();
    b.hold();
    let mut stream = data_plane.client().stream(MODEL)?;
    let first = stream.next_piece()?.unwrap_or_default();
    // The first event holds the first word only; who has seen the stream tells whose it is.
    let streaming = |mock: &MockLlm| mock.seen().iter().any(|seen| seen.body["stream"] == true);
    let (busy, other) = if streaming(&a) { (&a, &b) } else { (&b, &a) };

    let cluster = tenant.cluster();
    cluster.set_pod_ready(tenant.namespace(), busy.name(), false)?;
    wait_answering(&data_plane, &[other.name()])?;
    busy.release();
    let text = first + &stream.rest()?;
    assert!(
        text.contains(busy.name()) && text.contains("[DONE]"),
        "{text}"
    );

    cluster.set_pod_ready(tenant.namespace(), busy.name(), true)?;
    wait_answering(&data_plane, &["pod-a", "pod-b"])
}

#[test]
fn a_terminating_pod_leaves_before_it_is_gone() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let _mocks = (pod(&tenant, "pod-a")?, pod(&tenant, "pod-b")?);
    let data_plane = service(&tenant)?;
    wait_answering(&data_plane, &["pod-a", "pod-b"])?;
    tenant
        .cluster()
        .terminate_pod(tenant.namespace(), "pod-b")?;
    // Its backend still answers: only the API says that it is going.
    wait_answering(&data_plane, &["pod-a"])?;
    tenant.cluster().delete_pod(tenant.namespace(), "pod-b")?;
    wait_answering(&data_plane, &["pod-a"])
}

#[test]
fn a_pod_selector_takes_in_new_pods_and_lets_go_of_old_ones() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let _first = pod(&tenant, "pod-a")?;
    let yaml = "apiVersion: olla.dev/v1alpha1\n\
         kind: LlmEndpoint\n\
         metadata: {name: llm}\n\
         spec: {type: openai, podSelector: {matchLabels: {app: llm}, port: 8000}}\n";
    tenant.apply(&(yaml.to_owned() + &route("main", "{}")))?;
    let data_plane = tenant.data_plane()?;
    wait_answering(&data_plane, &["pod-a"])?;

    let _second = pod(&tenant, "pod-b")?;
    wait_answering(&data_plane, &["pod-a", "pod-b"])?;
    tenant
        .cluster()
        .set_pod_ready(tenant.namespace(), "pod-a", false)?;
    wait_answering(&data_plane, &["pod-b"])?;
    tenant.cluster().delete_pod(tenant.namespace(), "pod-a")?;
    wait_answering(&data_plane, &["pod-b"])?;
    tenant.wait_message("llmendpoints/llm", "Ready", "True", "1 of 1")?;
    Ok(())
}

#[test]
fn a_service_that_is_not_there_is_named_and_works_once_it_is() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let yaml = "apiVersion: olla.dev/v1alpha1\n\
         kind: LlmEndpoint\n\
         metadata: {name: llm}\n\
         spec: {type: openai, service: {name: llm, port: 80}}\n";
    tenant.apply(&(yaml.to_owned() + &route("main", "{}")))?;
    let problem = tenant.wait_condition("llmendpoints/llm", "ResolvedRefs", "False")?;
    assert_eq!(problem["reason"], "ServiceNotFound", "{problem}");

    let _mock = pod(&tenant, "pod-a")?;
    let data_plane = service(&tenant)?;
    wait_answering(&data_plane, &["pod-a"])?;
    tenant.wait_condition("llmendpoints/llm", "ResolvedRefs", "True")?;
    Ok(())
}
