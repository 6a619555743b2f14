//! What tests put into the cluster by hand: namespaces, identities, and pods that no kubelet runs.
//! In: names. Out: objects in the state that a real cluster would have brought them to.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::Cluster;
use crate::names::NODE;
use crate::wait;

/// For what the controllers of an idle cluster do within a second.
const SOON: Duration = Duration::from_secs(30);

impl Cluster {
    /// A fresh namespace with its `default` ServiceAccount, without which no pod gets in.
    pub fn namespace(&self) -> Result<String> {
        self.namespace_labelled(&[])
    }

    pub(crate) fn namespace_labelled(&self, labels: &[(&str, &str)]) -> Result<String> {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{number}");
        self.create_namespace(&name, labels)?;
        Ok(name)
    }

    /// The same with a given name, which no other test may use.
    pub fn namespace_named(&self, name: &str) -> Result<()> {
        self.create_namespace(name, &[])
    }

    pub(crate) fn create_namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        self.api.create(
            "/api/v1/namespaces",
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": name, "labels": label_map(labels),
            }}),
        )?;
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        let what = format!("namespace {name} has its ServiceAccount");
        wait(&what, SOON, || self.api.get(&account))?;
        Ok(())
    }

    /// A ServiceAccount's token for one audience, as a projected volume would hold it.
    pub fn token(&self, namespace: &str, account: &str, audience: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 3600},
        });
        let answer = self.api.create(&path, &request)?;
        let token = answer["status"]["token"].as_str();
        Ok(token.context("a TokenRequest without token")?.to_owned())
    }

    /// What data planes of the namespace know the operator by, as a pod gets it: its mount is waited
    /// for until the ConfigMap is there.
    pub(crate) fn operator_ca(&self, namespace: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/olla-operator-ca");
        wait("the operator's CA is in the namespace", SOON, || {
            let object = self.api.get(&path)?.unwrap_or_default();
            Ok(object["data"]["ca.crt"].as_str().map(str::to_owned))
        })
    }

    /// A kubeconfig with a ServiceAccount's token: may do what RBAC gives that account.
    pub fn kubeconfig_for(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let path = self
            .scratch
            .join(format!("{namespace}.{account}.kubeconfig"));
        let token = self.kubectl(&["create", "token", account, "--namespace", namespace])?;
        self.write_kubeconfig(&path, namespace, &json!({"token": token.trim()}))?;
        Ok(path)
    }

    /// A pod that runs and is ready at `ip`, as far as the API can tell. What answers there is the
    /// test's own; 10.88.1.1 to 10.88.1.60 are addresses of the machine.
    pub fn create_pod(
        &self,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
        ip: Ipv4Addr,
        port: u16,
    ) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": label_map(labels)},
            "spec": {
                "nodeName": NODE,
                "containers": [{
                    "name": "app",
                    "image": "none",
                    "ports": [{"name": "http", "containerPort": port}],
                }],
            },
        });
        self.api
            .create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod)?;
        let running = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]});
        self.patch_pod_status(namespace, name, true, running)
    }

    /// What the kubelet reports when the readiness probe's result changes.
    pub fn set_pod_ready(&self, namespace: &str, name: &str, ready: bool) -> Result<()> {
        self.patch_pod_status(namespace, name, ready, json!({}))
    }

    /// The pod is going but still there: what its grace period looks like. A kubelet would end it;
    /// here it stays until `delete_pod`.
    pub fn terminate_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.api.delete(&pod_path(namespace, name))
    }

    /// Gone at once.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.api.delete(&format!(
            "{}?gracePeriodSeconds=0",
            pod_path(namespace, name)
        ))
    }

    fn patch_pod_status(
        &self,
        namespace: &str,
        name: &str,
        ready: bool,
        mut status: Value,
    ) -> Result<()> {
        let state = if ready { "True" } else { "False" };
        // A merge patch replaces lists, so all conditions are named.
        status["conditions"] = json!([
            {"type": "PodScheduled", "status": "True"},
            {"type": "Initialized", "status": "True"},
            {"type": "ContainersReady", "status": state},
            {"type": "Ready", "status": state},
        ]);
        self.api
            .patch(
                &format!("{}/status", pod_path(namespace, name)),
                &json!({"status": status}),
            )
            .map(|_| ())
            .with_context(|| format!("write the status of pod {namespace}/{name}"))
    }
}

fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

fn label_map(labels: &[(&str, &str)]) -> Map<String, Value> {
    labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect()
}
