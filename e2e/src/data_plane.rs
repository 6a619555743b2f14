//! One data plane process that takes its tables from the operator. In: a namespace. Out: a client
//! to it, what it says of itself, and ways to treat it badly.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::names::{HOST, operator_url};
use crate::process::{Process, ours};
use crate::wait;

/// From its start to the first probes' results, on a busy machine.
const START: Duration = Duration::from_secs(30);

/// What the operator wants tokens to be for.
pub const AUDIENCE: &str = "olla-operator";

#[derive(Debug)]
pub struct DataPlane {
    process: Process,
    name: String,
    folder: PathBuf,
    /// Where its tables come from.
    source: Vec<String>,
    address: SocketAddr,
    /// Of its admin listener.
    admin: SocketAddr,
}

impl DataPlane {
    pub(crate) fn start(cluster: &Cluster, namespace: &str, name: &str) -> Result<Self> {
        let token = cluster.token(namespace, "default", AUDIENCE)?;
        let mut data_plane = Self::start_with_token(cluster, namespace, name, &token)?;
        data_plane.wait_ready()?;
        Ok(data_plane)
    }

    /// With a token that may not do; returns when it listens.
    pub fn start_with_token(
        cluster: &Cluster,
        namespace: &str,
        name: &str,
        token: &str,
    ) -> Result<Self> {
        let (folder, source) = mounts(cluster, namespace, name, token)?;
        Self::spawn(name, folder, source)
    }

    /// What the kubelet would start for this sidecar of a pod, at the loopback addresses, which all
    /// tests share: one at a time. Only where files lie and who the operator is differ.
    pub fn start_sidecar(cluster: &Cluster, namespace: &str, container: &Value) -> Result<Self> {
        let name = format!("{namespace}-sidecar");
        let token = cluster.token(namespace, "default", AUDIENCE)?;
        let (folder, source) = mounts(cluster, namespace, &name, &token)?;
        let args = container["args"].as_array().into_iter().flatten();
        let args = args.filter_map(Value::as_str).map(str::to_owned);
        let mut args: Vec<String> = args.filter(|arg| !arg.starts_with("--operator=")).collect();
        args.extend_from_slice(&source);
        let anywhere = SocketAddr::from((HOST, 0));
        let mut data_plane = Self {
            process: Process::start(&name, &mut ours("olla-dataplane", args)?)?,
            name,
            folder,
            source,
            address: anywhere,
            admin: anywhere,
        };
        data_plane.wait_listening()?;
        Ok(data_plane)
    }

    /// Without a cluster: from a file of this text.
    pub fn start_on_file(cluster: &Cluster, name: &str, text: &str) -> Result<Self> {
        let folder = cluster.scratch.join("data-planes").join(name);
        std::fs::create_dir_all(&folder).context("create the folder")?;
        let path = folder.join("config.yaml");
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        let source = vec!["--file".to_owned(), path.display().to_string()];
        let mut data_plane = Self::spawn(name, folder, source)?;
        data_plane.wait_ready()?;
        Ok(data_plane)
    }

    fn spawn(name: &str, folder: PathBuf, source: Vec<String>) -> Result<Self> {
        let anywhere = SocketAddr::from((HOST, 0));
        let mut data_plane = Self {
            process: spawn(name, &source, anywhere)?,
            name: name.to_owned(),
            folder,
            source,
            address: anywhere,
            admin: anywhere,
        };
        data_plane.wait_listening()?;
        Ok(data_plane)
    }

    /// Its connections stay open and nothing comes through them.
    pub fn freeze(&mut self) -> Result<()> {
        self.process.freeze()
    }

    pub fn thaw(&mut self) -> Result<()> {
        self.process.thaw()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// Of its status and metrics.
    pub fn admin(&self) -> Client {
        Client::new(self.admin)
    }

    /// All that it logged since its last start.
    pub fn log_text(&self) -> Result<String> {
        self.process.log_text()
    }

    /// `/internal/status`
    pub fn status(&self) -> Result<Value> {
        self.admin().get("/internal/status")?.good()?.json()
    }

    /// `[(endpoint, usable)]` of all instances, sorted.
    pub fn instances(&self) -> Result<Vec<(String, bool)>> {
        let status = self.status()?;
        let instances = status["endpoints"].as_array().into_iter().flatten();
        let mut instances: Vec<(String, bool)> = instances
            .map(|instance| {
                let endpoint = instance["endpoint"].as_str().unwrap_or_default();
                (endpoint.to_owned(), instance["usable"] == true)
            })
            .collect();
        instances.sort();
        Ok(instances)
    }

    /// Where its table came from: `operator`, `disk`, or nothing yet.
    pub fn origin(&self) -> Result<Value> {
        Ok(self.status()?["config"]["origin"].take())
    }

    /// The table on its disk.
    pub fn kept(&self) -> Result<String> {
        let path = self.folder.join("state/table.json");
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// As the kubelet ends a pod; it may take its time. See `wait_exit`.
    pub fn terminate(&mut self) -> Result<()> {
        self.process.terminate()
    }

    /// How it ended, once it has.
    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        self.process.wait_exit(START)
    }

    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Again at the same address and with the same folder; returns when it listens.
    pub fn restart(&mut self) -> Result<()> {
        self.process = spawn(&self.name, &self.source, self.address)?;
        self.wait_listening()
    }

    /// Returns when it has a table and has looked at every instance.
    pub fn wait_ready(&mut self) -> Result<()> {
        wait(&format!("data plane {} is ready", self.name), START, || {
            self.process.ensure_running()?;
            let reply = self.client().get("/internal/ready")?;
            ensure!(reply.status == 200, "{}", reply.body);
            Ok(Some(()))
        })
    }

    fn wait_listening(&mut self) -> Result<()> {
        let what = format!("data plane {} listens", self.name);
        (self.address, self.admin) = wait(&what, START, || {
            self.process.ensure_running()?;
            let log = self.process.log_text()?;
            let admin = address_in(&log, "admin listening");
            Ok(address_in(&log, "listening").zip(admin))
        })?;
        Ok(())
    }
}

/// What a pod of the namespace would find mounted: the folder, and the flags that name what is in it.
fn mounts(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    token: &str,
) -> Result<(PathBuf, Vec<String>)> {
    let folder = cluster.scratch.join("data-planes").join(name);
    let write = |file: &str, text: &str| {
        let path = folder.join(file);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    std::fs::create_dir_all(folder.join("state")).context("create the state folder")?;
    write("token", token)?;
    write("ca.crt", &cluster.operator_ca(namespace)?)?;
    let file = |file: &str| folder.join(file).display().to_string();
    let source = vec![
        format!("--operator={}", operator_url()),
        format!("--operator-ca={}", file("ca.crt")),
        format!("--token-file={}", file("token")),
        format!("--state-dir={}", file("state")),
        format!("--name={name}"),
    ];
    Ok((folder, source))
}

/// An exec probe of a container whose program is the data plane, as the kubelet runs it.
pub fn probe(probe: &Value) -> Result<bool> {
    let command = probe["exec"]["command"].as_array().into_iter().flatten();
    let mut words = command.filter_map(Value::as_str);
    let program = words.next().context("no exec probe")?;
    let status = ours(program, words)?.stdout(Stdio::null()).status();
    Ok(status.context("run the probe")?.success())
}

fn spawn(name: &str, source: &[String], listen: SocketAddr) -> Result<Process> {
    let mut args = vec!["run".to_owned()];
    args.extend_from_slice(source);
    args.extend([
        format!("--listen={listen}"),
        format!("--admin-listen={HOST}:0"),
        "--workers=2".to_owned(),
        "--log-level=info,dataplane=debug".to_owned(),
        "--log-format=json".to_owned(),
    ]);
    Process::start(name, &mut ours("olla-dataplane", args)?)
}

/// The address in the line with this message.
fn address_in(log: &str, message: &str) -> Option<SocketAddr> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["message"] == message)
        .and_then(|line| line["addr"].as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_in_the_log() {
        let log = "not JSON\n{\"message\":\"listening\",\"addr\":\"10.88.0.1:4711\"}\n";
        let found = address_in(log, "listening");
        assert_eq!(found, Some(SocketAddr::from((HOST, 4711))));
        let other = "{\"message\":\"draining\"}\n";
        assert_eq!(address_in(other, "listening"), None);
    }
}
