//! What only the replica that leads does: it serves data planes, and so knows what they say; and it
//! writes statuses, Events, the CA and gateways. The others watch the cluster and are ready.
//!
//! A term begins when this replica is elected and ends when it is not any more, or with the process.
//! The pod that leads has a label, by which the Service finds it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Error,
    bind::bind,
    config::Config,
    events::{self, Events},
    gateway::Gateways,
    injection::trust,
    metrics::Metrics,
    routing::{
        hub::Hub,
        serve::{Limits, Server},
        sessions::Sessions,
        status_cache::StatusCache,
        writer::{StatusPatcher, Writer},
    },
    tls,
    tokens::{self, Tokens},
};

/// Label of the pod that leads, with the value `true`.
pub const LABEL: &str = "olla.dev/leader";
/// How often the label is looked at.
const LABEL_EVERY: Duration = Duration::from_secs(15);
/// After a label that could not be set.
const LABEL_RETRY: Duration = Duration::from_secs(1);
/// For one request about labels.
const REQUEST: Duration = Duration::from_secs(5);
/// For what ends with a term.
const END: Duration = Duration::from_secs(5);

/// What terms are made of.
pub struct Leader {
    pub config: Config,
    pub client: Client,
    pub hub: Arc<Hub>,
    pub status_cache: Arc<StatusCache>,
    pub certificate: Arc<tls::ServingCertificate>,
    pub occupied: watch::Receiver<BTreeSet<String>>,
    pub ready: Arc<AtomicBool>,
    pub metrics: Arc<Metrics>,
    /// Where data planes connect: bound for the first term, and its address for the others.
    pub listener: Option<TcpListener>,
    pub address: SocketAddr,
}

impl std::fmt::Debug for Leader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leader")
    }
}

impl Leader {
    /// One term after the other until `stop`, or until a task of one ends unasked, or a term cannot
    /// begin.
    pub async fn run(mut self, mut leads: watch::Receiver<bool>, stop: CancellationToken) {
        self.status_cache.stop();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                elected = leads.wait_for(|leads| *leads) => if elected.is_err() {
                    return;
                },
            }
            let end = stop.child_token();
            let mut term = match self.begin(&end).await {
                Ok(term) => term,
                Err(error) => {
                    tracing::error!(%error, "leading is not possible");
                    return;
                }
            };
            self.metrics.leads.set(1);
            let failed = tokio::select! {
                () = stop.cancelled() => false,
                _ = leads.wait_for(|leads| !*leads) => false,
                ended = term.join_next() => ended.is_some(),
            };
            self.metrics.leads.set(0);
            self.status_cache.stop();
            end.cancel();
            // A task that hangs goes with the set.
            let all = async { while term.join_next().await.is_some() {} };
            let _ = timeout(END, all).await;
            if failed || stop.is_cancelled() {
                return;
            }
        }
    }

    async fn begin(&mut self, end: &CancellationToken) -> Result<JoinSet<()>, Error> {
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => bind("data planes", self.address)?,
        };
        // The leader before this one may have renewed it.
        match tls::load(&self.config, &self.client).await {
            Ok(material) => {
                if let Err(error) = self.certificate.replace(&material) {
                    tracing::warn!(%error, "certificate not used; the current one stays in use");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "certificate not read; the current one stays in use");
            }
        }
        let sessions = Arc::new(Sessions::default());
        let (events_tx, events_rx) = Events::channel(self.metrics.clone());
        let mut limits = Limits::default();
        limits.connections.total = self.config.connections;
        let server = Arc::new(Server {
            tokens: Tokens::new(tokens::by_client(self.client.clone()), self.metrics.clone()),
            hub: self.hub.clone(),
            sessions: sessions.clone(),
            status_cache: self.status_cache.clone(),
            events: events_tx.clone(),
            metrics: self.metrics.clone(),
            limits,
            stop: end.clone(),
            conversations: TaskTracker::new(),
        });
        let writer = Writer {
            patcher: StatusPatcher::by_client(self.client.clone()),
            hub: self.hub.clone(),
            sessions: sessions.clone(),
            status_cache: self.status_cache.clone(),
            events: events_tx,
            metrics: self.metrics.clone(),
            settle: self.config.settle,
        };
        // What the leader before this one has not come to.
        self.status_cache.start();
        for namespace in self.occupied.borrow().iter() {
            self.status_cache.mark_all_dirty(namespace);
        }
        let mut term = JoinSet::new();
        term.spawn(writer.run(end.clone()));
        term.spawn(server.run(listener, self.certificate.server_config()?));
        term.spawn(tls::publish_ca(
            self.client.clone(),
            self.certificate.clone(),
            self.occupied.clone(),
            end.clone(),
        ));
        term.spawn(events::publish(
            self.client.clone(),
            self.config.instance.clone(),
            events_rx,
            self.metrics.clone(),
            end.clone(),
        ));
        if self.config.injection {
            term.spawn(trust::keep(
                self.client.clone(),
                self.certificate.clone(),
                end.clone(),
            ));
        }
        if let Some(settings) = &self.config.gateways {
            let gateways = Gateways::new(
                self.client.clone(),
                settings.clone(),
                self.hub.clone(),
                sessions,
                self.occupied.clone(),
                self.ready.clone(),
            );
            term.spawn(gateways.run(end.clone()));
        }
        let pods = Api::namespaced(self.client.clone(), &self.config.namespace);
        term.spawn(label(pods, self.config.instance.clone(), end.clone()));
        Ok(term)
    }
}

/// Keeps the label on this pod, and on no other; takes it away at the end.
async fn label(pods: Api<Pod>, own: String, end: CancellationToken) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = end.cancelled() => break,
            () = sleep(pause) => {}
        }
        pause = LABEL_RETRY;
        match timeout(REQUEST, label_once(&pods, &own)).await {
            Ok(Ok(())) => pause = LABEL_EVERY,
            Ok(Err(error)) => {
                tracing::warn!(%error, "pod not labelled as the leader: data planes do not find it; will be retried");
            }
            Err(_) => {
                tracing::warn!("pod not labelled as the leader: no answer from the API server");
            }
        }
    }
    let _ = timeout(REQUEST, set_label(&pods, &own, None)).await;
}

async fn label_once(pods: &Api<Pod>, own: &str) -> Result<(), kube::Error> {
    let labelled = ListParams::default().labels(&format!("{LABEL}=true"));
    let labelled = pods.list_metadata(&labelled).await?;
    let (ours, others): (Vec<_>, Vec<_>) = labelled.iter().partition(|pod| pod.name_any() == own);
    if ours.is_empty() {
        set_label(pods, own, Some("true")).await?;
    }
    for other in others {
        set_label(pods, &other.name_any(), None).await?;
    }
    Ok(())
}

/// A pod that does not exist is no error: the operator may run outside of the cluster.
async fn set_label(pods: &Api<Pod>, name: &str, value: Option<&str>) -> Result<(), kube::Error> {
    let patch = Patch::Merge(json!({ "metadata": { "labels": { LABEL: value } } }));
    match pods
        .patch_metadata(name, &PatchParams::default(), &patch)
        .await
    {
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        result => result.map(|_| ()),
    }
}
