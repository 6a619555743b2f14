//! The product as a user has it: the chart installed with helm, and the operator running with the
//! rights of the ServiceAccount that the chart made. One for all tests of a run.
//!
//! There is no kubelet, so the operator is a process of ours, and the chart's Deployment stays
//! without a pod. Tests get the world shared, or alone when they take the operator down.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::sync::{RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::client::Client;
use crate::cluster::Cluster;
use crate::names::{HOST, PUSH_PORT, SYSTEM};
use crate::process::{Process, ours};
use crate::tenant::Tenant;
use crate::wait;

/// Where an operator listens, and as whom it is elected.
#[derive(Clone, Copy)]
struct Replica {
    name: &'static str,
    push_port: u16,
    admin_port: u16,
    webhook_port: u16,
}

const FIRST: Replica = Replica {
    name: "olla-operator-0",
    push_port: PUSH_PORT,
    admin_port: 9090,
    webhook_port: 9444,
};
const SECOND: Replica = Replica {
    name: "olla-operator-1",
    push_port: 9445,
    admin_port: 9091,
    webhook_port: 9446,
};

/// A second replica.
#[derive(Debug)]
pub struct Operator {
    process: Process,
}

impl Operator {
    pub fn leads(&self) -> Result<bool> {
        leads(SECOND)
    }

    /// SIGTERM; returns when it has ended.
    pub fn terminate(mut self) -> Result<()> {
        self.process.terminate()?;
        let ended = self.process.wait_exit(START)?;
        ensure!(ended.success(), "{ended}");
        Ok(())
    }
}

fn leads(replica: Replica) -> Result<bool> {
    let client = Client::new((HOST, replica.admin_port).into());
    let text = client.get("/metrics")?.good()?.body;
    Ok(text.lines().any(|line| line == "olla_operator_leader 1"))
}

/// From the operator's start to its first tables, on a busy machine.
const START: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct World {
    cluster: &'static Cluster,
    kubeconfig: PathBuf,
    operator: Mutex<Process>,
    /// Logs of operators that are no more.
    logs: Mutex<Vec<PathBuf>>,
}

type Shared = RwLock<World>;

impl World {
    /// Beside other tests: leave the operator alone.
    pub fn shared() -> Result<RwLockReadGuard<'static, Self>> {
        Ok(Self::the()?.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// While no other test that uses the operator runs. Leave it running at the end.
    pub fn alone() -> Result<RwLockWriteGuard<'static, Self>> {
        let world = Self::the()?.write().unwrap_or_else(PoisonError::into_inner);
        Ok(world)
    }

    fn the() -> Result<&'static Shared> {
        static WORLD: OnceLock<Result<Shared>> = OnceLock::new();
        WORLD
            .get_or_init(|| Self::create().map(RwLock::new))
            .as_ref()
            .map_err(|error| anyhow!("the product was not installed: {error:#}"))
    }

    fn create() -> Result<Self> {
        let cluster = Cluster::shared()?;
        install_chart(cluster)?;
        lead_service_here(cluster)?;
        let kubeconfig = cluster.kubeconfig_for(SYSTEM, "olla-operator")?;
        let operator = start_operator(cluster, &kubeconfig, FIRST)?;
        let world = Self {
            cluster,
            kubeconfig,
            operator: Mutex::new(operator),
            logs: Mutex::default(),
        };
        world.wait_operator()?;
        Ok(world)
    }

    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// A team with a namespace of its own.
    pub fn tenant(&self) -> Result<Tenant> {
        Ok(Tenant::new(self.cluster, self.cluster.namespace()?))
    }

    /// The same with labels on its namespace.
    pub fn tenant_labelled(&self, labels: &[(&str, &str)]) -> Result<Tenant> {
        let namespace = self.cluster.namespace_labelled(labels)?;
        Ok(Tenant::new(self.cluster, namespace))
    }

    /// The same with a name that an example needs; one test a name.
    pub fn tenant_named(&self, namespace: &str) -> Result<Tenant> {
        self.cluster.namespace_named(namespace)?;
        Ok(Tenant::new(self.cluster, namespace.to_owned()))
    }

    /// As a lost node does it. Only when alone.
    pub fn kill_operator(&mut self) -> Result<()> {
        let mut operator = lock(&self.operator);
        lock(&self.logs).push(operator.log().to_owned());
        operator.kill9()
    }

    /// Its connections stay open and nothing comes through them. Only when alone.
    pub fn freeze_operator(&mut self) -> Result<()> {
        lock(&self.operator).freeze()
    }

    pub fn thaw_operator(&mut self) -> Result<()> {
        lock(&self.operator).thaw()
    }

    /// Another one in the place of the one that was killed; returns when it is ready.
    pub fn start_operator(&mut self) -> Result<()> {
        *lock(&self.operator) = start_operator(self.cluster, &self.kubeconfig, FIRST)?;
        self.wait_operator()
    }

    /// A second one beside it; it ends when dropped. Only when alone.
    pub fn second_operator(&mut self) -> Result<Operator> {
        let process = start_operator(self.cluster, &self.kubeconfig, SECOND)?;
        Ok(Operator { process })
    }

    /// Whether the first one leads.
    pub fn operator_leads(&self) -> Result<bool> {
        leads(FIRST)
    }

    /// All that operators have logged in this run, the one that runs last: it only grows.
    pub fn operator_logs(&self) -> Result<String> {
        let mut text = String::new();
        for log in lock(&self.logs).iter() {
            let old = std::fs::read_to_string(log);
            text.push_str(&old.with_context(|| format!("read {}", log.display()))?);
        }
        Ok(text + &lock(&self.operator).log_text()?)
    }

    pub fn operator_pid(&self) -> u32 {
        lock(&self.operator).pid()
    }

    /// The operator's `/metrics`.
    pub fn operator_metrics(&self) -> Result<String> {
        Ok(admin().get("/metrics")?.good()?.body)
    }

    pub fn operator_metrics_url(&self) -> String {
        admin().url() + "/metrics"
    }

    fn wait_operator(&self) -> Result<()> {
        wait("the operator is ready", START, || {
            lock(&self.operator).ensure_running()?;
            let reply = admin().get("/readyz")?;
            ensure!(reply.status == 200, "{}: {}", reply.status, reply.body);
            Ok(Some(()))
        })
    }
}

fn admin() -> Client {
    Client::new((HOST, FIRST.admin_port).into())
}

/// Linted, tried on the API server, then installed: each step as a careful user would.
fn install_chart(cluster: &Cluster) -> Result<()> {
    let chart = chart();
    let chart = chart.to_str().context("the path is not UTF-8")?;
    cluster.helm(&["lint", "--strict", chart, "--set", REGISTRY])?;
    // As strict as a cluster can be about pods: the chart's must be let in there.
    cluster.create_namespace(
        SYSTEM,
        &[("pod-security.kubernetes.io/enforce", "restricted")],
    )?;
    let install = ["install", "olla", chart, "-n", SYSTEM, "--set", REGISTRY];
    cluster.helm(&[&install[..], &["--dry-run=server"]].concat())?;
    // No --wait: nothing runs pods here.
    cluster.helm(&install)?;
    for kind in ["llmendpoints", "ollagateways", "ollaroutes"] {
        let crd = format!("crd/{kind}.olla.dev");
        let wait = ["wait", "--for=condition=Established", &crd, "--timeout=30s"];
        cluster.kubectl(&wait)?;
    }
    Ok(())
}

/// The webhook's configuration names a Service. Without a kube-proxy nothing leads from
/// its address to the process that plays the operator's pod, so the address becomes one of this
/// machine.
fn lead_service_here(cluster: &Cluster) -> Result<()> {
    let path = format!("/api/v1/namespaces/{SYSTEM}/services/olla-operator-webhook");
    let service = cluster.api().get(&path)?.unwrap_or_default();
    let ip = service["spec"]["clusterIP"].as_str();
    let ip = format!("{}/32", ip.context("the webhook's Service has no address")?);
    let output = Command::new("ip")
        .args(["address", "add", &ip, "dev", "olla0"])
        .output()
        .context("run ip")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip address add {ip}: {complaint}");
    Ok(())
}

/// The value that the chart requires. Nothing here pulls an image.
pub const REGISTRY: &str = "image.registry=olla.test";

/// The folder of the chart.
pub fn chart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/olla")
}

/// With the arguments of the chart's Deployment, but for where it listens: it shares the machine's
/// addresses with all the others here.
fn start_operator(cluster: &Cluster, kubeconfig: &Path, replica: Replica) -> Result<Process> {
    let path = format!("/apis/apps/v1/namespaces/{SYSTEM}/deployments/olla-operator");
    let deployment = cluster.api().get(&path)?.unwrap_or_default();
    let args = &deployment["spec"]["template"]["spec"]["containers"][0]["args"];
    let args = args.as_array().context("the Deployment has no args")?;
    let mut args: Vec<String> = args
        .iter()
        .filter_map(|arg| arg.as_str().map(str::to_owned))
        .filter(|arg| DIFFERENT.iter().all(|flag| !arg.starts_with(flag)))
        .collect();
    args.extend([
        format!("--listen={HOST}:{}", replica.push_port),
        // Where the API server asks: at the Service's address.
        format!("--webhook-listen=[::]:{}", replica.webhook_port),
        format!("--admin={HOST}:{}", replica.admin_port),
        // No Service leads to a process outside of any pod.
        format!("--tls-san={HOST}"),
        // Nobody wants to wait for a minute.
        "--gateway-removal-delay-seconds=2".to_owned(),
        // The more it says, the more could leak: see tests/cluster/secrets.rs.
        "--log-level=info,operator=debug".to_owned(),
    ]);
    let mut command = ours("olla-operator", args)?;
    command
        .env("KUBECONFIG", kubeconfig)
        .env("POD_NAMESPACE", SYSTEM)
        .env("POD_NAME", replica.name);
    Process::start(replica.name, &mut command)
}

/// Flags of the chart's that are other ones here.
const DIFFERENT: [&str; 5] = [
    "--listen=",
    "--webhook-listen=",
    "--admin=",
    "--log-level=",
    "--gateway-removal-delay-seconds=",
];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
