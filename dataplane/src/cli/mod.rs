//! The command line: `run`, `check`, `explain`, `health`, `demo`, `version`.

mod check;
mod explain;
mod health;
mod run;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use http::Uri;

use crate::{
    demo,
    terminal::{LogArgs, complain, say},
};

/// Routes LLM traffic to the backends of one namespace.
#[derive(Debug, Parser)]
#[command(name = "olla-dataplane", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve requests, configured by files or by an operator.
    Run(Box<RunArgs>),
    /// Validate configuration files and print the result; exits with 1 if they are invalid.
    Check(FileArgs),
    /// Print which endpoint would receive a request, and why the others would not.
    Explain(ExplainArgs),
    /// Ask a data plane on this machine whether it is healthy; exits with 1 if not. For health
    /// checks of containers.
    Health(HealthArgs),
    /// Start three toy backends and a data plane: stop and restart them, and watch the traffic move.
    Demo(demo::Args),
    /// Print the version.
    Version,
}

/// Configuration files.
#[derive(Args, Debug)]
pub(crate) struct FileArgs {
    /// LlmEndpoint and OllaRoute YAML, or an Olla config.yaml; a folder means all files in it.
    #[arg(short, long = "file", value_name = "FILE|DIR", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// Namespace to serve; required if the files hold several.
    #[arg(long)]
    namespace: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// LlmEndpoint and OllaRoute YAML, or an Olla config.yaml; a folder means all files in it.
    /// Reloaded when they change.
    #[arg(
        short,
        long = "file",
        value_name = "FILE|DIR",
        num_args = 1..,
        required_unless_present = "operator",
        conflicts_with = "operator"
    )]
    files: Vec<PathBuf>,
    /// Namespace to serve; required if the files hold several.
    #[arg(long, conflicts_with = "operator")]
    namespace: Option<String>,
    /// Receive routing tables from this operator: https://host:port.
    #[arg(long, value_name = "URL", env = "OLLA_OPERATOR_URL")]
    operator: Option<Uri>,
    /// CA of the operator's certificate, PEM (in ConfigMap olla-operator-ca).
    #[arg(
        long,
        value_name = "FILE",
        env = "OLLA_OPERATOR_CA",
        default_value = "/var/run/secrets/olla.dev/ca.crt"
    )]
    operator_ca: PathBuf,
    /// ServiceAccount token with audience olla-operator.
    #[arg(
        long,
        value_name = "FILE",
        env = "OLLA_TOKEN_FILE",
        default_value = "/var/run/secrets/olla.dev/token"
    )]
    token_file: PathBuf,
    /// Directory for the last good table, so that a restart can serve without the operator;
    /// created if missing.
    #[arg(
        long,
        value_name = "DIR",
        env = "OLLA_STATE_DIR",
        default_value = "/var/lib/olla"
    )]
    state_dir: PathBuf,
    /// Name of this data plane at the operator; default: the host name.
    #[arg(long, env = "POD_NAME")]
    name: Option<String>,
    /// Address to listen on; default 127.0.0.1:40114, or what an Olla config.yaml says.
    /// `localhost:PORT` means 127.0.0.1 and, where there is one, ::1.
    #[arg(long, value_name = "ADDR", env = "OLLA_LISTEN", value_parser = listen)]
    listen: Option<Listen>,
    /// Address of the admin listener for `/internal/…` (status, metrics, explain), without TLS;
    /// default: 127.0.0.1:40115 with --operator, else none. With it the clients' port serves
    /// `/internal/health`, `/internal/ready`, `/internal/started` and `/version` only; without it, all of them, and
    /// addresses of backends to clients on this machine only.
    #[arg(long, value_name = "ADDR", env = "OLLA_ADMIN_LISTEN")]
    admin_listen: Option<SocketAddr>,
    /// Certificate chain, PEM: clients must then speak TLS (HTTP/2 or HTTP/1.1). Reloaded
    /// when it changes.
    #[arg(long, value_name = "FILE", env = "OLLA_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", env = "OLLA_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Worker threads; default: one per core.
    #[arg(long, value_name = "N", env = "OLLA_WORKERS", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Maximum connections per client address; further ones are closed at once. Default: 1024, at most a
    /// quarter of all; with `--listen localhost:PORT`, whose clients are one pod's, all. An HTTP/2 connection
    /// counts as two for each stream that it may open, at most 100. Raise it if a proxy in front
    /// carries many clients.
    #[arg(
        long,
        value_name = "N",
        env = "OLLA_MAX_CONNECTIONS_PER_CLIENT",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    max_connections_per_client: Option<u32>,
    /// Seconds after which `/internal/started`, and with it `olla-dataplane health --started`, says yes even
    /// without a routing table; before, as soon as the data plane is ready. Until there is a table,
    /// requests are answered 503. One that has started once with the same `--state-dir` says yes at once.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "OLLA_START_WITHOUT_TABLE_SECONDS",
        default_value_t = 10
    )]
    start_without_table_seconds: u64,
    /// Seconds to keep accepting connections after SIGTERM while reporting not ready, so that load
    /// balancers notice; default: 3 with --operator, else 0.
    #[arg(long, value_name = "SECONDS", env = "OLLA_DRAIN_DELAY_SECONDS")]
    drain_delay_seconds: Option<u64>,
    /// Seconds that requests in flight may take after that; a second signal ends at once.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "OLLA_DRAIN_SECONDS",
        default_value_t = 300
    )]
    drain_seconds: u64,
    /// Log one line per request.
    #[arg(long, env = "OLLA_ACCESS_LOG", default_value_t = true, action = clap::ArgAction::Set)]
    access_log: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Model that the request asks for.
    #[arg(long)]
    model: Option<String>,
    /// Path of the request.
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// Do not probe the endpoints first: decide by the files alone.
    #[arg(long)]
    offline: bool,
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    /// With `both_loopbacks`, the one of IPv4.
    addr: SocketAddr,
    both_loopbacks: bool,
}

fn listen(text: &str) -> Result<Listen, String> {
    let both_loopbacks = text.strip_prefix("localhost:");
    let addr = match both_loopbacks {
        Some(port) => port
            .parse()
            .ok()
            .map(|port: u16| (Ipv4Addr::LOCALHOST, port).into()),
        None => text.parse().ok(),
    };
    let addr = addr.ok_or("an IP address and port is needed, or localhost:PORT")?;
    Ok(Listen {
        addr,
        both_loopbacks: both_loopbacks.is_some(),
    })
}

#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    /// Address that it listens on; one of all interfaces is asked at the loopback address.
    /// `localhost:PORT` means 127.0.0.1.
    #[arg(
        long,
        value_name = "ADDR",
        env = "OLLA_LISTEN",
        default_value = "localhost:40114",
        value_parser = listen
    )]
    listen: Listen,
    /// Address of its admin listener, which is asked instead: it speaks no TLS.
    #[arg(long, value_name = "ADDR", env = "OLLA_ADMIN_LISTEN")]
    admin_listen: Option<SocketAddr>,
    /// Ask whether it is ready for requests (/internal/ready), not only alive (/internal/health).
    #[arg(long)]
    ready: bool,
    /// Ask whether what waits for it may start (/internal/started): it is ready, or has waited long
    /// enough for a routing table. For startup probes of sidecars.
    #[arg(long, conflicts_with = "ready")]
    started: bool,
    /// Seconds that connecting may take, and the answer after that.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout_seconds: u64,
}

impl Cli {
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Run(args) => run::run(*args),
            Command::Check(args) => check::check(&args),
            Command::Explain(args) => explain::explain(&args),
            Command::Health(args) => health::health(&args),
            Command::Demo(args) => demo::demo(args),
            Command::Version => {
                say(&format!("olla-dataplane {}", env!("CARGO_PKG_VERSION")));
                Ok(ExitCode::SUCCESS)
            }
        };
        done.unwrap_or_else(|error| {
            complain(&format!("olla-dataplane: {error:#}"));
            ExitCode::FAILURE
        })
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn with_an_operator_there_is_an_admin_listener_for_this_machine_alone() {
        let admin = |args: &str| {
            let args = format!("olla-dataplane run {args}");
            let cli = Cli::try_parse_from(args.split(' ')).unwrap();
            let Command::Run(args) = cli.command else {
                panic!("it does not run");
            };
            run::admin_listen(&args).map(|addr| addr.to_string())
        };
        let operator = "--operator https://o:1";
        assert_eq!(admin(operator).as_deref(), Some("127.0.0.1:40115"));
        let told = admin(&format!("{operator} --admin-listen [::]:9"));
        assert_eq!(told.as_deref(), Some("[::]:9"));
        assert_eq!(admin("-f a.yaml"), None);
    }

    #[test]
    fn localhost_means_both_loopback_addresses_and_an_address_itself() {
        let of = |text: &str| listen(text).map(|it| (it.addr.to_string(), it.both_loopbacks));
        let both = Ok(("127.0.0.1:40114".to_owned(), true));
        assert_eq!(of("localhost:40114"), both);
        assert_eq!(of("[::1]:1"), Ok(("[::1]:1".to_owned(), false)));
        for text in [
            "localhost",
            "localhost:",
            "localhost:70000",
            "example.com:80",
            "1.2.3.4",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
