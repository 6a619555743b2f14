//! A real node beside the control plane: containerd, kubelet, kube-proxy, scheduler, CoreDNS and what
//! holds NetworkPolicies, so that pods run, Services have addresses, names are resolved and borders
//! hold. One for all tests of a run.
//! In: the binaries that `e2e/setup` built and Debian has, the images of the run, and the private
//! namespaces that `e2e/test` made. Out: the `Cluster`, and what only a cluster with a node has.
//!
//! What it leaves (processes, mounts, addresses, rules) is the kernel's to take away with the
//! namespaces, however the run ends; its cgroups `e2e/test` removes.

mod config;
mod images;

pub use images::REGISTRY;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::client::Client;
use crate::cluster::{Cluster, Nodes, SERVICES};
use crate::names::{HOST, NODE};
use crate::process::{Process, run_dir};
use crate::tenant::Tenant;
use crate::wait;
use crate::world::chart;

/// Ready takes about 15 s on an idle machine; a busy one has to be really stuck.
const START: Duration = Duration::from_mins(3);

/// `e2e/test` lays a memory disk there: containerd and its shims have sockets, and a socket's path
/// may have 108 bytes, fewer than some folder of a run has.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// Lives as long as the test process.
#[derive(Debug)]
pub struct Node {
    cluster: Cluster,
    folder: PathBuf,
    processes: Mutex<Vec<Process>>,
}

impl Node {
    /// The node of this run, and its cluster; the first call starts both.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Node>> = OnceLock::new();
        SHARED
            .get_or_init(Self::start)
            .as_ref()
            .map_err(|error| anyhow!("the node did not start: {error:#}"))
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn start() -> Result<Self> {
        let cluster = Cluster::start(Nodes::Real)?;
        let folder = cluster.scratch.join("node");
        std::fs::create_dir_all(&folder).context("create the node's folder")?;
        let node = Self {
            cluster,
            folder,
            processes: Mutex::default(),
        };
        node.start_containerd()?;
        node.import_images()?;
        node.start_kubernetes()?;
        node.start_coredns()?;
        node.wait_ready()?;
        // It looks its node up when it starts.
        node.start_policies()?;
        Ok(node)
    }

    fn start_containerd(&self) -> Result<()> {
        let cni = self.folder.join("cni");
        std::fs::create_dir_all(&cni).context("create the CNI folder")?;
        self.write(
            "cni/e2e.conflist",
            &config::cni(&self.folder.join("addresses")).to_string(),
        )?;
        let text = config::containerd(&self.folder.join("containerd"), &cni, Path::new(SOCKET));
        let config = self.write("containerd.toml", &text)?;
        self.spawn(
            "containerd",
            Command::new("containerd").arg("--config").arg(config),
        )?;
        wait("containerd answers", START, || {
            self.ensure_running()?;
            ctr(&["version"]).map(Some)
        })?;
        Ok(())
    }

    fn import_images(&self) -> Result<()> {
        let mut archives = images::ours()?;
        archives.push(images::pause(&self.folder.join("images"))?);
        for archive in archives {
            let archive = archive.to_str().context("the path is not UTF-8")?;
            ctr(&["images", "import", archive])?;
        }
        Ok(())
    }

    fn start_kubernetes(&self) -> Result<()> {
        let kubeconfig = self.cluster.kubeconfig();
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        self.spawn_kube(
            "kube-scheduler",
            &[
                flag("kubeconfig", kubeconfig),
                "--leader-elect=false".into(),
            ],
        )?;

        // Beside the other logs, to be read after the run.
        let logs = run_dir()?.join("logs/pods");
        let ca = self.cluster.pki.path("ca.crt");
        let text = config::kubelet(Path::new(SOCKET), &ca, &logs).to_string();
        let config = self.write("kubelet.json", &text)?;
        self.spawn_kube(
            "kubelet",
            &[
                flag("kubeconfig", kubeconfig),
                flag("config", &config),
                flag("root-dir", &self.folder.join("kubelet")),
                flag("cert-dir", &self.folder.join("kubelet-pki")),
                format!("--hostname-override={NODE}"),
                format!("--node-ip={HOST}"),
            ],
        )?;

        let config = self.write(
            "kube-proxy.json",
            &config::kube_proxy(kubeconfig).to_string(),
        )?;
        self.spawn_kube("kube-proxy", &[flag("config", &config)])
    }

    fn start_coredns(&self) -> Result<()> {
        let program = std::env::var_os("OLLA_E2E_COREDNS")
            .context("OLLA_E2E_COREDNS is not set: run the node's tests by ./e2e/test node")?;
        let config = self.write("Corefile", &config::coredns(self.cluster.kubeconfig()))?;
        self.spawn("coredns", Command::new(program).arg("-conf").arg(config))
    }

    /// kube-router's controller of NetworkPolicies. It always lets the node itself in, as the kubelet's
    /// probes need it: borders are to be tried from pods.
    fn start_policies(&self) -> Result<()> {
        let program = std::env::var_os("OLLA_E2E_POLICY")
            .context("OLLA_E2E_POLICY is not set: run the node's tests by ./e2e/test node")?;
        let mut command = Command::new(program);
        command
            .arg(self.cluster.kubeconfig())
            .args([NODE, SERVICES]);
        self.spawn("policies", &mut command)?;
        wait("network policies are held", START, || {
            self.ensure_running()?;
            let mut list = Command::new("iptables");
            list.args(["-w", "-S", "KUBE-ROUTER-FORWARD"]);
            images::done("iptables", &mut list).map(Some)
        })?;
        Ok(())
    }

    fn wait_ready(&self) -> Result<()> {
        let path = format!("/api/v1/nodes/{NODE}");
        wait("the node is ready", START, || {
            self.ensure_running()?;
            let node = self
                .cluster
                .api
                .get(&path)?
                .context("it did not register")?;
            let state = condition(&node, "Ready");
            ensure!(state["status"] == "True", "{state}");
            Ok(Some(()))
        })?;
        let ready = Client::new((HOST, 8181).into());
        wait("names are resolved", START, || {
            self.ensure_running()?;
            ready.get("/ready")?.good().map(Some)
        })?;
        Ok(())
    }

    fn spawn_kube(&self, part: &str, args: &[String]) -> Result<()> {
        self.spawn(part, Command::new(&self.cluster.kube).arg(part).args(args))
    }

    fn spawn(&self, name: &str, command: &mut Command) -> Result<()> {
        let process = Process::start(name, command)?;
        self.processes().push(process);
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    fn ensure_running(&self) -> Result<()> {
        self.processes()
            .iter_mut()
            .try_for_each(Process::ensure_running)
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// For a test that installs the product: a cluster has one.
    pub fn alone(&self) -> MutexGuard<'static, ()> {
        static PRODUCT: Mutex<()> = Mutex::new(());
        PRODUCT.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `helm install` of our chart with the images of this tree; returns when the operator is ready.
    /// `more` are further arguments.
    pub fn install(&self, release: &str, namespace: &str, more: &[&str]) -> Result<()> {
        self.helm("install", release, namespace, more)
    }

    /// The same for a release that is there.
    pub fn upgrade(&self, release: &str, namespace: &str, more: &[&str]) -> Result<()> {
        self.helm("upgrade", release, namespace, more)
    }

    fn helm(&self, verb: &str, release: &str, namespace: &str, more: &[&str]) -> Result<()> {
        let chart = chart();
        let chart = chart.to_str().context("the path is not UTF-8")?;
        let registry = format!("image.registry={REGISTRY}");
        let install = [verb, release, chart, "-n", namespace];
        let create = ["--create-namespace"];
        let create = if verb == "install" { &create[..] } else { &[] };
        let wait = ["--set", &registry, "--wait", "--timeout=120s"];
        let installed = self
            .cluster
            .helm(&[&install[..], &wait, create, more].concat());
        installed
            .map(|_| ())
            .map_err(|error| error.context(self.pods_story(namespace)))
    }

    /// A team with a namespace of this name, as strict about pods as a cluster can be.
    pub fn tenant(&'static self, namespace: &str) -> Result<Tenant> {
        let strict = [("pod-security.kubernetes.io/enforce", "restricted")];
        self.cluster.create_namespace(namespace, &strict)?;
        Ok(Tenant::new(&self.cluster, namespace.to_owned()))
    }

    /// A client of a Service, at its cluster address; kube-proxy leads to a pod.
    pub fn service(&self, namespace: &str, name: &str, port: u16) -> Result<Client> {
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
        let service = self.cluster.api.get(&path)?;
        let service = service.with_context(|| format!("there is no Service {namespace}/{name}"))?;
        let address = service["spec"]["clusterIP"].as_str();
        let address: Ipv4Addr = address.unwrap_or_default().parse().context("its address")?;
        Ok(Client::new(SocketAddr::from((address, port))))
    }

    /// `kubectl rollout status`: returns when the Deployment's pods are all available.
    pub fn wait_rollout(&self, namespace: &str, deployment: &str) -> Result<()> {
        let what = format!("deployment/{deployment}");
        let args = [
            "rollout",
            "status",
            &what,
            "-n",
            namespace,
            "--timeout=120s",
        ];
        match self.cluster.kubectl(&args) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(self.pods_story(namespace))),
        }
    }

    /// Why pods of a namespace do not run, as far as it can be told.
    fn pods_story(&self, namespace: &str) -> String {
        let told = |args: &[&str]| {
            let args = [args, &["-n", namespace]].concat();
            self.cluster
                .kubectl(&args)
                .unwrap_or_else(|error| format!("{error:#}"))
        };
        let events = told(&["get", "events", "--sort-by=.lastTimestamp"]);
        format!("{}\n{events}", told(&["get", "pods", "-o", "wide"]))
    }
}

/// A condition of an object, by its type; null if it has none.
fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    found.cloned().unwrap_or_default()
}

fn ctr(args: &[&str]) -> Result<String> {
    let mut command = Command::new("ctr");
    command
        .args(["--address", SOCKET, "--namespace", "k8s.io"])
        .args(args);
    images::done(&format!("ctr {}", args.join(" ")), &mut command)
}
