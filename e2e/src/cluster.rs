//! A real control plane: etcd, kube-apiserver and kube-controller-manager as child processes, one
//! for all tests of a run. In: the binary that `e2e/setup` built, and the private namespaces that
//! `e2e/test` made. Out: `kubectl`, plain requests, and what `objects.rs` adds.
//!
//! Most tests have no kubelet: pods are objects whose status the tests write themselves, and what
//! answers on a pod's address is started by the test. Those of `tests/node` have one: `node`.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::api::Api;
use crate::audit_policy;
use crate::names::{AUDIT_LOG, AUDIT_POLICY, HOST, NODE};
use crate::pki::Pki;
use crate::process::{Process, run_dir};
use crate::wait;

const PROXY_PORT: u16 = 8001;

/// Where pods find the API server: the first address of `--service-cluster-ip-range`.
const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

const API_SERVER: &str = "kube-apiserver";

/// Held for writing while the API server is away.
static STEADY: RwLock<()> = RwLock::new(());

/// Ready takes about 6 s on an idle machine; a busy one has to be really stuck.
const START: Duration = Duration::from_mins(2);

/// What pods are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nodes {
    /// Objects with a status that tests write, on a node that is an object, too.
    Simulated,
    /// Containers that a kubelet runs; the caller starts it.
    Real,
}

/// Lives as long as the test process; the pid namespace ends the children with it.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) kube: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) scratch: PathBuf,
    pub(crate) pki: Pki,
    pub(crate) api: Api,
    pub(crate) namespaces: AtomicUsize,
    processes: Mutex<Vec<Process>>,
}

impl Cluster {
    /// The cluster of this run; the first call starts it and the others wait for that.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Cluster>> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::start(Nodes::Simulated))
            .as_ref()
            .map_err(|error| anyhow!("the control plane did not start: {error:#}"))
    }

    pub(crate) fn start(nodes: Nodes) -> Result<Self> {
        let kube = std::env::var_os("OLLA_E2E_KUBE")
            .context("OLLA_E2E_KUBE is not set: run the cluster tests by ./e2e/test cluster")?;
        // Fixed ports are fine in a network of our own and would do harm elsewhere.
        TcpListener::bind((HOST, 0))
            .with_context(|| format!("{HOST} is not ours: run by ./e2e/test cluster"))?;
        let scratch = run_dir()?.join("scratch");
        let pki = Pki::create(
            &scratch.join("pki"),
            &[HOST, Ipv4Addr::LOCALHOST, API_SERVICE],
        )?;
        let cluster = Self {
            kube: kube.into(),
            kubeconfig: scratch.join("admin.kubeconfig"),
            scratch,
            pki,
            api: Api::new(SocketAddr::from((Ipv4Addr::LOCALHOST, PROXY_PORT))),
            namespaces: AtomicUsize::new(0),
            processes: Mutex::default(),
        };
        let user = json!({
            "client-certificate": cluster.pki.path("admin.crt"),
            "client-key": cluster.pki.path("admin.key"),
        });
        cluster.write_kubeconfig(&cluster.kubeconfig, "default", &user)?;
        audit_policy::write(&cluster.scratch.join(AUDIT_POLICY))?;
        cluster.start_processes(nodes)?;
        cluster.wait_ready()?;
        if nodes == Nodes::Real {
            return Ok(cluster);
        }
        cluster.api.create(
            "/api/v1/nodes",
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {
                "kubernetes.io/hostname": NODE,
                "topology.kubernetes.io/region": "region-1",
                "topology.kubernetes.io/zone": "zone-1",
            }}}),
        )?;
        Ok(cluster)
    }

    fn start_processes(&self, nodes: Nodes) -> Result<()> {
        let file = |name: &str| self.pki.path(name).display().to_string();
        let kubeconfig = self.kubeconfig.display().to_string();
        self.spawn(
            "etcd",
            &[
                format!("--data-dir={}", self.scratch.join("etcd").display()),
                "--listen-client-urls=http://127.0.0.1:2379".into(),
                "--advertise-client-urls=http://127.0.0.1:2379".into(),
                "--listen-peer-urls=http://127.0.0.1:2380".into(),
                "--unsafe-no-fsync".into(), // nobody will want this data after a crash
                "--log-level=warn".into(),
            ],
        )?;
        self.spawn_api_server()?;
        self.spawn(
            "kube-controller-manager",
            &[
                format!("--kubeconfig={kubeconfig}"),
                match nodes {
                    // No kubelet renews the node's lease: without these off its pods would turn
                    // unready and be evicted by themselves.
                    Nodes::Simulated => {
                        "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller"
                    }
                    Nodes::Real => "--controllers=*",
                }
                .into(),
                "--leader-elect=false".into(),
                // It would make its default one, outside of what is ours.
                format!(
                    "--flex-volume-plugin-dir={}",
                    self.scratch.join("flex-volumes").display()
                ),
                format!("--root-ca-file={}", file("ca.crt")),
                format!(
                    "--service-account-private-key-file={}",
                    file("service-account.key")
                ),
                format!("--cluster-signing-cert-file={}", file("ca.crt")),
                format!("--cluster-signing-key-file={}", file("ca.key")),
            ],
        )?;
        let proxy = [
            "proxy".into(),
            format!("--port={PROXY_PORT}"),
            format!("--kubeconfig={kubeconfig}"),
        ];
        self.spawn("kubectl", &proxy)
    }

    fn spawn_api_server(&self) -> Result<()> {
        let file = |name: &str| self.pki.path(name).display().to_string();
        let scratch = |name: &str| self.scratch.join(name).display().to_string();
        self.spawn(
            API_SERVER,
            &[
                "--etcd-servers=http://127.0.0.1:2379".into(),
                format!("--advertise-address={HOST}"),
                "--secure-port=6443".into(),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                format!("--tls-cert-file={}", file("apiserver.crt")),
                format!("--tls-private-key-file={}", file("apiserver.key")),
                format!("--client-ca-file={}", file("ca.crt")),
                "--authorization-mode=RBAC".into(),
                // For logs of pods; a node's name is nothing that could be looked up here.
                "--kubelet-preferred-address-types=InternalIP".into(),
                format!("--kubelet-client-certificate={}", file("admin.crt")),
                format!("--kubelet-client-key={}", file("admin.key")),
                format!("--audit-policy-file={}", scratch(AUDIT_POLICY)),
                format!("--audit-log-path={}", scratch(AUDIT_LOG)),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                format!("--service-account-key-file={}", file("service-account.pub")),
                format!(
                    "--service-account-signing-key-file={}",
                    file("service-account.key")
                ),
            ],
        )
    }

    fn spawn(&self, part: &str, args: &[String]) -> Result<()> {
        let mut command = Command::new(&self.kube);
        command.arg(part).args(args);
        let process = Process::start(part, &mut command)?;
        self.processes().push(process);
        Ok(())
    }

    fn wait_ready(&self) -> Result<()> {
        wait("the API server is ready", START, || {
            self.ensure_running()?;
            self.api.text("/readyz").map(Some)
        })?;
        wait("the controller manager works", START, || {
            self.ensure_running()?;
            let account = "/api/v1/namespaces/default/serviceaccounts/default";
            self.api.get(account)
        })?;
        Ok(())
    }

    /// For tests that need the API server and use nothing of `World`.
    pub fn steady() -> RwLockReadGuard<'static, ()> {
        STEADY.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without the API server while `meanwhile` runs; it is back and ready afterwards. Only while
    /// no other test needs it: alone in the `World`.
    pub fn without_api_server(&self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        let _alone = STEADY.write().unwrap_or_else(PoisonError::into_inner);
        for process in self.processes().iter_mut() {
            if process.name() == API_SERVER {
                process.kill9()?;
            }
        }
        let done = meanwhile();
        self.processes()
            .retain(|process| process.name() != API_SERVER);
        self.spawn_api_server()?;
        self.wait_ready()?;
        done
    }

    fn ensure_running(&self) -> Result<()> {
        self.processes()
            .iter_mut()
            .try_for_each(Process::ensure_running)
    }

    fn processes(&self) -> std::sync::MutexGuard<'_, Vec<Process>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Plain requests as the admin: fast enough for polling.
    pub fn api(&self) -> Api {
        self.api
    }

    /// Runs the real kubectl as the admin; out: its standard output.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run_kubectl(&self.kubeconfig, args, "")
    }

    /// The same as somebody else: see `kubeconfig_for`.
    pub fn kubectl_as(&self, kubeconfig: &Path, args: &[&str]) -> Result<String> {
        self.run_kubectl(kubeconfig, args, "")
    }

    /// The same as the admin, with a text for its standard input (`-f -`).
    pub fn kubectl_stdin(&self, args: &[&str], input: &str) -> Result<String> {
        self.run_kubectl(&self.kubeconfig, args, input)
    }

    /// Runs the real helm as the admin; out: its standard output.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        let helm = std::env::var_os("OLLA_E2E_HELM")
            .context("OLLA_E2E_HELM is not set: run the cluster tests by ./e2e/test cluster")?;
        let what = || format!("helm {}", args.join(" "));
        let home = self.scratch.join("helm");
        let output = Command::new(helm)
            .args(args)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .env("HELM_CACHE_HOME", home.join("cache"))
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"))
            .stdin(Stdio::null())
            .output()
            .with_context(what)?;
        finished(&what(), output)
    }

    fn run_kubectl(&self, kubeconfig: &Path, args: &[&str], input: &str) -> Result<String> {
        let what = || format!("kubectl {}", args.join(" "));
        let mut child = Command::new(&self.kube)
            .arg("kubectl")
            // Before the others, which may end with a command for a pod.
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--cache-dir")
            .arg(self.scratch.join("kubectl-cache"))
            .args(args)
            .env("KUBERC", "off") // whoever runs the tests may have preferences
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(what)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ended without reading says why on its standard error.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().with_context(what)?;
        finished(&what(), output)
    }

    /// Server-side apply, as the operator and the documentation do it.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_stdin(&["apply", "--server-side", "-f", "-"], yaml)
    }

    pub fn apply_file(&self, path: &Path) -> Result<String> {
        let path = path.to_str().context("the path is not UTF-8")?;
        self.kubectl(&["apply", "--server-side", "-f", path])
    }

    /// `kubectl <args> -o json`, such as `["get", "pods", "-n", ns]`.
    pub fn get_json(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {}: JSON", args.join(" ")))
    }

    /// Writes a kubeconfig for this API server. JSON is YAML.
    pub(crate) fn write_kubeconfig(
        &self,
        path: &Path,
        namespace: &str,
        user: &Value,
    ) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": {
                "server": format!("https://{HOST}:6443"),
                "certificate-authority": self.pki.path("ca.crt"),
            }}],
            "users": [{"name": "e2e", "user": user}],
            "contexts": [{"name": "e2e", "context": {
                "cluster": "e2e", "user": "e2e", "namespace": namespace,
            }}],
        });
        std::fs::write(path, config.to_string())
            .with_context(|| format!("write {}", path.display()))
    }
}

/// The standard output of a program that ended well, or an error with what it complained about.
fn finished(what: &str, output: std::process::Output) -> Result<String> {
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}: {}", output.status, complaint.trim());
    }
    String::from_utf8(output.stdout).with_context(|| what.to_owned())
}
