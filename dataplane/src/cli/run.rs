//! `run`: serve until told to stop.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serving::descriptors;
use tokio::signal::unix::{SignalKind, signal};

use super::RunArgs;
use crate::{
    app::{App, From},
    backend::resolve,
    config::{ADMIN_ADDRESS, Settings, TlsFiles},
    logging,
    source::{file, operator},
};

/// Two for each of 4,000 requests at a time: its client's and its backend's.
const DESCRIPTORS: u64 = 8_192;
/// Those that are no client's and no request's: the operator, probes, listings, files, the admin
/// listener.
const OTHER_DESCRIPTORS: u64 = 256;

pub(super) fn run(args: RunArgs) -> Result<ExitCode> {
    let _flush = logging::start(&args.log.log_level, args.log.log_format)?;
    let limit = descriptors::raise(DESCRIPTORS);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Files and disks, and beside them all look-ups of names that may hang at a time.
        .max_blocking_threads(8 + resolve::AT_ONCE)
        .build()
        .context("start the runtime")?;
    let done = runtime.block_on(serve(args, limit.map_or(usize::MAX, client_connections)));
    // A write to a disk that hangs is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

const CLIENT_CONNECTIONS: usize = 1024;

/// In the state folder, empty: a process before this one has started.
const STARTED_FILE: &str = "started";

/// How many clients' connections a limit on open files has room for, each with one to a backend.
fn client_connections(limit: u64) -> usize {
    let each = limit.saturating_sub(OTHER_DESCRIPTORS) / 2;
    usize::try_from(each).unwrap_or(usize::MAX).max(16)
}

/// How many of them one address may have. It leaves places to others, the kubelet's probes among
/// them, unless all clients are one pod's.
fn connections_of_one(asked: Option<u32>, all: usize, one_pod: bool) -> usize {
    let asked = asked.map(|number| number as usize);
    if one_pod {
        return asked.unwrap_or(usize::MAX).min(all);
    }
    asked.unwrap_or(CLIENT_CONNECTIONS).min((all / 4).max(4))
}

async fn serve(args: RunArgs, all_client_connections: usize) -> Result<ExitCode> {
    let mut settings = Settings {
        drain_delay: Duration::from_secs(args.drain_delay_seconds.unwrap_or_else(|| {
            // Without a cluster a person waits for it.
            if args.operator.is_some() { 3 } else { 0 }
        })),
        drain_timeout: Duration::from_secs(args.drain_seconds),
        start_without_table: Duration::from_secs(args.start_without_table_seconds),
        all_client_connections,
        access_log: args.access_log,
        admin: admin_listen(&args),
        ..Settings::default()
    };
    if let Some(workers) = args.workers {
        settings.workers = workers.into();
    }
    settings.tls = (args.tls_cert.clone())
        .zip(args.tls_key.clone())
        .map(|(certificate, key)| TlsFiles { certificate, key });
    if let Some(listen) = args.listen {
        settings.listen = listen.addr;
        settings.both_loopbacks = listen.both_loopbacks;
    } else if let Some(addr) = listen_of_files(&args)? {
        settings.listen = addr;
    }
    settings.client_connections = connections_of_one(
        args.max_connections_per_client,
        all_client_connections,
        settings.both_loopbacks,
    );
    if args.operator.is_some() {
        let marker = args.state_dir.join(STARTED_FILE);
        // The containers that wait for a sidecar run already, and are out of their Service for as
        // long as it has not started again.
        if marker.exists() {
            settings.start_without_table = Duration::ZERO;
        }
        settings.started_file = Some(marker);
    }
    let from = match args.operator {
        Some(url) => From::Operator(operator::Config {
            url,
            ca_file: args.operator_ca,
            token_file: args.token_file,
            state_dir: Some(args.state_dir),
            name: args.name.unwrap_or_else(host_name),
        }),
        None => From::Files {
            paths: args.files,
            namespace: args.namespace,
        },
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The custom of daemons: read the files anew.
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut running = App::start(settings, from).await?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => running.shared.life.reload(),
            () = running.failed() => return Ok(ExitCode::FAILURE),
        }
    }
    tokio::select! {
        _ = running.drain() => Ok(ExitCode::SUCCESS),
        // Somebody has no time.
        _ = terminate.recv() => Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => Ok(ExitCode::FAILURE),
    }
}

/// With an operator there are many clients, and people who are not among them.
pub(super) fn admin_listen(args: &RunArgs) -> Option<SocketAddr> {
    args.admin_listen
        .or_else(|| args.operator.is_some().then_some(ADMIN_ADDRESS))
}

/// Olla's config.yaml may say where to listen. Whether the files can be used at all is found out
/// when they are: here they are only asked for an address.
fn listen_of_files(args: &RunArgs) -> Result<Option<SocketAddr>> {
    let Ok(sources) = file::read(&args.files) else {
        return Ok(None);
    };
    let Ok(understood) = file::understand(&sources, args.namespace.as_deref()) else {
        return Ok(None);
    };
    let Some(listen) = understood.loaded.settings.listen else {
        return Ok(None);
    };
    let addresses = listen.to_socket_addrs();
    let address = addresses.ok().and_then(|mut addresses| addresses.next());
    let address = address.with_context(|| {
        format!("server.host and port say {listen}, which is no address here: use --listen")
    })?;
    Ok(Some(address))
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_to_others_unless_all_clients_are_one_pod_s() {
        for (asked, all, one_pod, gets) in [
            (None, usize::MAX, false, 1024),
            (None, 1000, false, 250),
            (Some(10), 1000, false, 10),
            (None, 10, false, 4),
            (None, 1000, true, 1000),
            (None, usize::MAX, true, usize::MAX),
            (Some(10), 1000, true, 10),
        ] {
            assert_eq!(connections_of_one(asked, all, one_pod), gets);
        }
    }
}
