//! One task per [`Source`]: watch events → [`Change`]s for the index.
//!
//! Our two kinds are watched in all namespaces, as dynamic objects, so that one undecodable object
//! becomes a verdict and not a stopped watch. All else is watched where an endpoint needs it and
//! as long as it does; a Secret alone, by its name. A watch that breaks is taken up again with
//! backoff; its task ends when it is stopped.

use std::{collections::BTreeSet, collections::HashMap, fmt::Debug, mem, pin::pin, sync::Arc};

use crds::{LlmEndpoint, OllaRoute};
use futures::StreamExt as _;
use k8s_openapi::api::{
    core::v1::{Pod, Secret, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    decode,
    index::{CachedObject, Source},
    status_cache::CachedStatus,
};
use crate::metrics::{KindLabel, Metrics};

/// Changes that may wait for the index; a full queue holds the watches back.
const QUEUE: usize = 1024;

/// What happened at one source.
#[derive(Debug)]
pub struct Change {
    pub source: Source,
    /// Which start of the watch it comes from: a stopped one may still have some in the queue.
    pub watch: u64,
    pub what: ChangeKind,
}

#[derive(Debug)]
pub enum ChangeKind {
    Apply(DecodedObject),
    Delete {
        namespace: String,
        name: String,
    },
    /// All there is.
    Reset(Vec<DecodedObject>),
}

/// An object and, for our own kinds, what its status says.
#[derive(Debug)]
pub struct DecodedObject {
    pub object: CachedObject,
    pub status: Option<CachedStatus>,
}

/// The running watches.
#[derive(Debug)]
pub struct Watches {
    running: HashMap<Source, Running>,
    by_namespace: HashMap<String, BTreeSet<Source>>,
    next: u64,
    tx: mpsc::Sender<Change>,
    start: Start,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Running {
    watch: u64,
    task: JoinHandle<()>,
}

/// How a watch is started.
pub type Starter = Box<dyn Fn(Source, u64, mpsc::Sender<Change>) -> JoinHandle<()> + Send>;

struct Start(Starter);

impl Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Start")
    }
}

impl Watches {
    pub fn new(start: Starter, metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Change>) {
        let (tx, rx) = mpsc::channel(QUEUE);
        let watches = Self {
            running: HashMap::new(),
            by_namespace: HashMap::new(),
            next: 0,
            tx,
            start: Start(start),
            metrics,
        };
        (watches, rx)
    }

    /// Starts the watch unless it runs.
    pub fn start(&mut self, source: &Source) {
        if self.running.contains_key(source) {
            return;
        }
        self.next += 1;
        let watch = self.next;
        let task = (self.start.0)(source.clone(), watch, self.tx.clone());
        self.running.insert(source.clone(), Running { watch, task });
        if let Some(namespace) = source.namespace() {
            let of_namespace = self.by_namespace.entry(namespace.to_owned()).or_default();
            of_namespace.insert(source.clone());
        }
        self.metrics.watches.inc();
    }

    pub fn stop(&mut self, source: &Source) {
        let Some(running) = self.running.remove(source) else {
            return;
        };
        running.task.abort();
        self.metrics.watches.dec();
        let Some(namespace) = source.namespace() else {
            return;
        };
        if let Some(of_namespace) = self.by_namespace.get_mut(namespace) {
            of_namespace.remove(source);
            if of_namespace.is_empty() {
                self.by_namespace.remove(namespace);
            }
        }
    }

    /// Whether the change comes from the watch that runs now.
    pub fn is_current(&self, change: &Change) -> bool {
        self.running
            .get(&change.source)
            .is_some_and(|running| running.watch == change.watch)
    }

    /// The sources of one namespace that are watched.
    pub fn of(&self, namespace: &str) -> BTreeSet<Source> {
        self.by_namespace
            .get(namespace)
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.task.abort();
        }
    }
}

/// How long one watch call lasts; the next takes up where it ended. Short, so that a connection that
/// brings nothing any more is noticed within this and some seconds.
const WATCH_SECONDS: u32 = 60;

/// Watches by the API server.
pub fn by_client(client: Client, metrics: Arc<Metrics>) -> Starter {
    Box::new(move |source, watch, tx| {
        let to = To {
            source,
            watch,
            tx,
            metrics: metrics.clone(),
        };
        tokio::spawn(run(client.clone(), to))
    })
}

/// Where a watch's changes go.
struct To {
    source: Source,
    watch: u64,
    tx: mpsc::Sender<Change>,
    metrics: Arc<Metrics>,
}

async fn run(client: Client, to: To) {
    let all = watcher::Config::default().timeout(WATCH_SECONDS);
    match to.source.clone() {
        Source::Endpoints => {
            let kind = ApiResource::erase::<LlmEndpoint>(&());
            let api: Api<DynamicObject> = Api::all_with(client, &kind);
            follow(api, all, |object| ours(decode::endpoint(object)), to).await;
        }
        Source::Routes => {
            let kind = ApiResource::erase::<OllaRoute>(&());
            let api: Api<DynamicObject> = Api::all_with(client, &kind);
            follow(api, all, |object| ours(decode::route(object)), to).await;
        }
        Source::Services(namespace) => {
            let api: Api<Service> = Api::namespaced(client, &namespace);
            follow(api, all, |object| plain(decode::service(object)), to).await;
        }
        Source::Slices(namespace) => {
            let api: Api<EndpointSlice> = Api::namespaced(client, &namespace);
            follow(api, all, |object| plain(decode::slice(object)), to).await;
        }
        Source::Pods(namespace) => {
            let api: Api<Pod> = Api::namespaced(client, &namespace);
            follow(api, all, |object| plain(decode::pod(object)), to).await;
        }
        Source::Secret { namespace, name } => {
            let api: Api<Secret> = Api::namespaced(client, &namespace);
            let only = all.fields(&format!("metadata.name={name}"));
            follow(api, only, |object| plain(decode::secret(object)), to).await;
        }
    }
}

/// Until nobody takes the changes any more.
async fn follow<K>(api: Api<K>, config: watcher::Config, found: impl Fn(K) -> DecodedObject, to: To)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut list = Vec::new();
    while let Some(event) = events.next().await {
        let what = match event {
            Ok(Event::Init) => {
                list.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                list.push(found(object));
                continue;
            }
            Ok(Event::InitDone) => ChangeKind::Reset(mem::take(&mut list)),
            Ok(Event::Apply(object)) => ChangeKind::Apply(found(object)),
            Ok(Event::Delete(object)) => ChangeKind::Delete {
                namespace: object.namespace().unwrap_or_default(),
                name: object.name_any(),
            },
            Err(error) => {
                to.count(&error);
                continue;
            }
        };
        let change = Change {
            source: to.source.clone(),
            watch: to.watch,
            what,
        };
        if to.tx.send(change).await.is_err() {
            return;
        }
    }
}

impl To {
    fn count(&self, error: &watcher::Error) {
        let kind = self.source.kind();
        self.metrics
            .watch_errors
            .get_or_create(&KindLabel { kind })
            .inc();
        tracing::warn!(source = ?self.source, %error, "watch failed; will be retried");
    }
}

fn ours((object, status): (CachedObject, CachedStatus)) -> DecodedObject {
    let status = Some(status);
    DecodedObject { object, status }
}

fn plain(object: CachedObject) -> DecodedObject {
    DecodedObject {
        object,
        status: None,
    }
}
