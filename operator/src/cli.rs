//! `olla-operator run | crds | version`: flags and environment → [`Config`], logs, the runtime.

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use clap::{ArgAction, Args, Parser, Subcommand};
use serving::{descriptors, logs};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    app::App,
    config::Config,
    gateway::{Defaults, Settings},
};

/// From the signal to the end of the process.
const SHUTDOWN: Duration = Duration::from_secs(8);

/// Those that are no data plane's: some thousand watches, writes, the admin port.
const OTHER_DESCRIPTORS: u64 = 4_000;

/// Turns LlmEndpoint and OllaRoute objects into routing tables and pushes them to data planes.
#[derive(Debug, Parser)]
#[command(name = "olla-operator", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator until SIGTERM. Uses the pod's service account in a cluster, else KUBECONFIG.
    Run(Box<Run>),
    /// Print all CustomResourceDefinitions as YAML.
    Crds,
    /// Print the version.
    Version,
}

#[derive(Debug, Args)]
struct Run {
    /// Listen address for data planes (HTTP/2 over TLS). `[::]` accepts IPv4 and IPv6.
    #[arg(long, env = "OLLA_LISTEN", default_value = "[::]:9443")]
    listen: SocketAddr,
    /// Listen address of the webhook that injects sidecars (HTTPS, for the API server).
    #[arg(long, env = "OLLA_WEBHOOK_LISTEN", default_value = "[::]:9444")]
    webhook_listen: SocketAddr,
    /// Inject sidecars into pods with the label olla.dev/inject, or in namespaces with it.
    #[arg(long, env = "OLLA_INJECTION", default_value_t = true, action = ArgAction::Set)]
    injection: bool,
    /// Defaults for all sidecars, JSON: `resources` (`requests` and `limits` of `cpu` and `memory`),
    /// `imagePullPolicy`, `imagePullSecrets`. Annotations of a pod win.
    #[arg(long, env = "OLLA_INJECTION_DEFAULTS", default_value = "{}", value_parser = injection::Defaults::parse)]
    injection_defaults: injection::Defaults,
    /// Listen address for /healthz, /readyz and /metrics (plain HTTP).
    #[arg(long, env = "OLLA_ADMIN", default_value = "[::]:9090")]
    admin: SocketAddr,
    /// Namespace of the operator, where the Secret with its certificate is stored.
    #[arg(long, env = "POD_NAMESPACE", default_value = "olla-system")]
    namespace: String,
    /// Instance name reported in Kubernetes Events.
    #[arg(long, env = "POD_NAME", default_value = "olla-operator")]
    instance: String,
    /// Directory with tls.crt, tls.key and ca.crt to use instead of the self-signed certificate.
    #[arg(long)]
    cert_dir: Option<PathBuf>,
    /// Additional DNS names or IP addresses for the self-signed certificate.
    #[arg(long = "tls-san", conflicts_with = "cert_dir")]
    tls_san: Vec<String>,
    /// Image of the data plane, for gateways and sidecars. Without it no gateways are run and no
    /// sidecars injected; who asks for one gets a warning.
    #[arg(long, env = "OLLA_DATA_PLANE_IMAGE", default_value = "")]
    data_plane_image: String,
    /// Run a gateway in each namespace with an OllaRoute.
    #[arg(long, env = "OLLA_GATEWAYS", default_value_t = true, action = ArgAction::Set)]
    gateways: bool,
    /// Defaults for all gateways, JSON: `spec` as in an OllaGateway, `allowImage`,
    /// `imagePullPolicy`, `imagePullSecrets`, `metricsFrom` (a label selector of namespaces).
    #[arg(long, env = "OLLA_GATEWAY_DEFAULTS", default_value = "{}", value_parser = Defaults::parse)]
    gateway_defaults: Defaults,
    /// Seconds that a gateway stays after the last OllaRoute of its namespace is gone.
    #[arg(long, env = "OLLA_GATEWAY_REMOVAL_DELAY_SECONDS", default_value_t = 60)]
    gateway_removal_delay_seconds: u64,
    /// ClusterRole that owns all objects of gateways, so that they are deleted with it.
    #[arg(long, value_name = "CLUSTERROLE", env = "OLLA_GATEWAY_OWNER")]
    gateway_owner: Option<String>,
    /// URL by which gateways and sidecars reach the port of `--listen`. Default:
    /// https://olla-operator.NAMESPACE.svc:9443.
    #[arg(long, value_name = "URL", env = "OLLA_OPERATOR_URL")]
    operator_url: Option<String>,
    /// Log format. Default: `text` if standard error is a terminal, else `json`.
    #[arg(long, value_enum)]
    log_format: Option<logs::Format>,
    /// Log level, or filter directives as tracing's EnvFilter takes them.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log_level: String,
}

impl Cli {
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Crds => print_crds(),
            Command::Version => {
                writeln!(io::stdout(), "olla-operator {}", env!("CARGO_PKG_VERSION"))?;
                Ok(())
            }
        }
    }
}

impl Run {
    fn gateways(&self) -> Option<Settings> {
        if !self.gateways || self.data_plane_image.is_empty() {
            return None;
        }
        Some(Settings {
            image: self.data_plane_image.clone(),
            operator_url: self.operator_url(),
            defaults: self.gateway_defaults.clone(),
            owner: self.gateway_owner.clone(),
            removal_delay: Duration::from_secs(self.gateway_removal_delay_seconds),
        })
    }

    fn operator_url(&self) -> String {
        let inside = || format!("https://olla-operator.{}.svc:9443", self.namespace);
        self.operator_url.clone().unwrap_or_else(inside)
    }

    fn run(self) -> Result<()> {
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .map_err(|_| anyhow!("a TLS provider was installed before ours"))?;
        let (level, terminal) = (&self.log_level, io::stderr().is_terminal());
        logs::start(level, self.log_format, terminal, io::stderr)
            .with_context(|| format!("--log-level {level:?}"))?;
        let default = Config::default();
        let limit = descriptors::raise(default.connections as u64 + OTHER_DESCRIPTORS);
        let (gateways, operator_url) = (self.gateways(), self.operator_url());
        let config = Config {
            connections: connections(limit).min(default.connections),
            gateways,
            operator_url,
            listen: self.listen,
            webhook: self.webhook_listen,
            injection: self.injection,
            injection_defaults: self.injection_defaults,
            data_plane_image: (!self.data_plane_image.is_empty()).then_some(self.data_plane_image),
            admin: self.admin,
            namespace: self.namespace,
            instance: self.instance,
            cert_dir: self.cert_dir,
            tls_san: self.tls_san,
            ..default
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        let result = runtime.block_on(serve(config));
        // Watches and streams are asked to end before; what hangs in a system call is left.
        runtime.shutdown_timeout(Duration::from_millis(500));
        result
    }
}

/// How many data planes a limit on open files leaves room for; with a low one they share it with the
/// watches.
fn connections(limit: Option<u64>) -> usize {
    let limit = limit.unwrap_or(u64::MAX);
    let left = limit.saturating_sub(OTHER_DESCRIPTORS).max(limit / 2);
    usize::try_from(left).unwrap_or(usize::MAX)
}

async fn serve(config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    // Nothing is read at the start only, so there is nothing to read anew; it must not end it.
    let _hang_up = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let client = App::connect().await?;
    let mut running = tokio::select! {
        started = App::start(config, client) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::select! {
        failed = running.failed() => return Err(failed.into()),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    if tokio::time::timeout(SHUTDOWN, running.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some connections did not close in time and are aborted");
    }
    Ok(())
}

fn print_crds() -> Result<()> {
    let mut out = io::stdout().lock();
    for crd in crds::all() {
        let yaml = crds::to_yaml(&crd).map_err(|error| anyhow!("print a CRD: {error}"))?;
        write!(out, "---\n{yaml}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
