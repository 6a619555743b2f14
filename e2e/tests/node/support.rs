//! What several scenarios begin with.

use std::time::Duration;

use e2e::node::REGISTRY;

/// For what follows a change of the cluster on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The name that an image of ours has on the node.
pub(crate) fn image(name: &str) -> String {
    format!("{REGISTRY}/{name}:{}", env!("CARGO_PKG_VERSION"))
}

/// A backend in a pod, Service `toy`: the demo of our own data plane, which answers chats.
pub(crate) fn toy() -> String {
    let image = image("olla-dataplane");
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: toy}}
spec:
  selector: {{matchLabels: {{app: toy}}}}
  template:
    metadata: {{labels: {{app: toy}}}}
    spec:
      automountServiceAccountToken: false
      # Any user will do: OpenShift chooses one.
      securityContext: {{runAsNonRoot: true, runAsUser: 1000770001, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: toy
          image: {image}
          args: [demo, '--listen=0.0.0.0:8080']
          readinessProbe: {{httpGet: {{path: /internal/ready, port: 8080}}, periodSeconds: 1}}
          livenessProbe: {{exec: {{command: [olla-dataplane, health, '--listen=0.0.0.0:8080']}}}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {{name: toy}}
spec: {{selector: {{app: toy}}, ports: [{{port: 80, targetPort: 8080}}]}}
"
    )
}
