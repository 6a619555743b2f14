//! Does the node itself hold? Nothing of the operator runs here: these tests fail when the node
//! lacks something that all others build on.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Node, wait};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_pod_of_our_image_answers_through_a_service() -> Result<()> {
    let node = Node::shared()?;
    let cluster = node.cluster();
    let ns = cluster.namespace()?;
    let image = format!("{}/olla-dataplane:{}", e2e::node::REGISTRY, "0.1.0");
    cluster.kubectl_stdin(
        &["apply", "-n", &ns, "-f", "-"],
        &format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: toy}}
spec:
  selector: {{matchLabels: {{app: toy}}}}
  template:
    metadata: {{labels: {{app: toy}}}}
    spec:
      containers:
        - name: toy
          image: {image}
          args: [demo, '--listen=0.0.0.0:8080']
          readinessProbe: {{httpGet: {{path: /internal/ready, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: toy}}
spec: {{selector: {{app: toy}}, ports: [{{port: 80, targetPort: 8080}}]}}
"
        ),
    )?;
    node.wait_rollout(&ns, "toy")?;
    let client = node.service(&ns, "toy", 80)?;
    wait("the toy answers", SOON, || {
        let reply = client.get("/v1/models")?.good()?;
        ensure!(reply.body.contains("data"), "{}", reply.body);
        Ok(Some(()))
    })
}
