//! Wires all rooms: `App::start` binds, starts the workers, the prober and the source, and
//! gives back a handle. `main` and the tests use the same.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration};

use manifest::Source;
use serving::listen;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    admin,
    backend::prober,
    client::{listener, tls},
    config::Settings,
    proxy::Worker,
    source::{file, operator},
    state::Shared,
};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;

/// Where tables come from.
#[derive(Debug)]
pub enum From {
    Files {
        paths: Vec<PathBuf>,
        namespace: Option<String>,
    },
    /// Text that does not change: `demo` and tests.
    Text {
        sources: Vec<Source>,
        namespace: Option<String>,
    },
    Operator(operator::Config),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Tells its cause itself, so that is no `source`.
    #[error("listen on {addr}: {cause}")]
    Bind { addr: SocketAddr, cause: io::Error },
    #[error("TLS for clients: {0}")]
    Tls(#[from] tls::Error),
    #[error("start a worker: {0}")]
    Worker(io::Error),
    #[error(transparent)]
    File(#[from] file::Error),
    #[error(transparent)]
    Operator(#[from] operator::Error),
}

/// A running data plane.
#[derive(Debug)]
pub struct Running {
    pub shared: Arc<Shared>,
    /// With the port the system gave, where 0 was asked for.
    pub addr: SocketAddr,
    /// The same of the admin listener, if there is one.
    pub admin: Option<SocketAddr>,
    tasks: JoinSet<()>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
pub struct App;

impl App {
    /// Everything is read and bound before anything runs.
    #[expect(
        clippy::unused_async,
        reason = "so that nobody calls it outside of a runtime"
    )]
    pub async fn start(settings: Settings, from: From) -> Result<Running, Error> {
        let addr = settings.listen;
        let certificate = settings.tls.clone();
        let certificate = certificate.map(tls::Certificate::read).transpose()?;
        let mut tasks = JoinSet::new();
        let shared = Shared::new(settings);
        match from {
            From::Files { paths, namespace } => {
                let sources = file::read(&paths)?;
                let understood = file::usable(&sources, namespace.as_deref())?;
                understood.warn();
                let table = Arc::new(understood.compiled.table);
                shared.apply(table.clone(), table.revision(), "file");
                let namespace = Some(understood.namespace);
                tasks.spawn(file::follow(shared.clone(), paths, namespace, sources));
            }
            From::Text { sources, namespace } => {
                let understood = file::usable(&sources, namespace.as_deref())?;
                let table = Arc::new(understood.compiled.table);
                shared.apply(table.clone(), table.revision(), "file");
            }
            From::Operator(config) => {
                let mut client = operator::Client::prepare(config)?;
                client.load_last_good(&shared);
                tasks.spawn(client.follow(shared.clone()));
            }
        }
        let failed = |cause| Error::Bind { addr, cause };
        let sockets = if shared.settings.both_loopbacks {
            listen::bind_loopback(addr.port(), BACKLOG).map_err(failed)?
        } else {
            vec![listen::bind(addr, BACKLOG).map_err(failed)?]
        };
        let bound = sockets.first().map(TcpListener::local_addr);
        let addr = bound.transpose().map_err(failed)?.unwrap_or(addr);
        let admin = match shared.settings.admin {
            Some(addr) => {
                let failed = |cause| Error::Bind { addr, cause };
                let socket = listen::bind(addr, BACKLOG).map_err(failed)?;
                let addr = socket.local_addr().map_err(failed)?;
                tracing::info!(%addr, "admin listening");
                tasks.spawn(admin::serve(shared.clone(), socket));
                Some(addr)
            }
            None => None,
        };
        let acceptor = certificate
            .as_ref()
            .map(tls::Certificate::acceptor)
            .transpose()?;
        let (workers, threads) = listener::start_workers(&shared, acceptor.as_ref(), |shared| {
            Worker::new(shared.clone(), admin::answer)
        })
        .map_err(Error::Worker)?;
        tasks.spawn(listener::accept(shared.clone(), sockets, workers));
        tasks.spawn(prober::run(shared.clone()));
        tracing::info!(%addr, tls = certificate.is_some(), "listening");
        if let Some(certificate) = certificate {
            tasks.spawn(certificate.follow(
                shared.life.look_at_certificate.clone(),
                shared.life.drain.clone(),
            ));
        }
        Ok(Running {
            shared,
            addr,
            admin,
            tasks,
            threads,
        })
    }
}

impl Running {
    /// Resolves when a task that should run as long as the process has ended.
    pub async fn failed(&mut self) {
        match self.tasks.join_next().await {
            Some(Err(error)) => tracing::error!(%error, "a task died"),
            _ => tracing::error!("a task ended that should not have"),
        }
    }

    /// Says that it is not ready, after a delay stops accepting, lets running answers end, and
    /// returns once they have, or when the drain timeout has passed. True when all ended by
    /// themselves.
    pub async fn drain(mut self) -> bool {
        let limit = self.shared.settings.drain_timeout;
        tracing::info!(limit_s = limit.as_secs(), "draining");
        self.shared.life.leaving.cancel();
        tokio::time::sleep(self.shared.settings.drain_delay).await;
        self.shared.life.drain.cancel();
        while self.tasks.join_next().await.is_some() {}
        let threads = self.threads;
        let ended = tokio::task::spawn_blocking(move || {
            let deadline = std::time::Instant::now() + limit;
            for thread in threads {
                while !thread.is_finished() {
                    if std::time::Instant::now() >= deadline {
                        return false;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                if thread.join().is_err() {
                    tracing::error!("a worker died");
                }
            }
            true
        });
        let ended = ended.await.unwrap_or(false);
        tracing::info!(all_ended = ended, "drained");
        ended
    }
}
