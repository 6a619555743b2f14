//! Wires the rooms: binds all ports first, then starts the tasks; any that ends unasked ends the
//! process.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use kube::Client;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    admin::Admin,
    bind::bind,
    config::Config,
    election,
    injection::{self, serve::Webhook},
    leader::Leader,
    metrics::Metrics,
    routing::{Routing, hub::Hub, status_cache::StatusCache, watch::by_client},
    tls,
};

/// The API server's longest silence on a connection that something is expected on.
const API_SILENCE: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub struct App;

impl App {
    /// A client for the cluster we are in, or the one of KUBECONFIG.
    pub async fn connect() -> Result<Client, Error> {
        let mut config = kube::Config::infer()
            .await
            .map_err(|error| Error::Cluster(Box::new(error)))?;
        // Of lists, and of anything else that hangs: without it, a connection that is gone without a
        // word is one for ever. A watch says something, or ends, sooner; see watch.rs.
        config.read_timeout = Some(API_SILENCE);
        config.reset_reader_on_write = true;
        Client::try_from(config).map_err(|error| Error::Cluster(Box::new(error)))
    }

    /// Ports bound, certificate there, all tasks running; not yet [ready](crate::admin).
    pub async fn start(config: Config, client: Client) -> Result<Running, Error> {
        // Whoever embeds us may have installed one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let push = bind("data planes", config.listen)?;
        let admin = bind("health and metrics", config.admin)?;
        let webhook = config.injection.then_some(config.webhook);
        let webhook = webhook.map(|address| bind("the webhook", address));
        let webhook = webhook.transpose()?;
        let addresses = (address(&push, config.listen), address(&admin, config.admin));
        let certificate = tls::ServingCertificate::new(&tls::load(&config, &client).await?)?;

        let metrics = Arc::new(Metrics::default());
        let (hub, status_cache) = (Arc::new(Hub::default()), Arc::new(StatusCache::default()));
        let ready = Arc::new(AtomicBool::new(false));
        let (occupied_tx, occupied) = watch::channel(BTreeSet::new());
        let (elected, leads) = watch::channel(false);
        let stop = CancellationToken::new();

        let routing = Routing::new(
            by_client(client.clone(), metrics.clone()),
            hub.clone(),
            status_cache.clone(),
            occupied_tx,
            ready.clone(),
            metrics.clone(),
        );
        let pages = Admin {
            ready: ready.clone(),
            metrics: metrics.clone(),
        };
        let (namespace, instance) = (config.namespace.clone(), config.instance.clone());
        let election = election::run(
            client.clone(),
            namespace,
            instance,
            ready.clone(),
            elected,
            stop.clone(),
        );
        let leader = Leader {
            config: config.clone(),
            client: client.clone(),
            hub,
            status_cache,
            certificate: certificate.clone(),
            occupied,
            ready,
            metrics: metrics.clone(),
            listener: Some(push),
            address: addresses.0,
        };

        let mut tasks = Tasks::new(stop.clone());
        tasks.spawn("routing", routing.run(stop.clone()));
        tasks.spawn("admin port", pages.run(admin, stop.clone()));
        tasks.spawn("leader election", election);
        tasks.spawn("leader", leader.run(leads, stop.clone()));
        let mut webhook_address = None;
        if let Some(listener) = webhook {
            webhook_address = Some(address(&listener, config.webhook));
            let settings = injection::settings(&config, &client).await;
            let webhook = Webhook::new(settings, metrics);
            let served = webhook.run(listener, certificate.webhook_config()?, stop.clone());
            tasks.spawn("webhook", served);
        }
        let fresh = tls::keep_fresh(config, client, certificate, stop.clone());
        tasks.spawn("certificate renewal", fresh);
        let (push_address, admin_address) = addresses;
        tracing::info!(%push_address, %admin_address, "started");
        Ok(Running {
            push_address,
            admin_address,
            webhook_address,
            tasks,
        })
    }
}

/// A started operator. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Running {
    /// Where data planes connect.
    pub push_address: SocketAddr,
    /// Health and metrics.
    pub admin_address: SocketAddr,
    /// Where the API server asks about pods, if it can.
    pub webhook_address: Option<SocketAddr>,
    tasks: Tasks,
}

impl Running {
    /// Waits for a task that ends without having been asked to.
    pub async fn failed(&mut self) -> Error {
        let task = match self.tasks.set.join_next().await {
            Some(Ok(task)) => task,
            // A panic; its message is in the log.
            Some(Err(_)) | None => "a task",
        };
        Error::TaskEnded { task }
    }

    /// Streams end cleanly, watches stop.
    pub async fn shutdown(mut self) {
        self.tasks.stop.cancel();
        while self.tasks.set.join_next().await.is_some() {}
    }
}

#[derive(Debug)]
struct Tasks {
    set: JoinSet<&'static str>,
    stop: CancellationToken,
}

impl Tasks {
    fn new(stop: CancellationToken) -> Self {
        Self {
            set: JoinSet::new(),
            stop,
        }
    }

    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
