//! A team and its namespace: applies YAML, reads what became of it, and has data planes.
//! In: text as a user would write it. Out: statuses, events, running data planes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::data_plane::DataPlane;
use crate::wait;

/// For a status that follows a change: 200 ms of the operator's, and the machine's load.
const SOON: Duration = Duration::from_secs(20);

const GROUP: &str = "/apis/olla.dev/v1alpha1/namespaces";

#[derive(Debug)]
pub struct Tenant {
    cluster: &'static Cluster,
    namespace: String,
    data_planes: AtomicUsize,
}

impl Tenant {
    pub(crate) fn new(cluster: &'static Cluster, namespace: String) -> Self {
        Self {
            cluster,
            namespace,
            data_planes: AtomicUsize::new(0),
        }
    }

    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `kubectl apply --server-side` into the namespace.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let args = ["apply", "--server-side", "-n", &self.namespace, "-f", "-"];
        self.cluster.kubectl_stdin(&args, yaml)
    }

    /// `kubectl … -n <namespace>`.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.cluster
            .kubectl(&[args, &["-n", &self.namespace]].concat())
    }

    /// An LlmEndpoint or OllaRoute, by plural and name: `llmendpoints/a`.
    pub fn object(&self, path: &str) -> Result<Value> {
        let path = format!("{GROUP}/{}/{path}", self.namespace);
        let object = self.cluster.api().get(&path)?;
        object.with_context(|| format!("{path} does not exist"))
    }

    /// Creates an LlmEndpoint or OllaRoute, without the cost of a kubectl.
    pub fn create(&self, plural: &str, name: &str, spec: &Value) -> Result<()> {
        let kind = match plural {
            "llmendpoints" => "LlmEndpoint",
            _ => "OllaRoute",
        };
        let object = json!({
            "apiVersion": "olla.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name}, "spec": spec,
        });
        let path = format!("{GROUP}/{}/{plural}", self.namespace);
        self.cluster.api().create(&path, &object).map(|_| ())
    }

    /// A merge patch of such an object, without the cost of a kubectl.
    pub fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        let path = format!("{GROUP}/{}/{path}", self.namespace);
        self.cluster.api().patch(&path, patch)
    }

    /// A condition once it stands at `status` for the object's newest generation.
    pub fn wait_condition(&self, path: &str, type_: &str, status: &str) -> Result<Value> {
        let what = format!("{path} has {type_}={status}");
        wait(&what, SOON, || {
            let object = self.object(path)?;
            let conditions = object["status"]["conditions"].as_array();
            let found = conditions
                .into_iter()
                .flatten()
                .find(|condition| condition["type"] == type_);
            let found = found.ok_or_else(|| anyhow!("status {}", object["status"]))?;
            let current = found["observedGeneration"] == object["metadata"]["generation"];
            ensure!(current && found["status"] == status, "{found}");
            Ok(Some(found.clone()))
        })
    }

    /// A condition once its message contains `text`.
    pub fn wait_message(&self, path: &str, type_: &str, status: &str, text: &str) -> Result<Value> {
        wait(&format!("{path} says {text:?}"), SOON, || {
            let condition = self.wait_condition(path, type_, status)?;
            let message = condition["message"].as_str().unwrap_or_default();
            ensure!(message.contains(text), "{condition}");
            Ok(Some(condition))
        })
    }

    /// Creates or replaces a Secret.
    pub fn secret(&self, name: &str, values: &[(&str, &str)]) -> Result<()> {
        let data: serde_json::Map<String, Value> = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data,
        });
        self.apply(&object.to_string()).map(|_| ())
    }

    /// A data plane as the namespace's `default` ServiceAccount. Apply something first: the
    /// operator's CA comes to namespaces that hold objects of ours.
    pub fn data_plane(&self) -> Result<DataPlane> {
        let number = self.data_planes.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.namespace);
        DataPlane::start(self.cluster, &self.namespace, &name)
    }

    /// What data planes of the namespace know the operator by. Apply something first.
    pub fn operator_ca(&self) -> Result<String> {
        self.cluster.operator_ca(&self.namespace)
    }

    /// `[(reason, note)]` of the Events about an object.
    pub fn events(&self, name: &str) -> Result<Vec<(String, String)>> {
        let path = format!(
            "/apis/events.k8s.io/v1/namespaces/{}/events",
            self.namespace
        );
        let list = self.cluster.api().get(&path)?.unwrap_or_default();
        let items = list["items"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(items
            .filter(|event| event["regarding"]["name"] == name)
            .map(|event| (text(&event["reason"]), text(&event["note"])))
            .collect())
    }
}
