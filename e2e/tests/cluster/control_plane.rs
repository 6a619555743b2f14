//! Does the harness itself hold? Nothing of ours runs here: these tests fail when the control
//! plane lacks something that all other tests build on.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Cluster, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// `[(address, ready)]` of all endpoints that slices of `service` hold.
fn endpoints(cluster: &Cluster, namespace: &str, service: &str) -> Result<Value> {
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
         ?labelSelector=kubernetes.io/service-name={service}"
    );
    let slices = cluster.api().get(&path)?.unwrap_or_default();
    let endpoints = slices["items"].as_array().into_iter().flatten();
    let endpoints = endpoints.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    Ok(endpoints
        .map(|endpoint| json!([endpoint["addresses"][0], endpoint["conditions"]["ready"]]))
        .collect())
}

fn wait_endpoints(cluster: &Cluster, namespace: &str, service: &str, want: &Value) -> Result<()> {
    wait(&format!("{service} has {want}"), SOON, || {
        let seen = endpoints(cluster, namespace, service)?;
        ensure!(seen == *want, "{service} has {seen}");
        Ok(Some(()))
    })
}

#[test]
fn a_pod_that_becomes_unready_leaves_its_endpoint_slice() -> Result<()> {
    let (_steady, cluster) = (Cluster::steady(), Cluster::shared()?);
    let ns = cluster.namespace()?;
    cluster.apply(&format!(
        "apiVersion: v1\n\
         kind: Service\n\
         metadata: {{name: ollama, namespace: {ns}}}\n\
         spec:\n  selector: {{app: ollama}}\n  ports: [{{port: 11434, targetPort: http}}]\n"
    ))?;
    let labels = [("app", "ollama")];
    cluster.create_pod(&ns, "ollama-0", &labels, Ipv4Addr::new(10, 88, 1, 1), 11434)?;
    wait_endpoints(cluster, &ns, "ollama", &json!([["10.88.1.1", true]]))?;

    cluster.set_pod_ready(&ns, "ollama-0", false)?;
    wait_endpoints(cluster, &ns, "ollama", &json!([["10.88.1.1", false]]))?;

    cluster.set_pod_ready(&ns, "ollama-0", true)?;
    wait_endpoints(cluster, &ns, "ollama", &json!([["10.88.1.1", true]]))?;
    cluster.terminate_pod(&ns, "ollama-0")?;
    wait_endpoints(cluster, &ns, "ollama", &json!([["10.88.1.1", false]]))?;
    cluster.delete_pod(&ns, "ollama-0")?;
    wait_endpoints(cluster, &ns, "ollama", &json!([]))
}

#[test]
fn a_token_for_our_audience_passes_token_review() -> Result<()> {
    let (_steady, cluster) = (Cluster::steady(), Cluster::shared()?);
    let ns = cluster.namespace()?;
    let token = cluster.token(&ns, "default", "olla-operator")?;
    let review = |audience: &str| {
        cluster.api().create(
            "/apis/authentication.k8s.io/v1/tokenreviews",
            &json!({
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token, "audiences": [audience]},
            }),
        )
    };

    let ours = review("olla-operator")?;
    assert_eq!(ours["status"]["authenticated"], true, "{ours}");
    assert_eq!(
        ours["status"]["user"]["username"],
        format!("system:serviceaccount:{ns}:default"),
        "{ours}"
    );
    let foreign = review("somebody-else")?;
    assert_ne!(foreign["status"]["authenticated"], true, "{foreign}");
    Ok(())
}

#[test]
fn a_service_account_may_do_only_what_rbac_gives_it() -> Result<()> {
    let (_steady, cluster) = (Cluster::steady(), Cluster::shared()?);
    let ns = cluster.namespace()?;
    let team = cluster.kubeconfig_for(&ns, "default")?;
    let list = ["get", "pods", "--namespace", &ns];
    let refused = cluster
        .kubectl_as(&team, &list)
        .expect_err("not granted yet");
    ensure!(refused.to_string().contains("Forbidden"), "{refused:#}");

    let subject = format!("--serviceaccount={ns}:default");
    let grant = [
        "create",
        "rolebinding",
        "view",
        "--clusterrole=view",
        &subject,
        "-n",
        &ns,
    ];
    cluster.kubectl(&grant)?;
    wait("the grant works", SOON, || {
        cluster.kubectl_as(&team, &list).map(Some)
    })?;
    Ok(())
}
