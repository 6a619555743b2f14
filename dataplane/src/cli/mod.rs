//! The command line: `run`, `check`, `explain`, `demo`, `version`.

mod check;
mod explain;
mod run;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

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
    /// Serve, from files or from an operator.
    Run(Box<RunArgs>),
    /// Say what files mean, and whether they can be used; exit code 1 if not.
    Check(FileArgs),
    /// Say which endpoint a request would go to, and why not to the others.
    Explain(ExplainArgs),
    /// Serve three toy backends: kill and revive them, and watch the traffic move.
    Demo(demo::Args),
    /// Print the version.
    Version,
}

/// Which files.
#[derive(Args, Debug)]
pub(crate) struct FileArgs {
    /// LlmEndpoint and OllaRoute YAML, or an Olla config.yaml; a folder stands for its files.
    #[arg(short, long = "file", value_name = "FILE|DIR", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// Serve this namespace; needed where the files hold several.
    #[arg(long)]
    namespace: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// LlmEndpoint and OllaRoute YAML, or an Olla config.yaml; a folder stands for its files.
    /// Read anew when they change.
    #[arg(
        short,
        long = "file",
        value_name = "FILE|DIR",
        num_args = 1..,
        required_unless_present = "operator",
        conflicts_with = "operator"
    )]
    files: Vec<PathBuf>,
    /// Serve this namespace; needed where the files hold several.
    #[arg(long, conflicts_with = "operator")]
    namespace: Option<String>,
    /// Take tables from this operator: https://host:port.
    #[arg(long, value_name = "URL", env = "OLLA_OPERATOR_URL")]
    operator: Option<Uri>,
    /// CA of the operator's certificate, PEM: ConfigMap olla-operator-ca has it.
    #[arg(
        long,
        value_name = "FILE",
        env = "OLLA_OPERATOR_CA",
        default_value = "/var/run/secrets/olla.dev/ca.crt"
    )]
    operator_ca: PathBuf,
    /// ServiceAccount token for audience olla-operator.
    #[arg(
        long,
        value_name = "FILE",
        env = "OLLA_TOKEN_FILE",
        default_value = "/var/run/secrets/olla.dev/token"
    )]
    token_file: PathBuf,
    /// Folder for the last good table, so that a restart can serve without the operator; made
    /// where it is missing.
    #[arg(
        long,
        value_name = "DIR",
        env = "OLLA_STATE_DIR",
        default_value = "/var/lib/olla"
    )]
    state_dir: PathBuf,
    /// Name under which the operator knows this data plane; default: the host's name.
    #[arg(long, env = "POD_NAME")]
    name: Option<String>,
    /// Address to serve on; default 127.0.0.1:40114, or what an Olla config.yaml says.
    #[arg(long, value_name = "ADDR", env = "OLLA_LISTEN")]
    listen: Option<SocketAddr>,
    /// Address of a listener for `/internal/…` (status, metrics, explain), without TLS. With it the
    /// clients' port serves `/internal/health`, `/internal/ready` and `/version` only; without it,
    /// all of them, and addresses of backends to clients on this machine alone.
    #[arg(long, value_name = "ADDR", env = "OLLA_ADMIN_LISTEN")]
    admin_listen: Option<SocketAddr>,
    /// Certificate chain, PEM: clients must then speak TLS (HTTP/2 or HTTP/1.1). Read anew when
    /// it changes.
    #[arg(long, value_name = "FILE", env = "OLLA_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", env = "OLLA_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Threads that serve requests; default: one a core.
    #[arg(long, value_name = "N", env = "OLLA_WORKERS", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Connections that one client address may hold; more are closed at once. An HTTP/2 connection
    /// counts as two for each of the streams that it may open, 100 at most. For a proxy in front
    /// of many clients, raise it.
    #[arg(
        long,
        value_name = "N",
        env = "OLLA_MAX_CONNECTIONS_PER_CLIENT",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    max_connections_per_client: u32,
    /// Seconds between SIGTERM, when it says that it is not ready, and the end of accepting;
    /// default: 3 with --operator, where balancers must learn of it, else 0.
    #[arg(long, value_name = "SECONDS", env = "OLLA_DRAIN_DELAY_SECONDS")]
    drain_delay_seconds: Option<u64>,
    /// Seconds that running answers get to end after that; a second signal ends at once.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "OLLA_DRAIN_SECONDS",
        default_value_t = 300
    )]
    drain_seconds: u64,
    /// One log line a request.
    #[arg(long, env = "OLLA_ACCESS_LOG", default_value_t = true, action = clap::ArgAction::Set)]
    access_log: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Model that the request names.
    #[arg(long)]
    model: Option<String>,
    /// Path of the request.
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// Do not probe the endpoints first: judge by the files alone.
    #[arg(long)]
    offline: bool,
}

impl Cli {
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Run(args) => run::run(*args),
            Command::Check(args) => check::check(&args),
            Command::Explain(args) => explain::explain(&args),
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
    use std::path::Path;

    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn the_manifest_of_a_data_plane_starts_one_with_its_defaults() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../deploy/data-plane/data-plane.yaml"
        );
        let manifest = std::fs::read_to_string(path).unwrap();
        let args = manifest.lines().map(str::trim);
        let args = args.filter_map(|line| line.strip_prefix("- "));
        let args = args.filter(|arg| *arg == "run" || arg.starts_with("--"));
        let cli = Cli::try_parse_from(std::iter::once("olla-dataplane").chain(args)).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("it does not run");
        };
        assert_eq!(
            run.listen,
            Some(SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 40114)))
        );
        assert!(run.operator.is_some());
        let mounted = |path: &Path| {
            let folder = path.display().to_string();
            manifest.contains(&format!("mountPath: {folder}"))
        };
        for file in [&run.operator_ca, &run.token_file] {
            assert!(mounted(file.parent().unwrap()), "{}", file.display());
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(["token", "ca.crt"].contains(&name), "{name}");
        }
        assert!(mounted(&run.state_dir));
        let grace = 3 + run.drain_seconds;
        assert!(manifest.contains(&format!("(3) and --drain-seconds ({})", run.drain_seconds)));
        assert!(manifest.contains(&format!("terminationGracePeriodSeconds: {}", grace + 2)));
    }
}
