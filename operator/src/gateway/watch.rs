//! Watches of what gateways depend on and are made of → [`Change`]s.
//!
//! Of a gateway's own kinds only objects of its names are watched, in all namespaces: that is all
//! that the operator may read of them.

use std::fmt::Debug;

use crds::{OllaGateway, OllaGatewaySpec, OllaGatewayStatus};
use futures::StreamExt as _;
use k8s_openapi::{
    api::{core::v1::Namespace, rbac::v1::ClusterRole},
    apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    plan::Seen,
    render::{ChildKind, HASH},
    status::PodCounts,
};
/// Label on a Namespace that keeps gateways out, with the value `disabled`.
const GATEWAY_LABEL: &str = "olla.dev/gateway";
/// As for the operator's other watches.
const WATCH_SECONDS: u32 = 60;

/// An OllaGateway.
#[derive(Clone, Debug)]
pub struct GatewayObject {
    pub generation: i64,
    /// Seconds since 1970.
    pub created: i64,
    /// Or why it has none.
    pub spec: Result<OllaGatewaySpec, String>,
    pub status: OllaGatewayStatus,
}

/// An object that may be a part of a gateway.
#[derive(Clone, Debug, Default)]
pub struct ChildObject {
    pub seen: Seen,
    /// Of a Deployment.
    pub pods: PodCounts,
    /// Of a Deployment: an autoscaler has set its number of pods.
    pub autoscaled: bool,
    /// Of a Service: addresses of its load balancers.
    pub load_balancers: Vec<String>,
}

/// What happened.
#[derive(Debug)]
pub enum Change {
    Gateway(Update<Box<GatewayObject>>),
    Namespace(Update<NamespaceState>),
    Child(ChildKind, Update<ChildObject>),
    /// Uid of the ClusterRole that owns all gateways, if there is one.
    Owner(Option<String>),
}

/// What a Namespace says about its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceState {
    Open,
    /// It keeps gateways out.
    Disabled,
    /// It is being deleted: nothing can be made in it.
    Ending,
}

/// By namespace and name; a Namespace has no namespace.
#[derive(Debug)]
pub enum Update<T> {
    Apply(Key, T),
    Delete(Key),
    /// All there is.
    Reset(Vec<(Key, T)>),
}

pub type Key = (String, String);

/// Starts all watches. They end with the set. `owner`: as
/// [`Settings::owner`](super::settings::Settings::owner).
pub fn start(
    client: &Client,
    owner: Option<&str>,
    changes: &mpsc::Sender<Change>,
    tasks: &mut JoinSet<()>,
) {
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let kind = ApiResource::erase::<OllaGateway>(&());
    let gateways: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let events = watcher(gateways, config.clone());
    let to = changes.clone();
    tasks.spawn(follow("OllaGateway", events, gateway, Change::Gateway, to));

    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    let events = watcher(namespaces, config.clone());
    let state = |object: PartialObjectMeta<Namespace>| {
        let label = object.labels().get(GATEWAY_LABEL);
        if object.metadata.deletion_timestamp.is_some() {
            NamespaceState::Ending
        } else if label.is_some_and(|value| value == "disabled") {
            NamespaceState::Disabled
        } else {
            NamespaceState::Open
        }
    };
    let to = changes.clone();
    tasks.spawn(follow("Namespace", events, state, Change::Namespace, to));

    if let Some(owner) = owner {
        let roles: Api<PartialObjectMeta<ClusterRole>> = Api::all(client.clone());
        let named = config.clone().fields(&format!("metadata.name={owner}"));
        let events = watcher(roles, named);
        let uid = |object: PartialObjectMeta<ClusterRole>| object.uid().unwrap_or_default();
        let change = |update| {
            Change::Owner(match update {
                Update::Apply(_, uid) => Some(uid),
                Update::Delete(_) => None,
                Update::Reset(mut list) => list.pop().map(|(_, uid)| uid),
            })
        };
        let to = changes.clone();
        tasks.spawn(follow("ClusterRole", events, uid, change, to));
    }

    for kind in ChildKind::ALL {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
        let named = config
            .clone()
            .fields(&format!("metadata.name={}", kind.object_name()));
        let events = watcher(api, named);
        let change = move |update| Change::Child(kind, update);
        let decode = move |object| child(kind, &object);
        let to = changes.clone();
        tasks.spawn(follow(kind.as_str(), events, decode, change, to));
    }
}

/// For requests.
pub fn resource(kind: ChildKind) -> ApiResource {
    let (group, version) = match kind.api_version().split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", kind.api_version()),
    };
    let kind_ = GroupVersionKind::gvk(group, version, kind.as_str());
    ApiResource::from_gvk_with_plural(&kind_, kind.plural())
}

async fn follow<K, T>(
    kind: &'static str,
    events: impl futures::Stream<Item = watcher::Result<Event<K>>> + Send,
    decode: impl Fn(K) -> T,
    change: impl Fn(Update<T>) -> Change,
    changes: mpsc::Sender<Change>,
) where
    K: Resource + Clone + Debug + Send + 'static,
{
    let mut events = std::pin::pin!(events.default_backoff());
    let mut list = Vec::new();
    while let Some(event) = events.next().await {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        let update = match event {
            Ok(Event::Init) => {
                list.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                list.push((key(&object), decode(object)));
                continue;
            }
            Ok(Event::InitDone) => Update::Reset(std::mem::take(&mut list)),
            Ok(Event::Apply(object)) => Update::Apply(key(&object), decode(object)),
            Ok(Event::Delete(object)) => Update::Delete(key(&object)),
            Err(error) => {
                tracing::warn!(kind, %error, "watch for gateways failed; will be retried");
                continue;
            }
        };
        if changes.send(change(update)).await.is_err() {
            return;
        }
    }
}

/// The controller of HorizontalPodAutoscalers; `kubectl scale` writes under its own name.
fn is_autoscaler(entry: &ManagedFieldsEntry) -> bool {
    entry.subresource.as_deref() == Some("scale")
        && entry.manager.as_deref() == Some("kube-controller-manager")
}

fn gateway(object: DynamicObject) -> Box<GatewayObject> {
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    let spec = match spec {
        Value::Null => Ok(OllaGatewaySpec::default()),
        spec => serde_json::from_value(spec).map_err(|error| format!("spec: {error}")),
    };
    let status = object.data.get("status").cloned();
    let status = status.and_then(|status| serde_json::from_value(status).ok());
    let created = object.metadata.creation_timestamp.as_ref();
    Box::new(GatewayObject {
        generation: object.metadata.generation.unwrap_or_default(),
        created: created.map_or(i64::MAX, |time| time.0.as_second()),
        spec,
        status: status.unwrap_or_default(),
    })
}

/// As the API server has it.
pub fn child(kind: ChildKind, object: &DynamicObject) -> ChildObject {
    let number = |at: &str| object.data.pointer(at).and_then(Value::as_i64);
    let metadata = &object.metadata;
    let hash = object.annotations().get(HASH).cloned();
    let version = match kind {
        // Their status changes, and with it their resource version.
        ChildKind::Deployment | ChildKind::NetworkPolicy | ChildKind::PodDisruptionBudget => {
            metadata.generation.unwrap_or_default().to_string()
        }
        // It has no generation; what others set there is found by the regular look.
        ChildKind::HorizontalPodAutoscaler => String::new(),
        ChildKind::ServiceAccount | ChildKind::Service => {
            metadata.resource_version.clone().unwrap_or_default()
        }
    };
    let observed = number("/status/observedGeneration") == metadata.generation;
    let pods = PodCounts {
        desired: number("/spec/replicas").unwrap_or(0),
        updated: number("/status/updatedReplicas")
            .filter(|_| observed)
            .unwrap_or(0),
        ready: number("/status/readyReplicas").unwrap_or(0),
    };
    let balancers = object.data.pointer("/status/loadBalancer/ingress");
    let balancers = balancers.and_then(Value::as_array).into_iter().flatten();
    let host = |at: &Value| {
        let host = at.get("ip").or_else(|| at.get("hostname"))?;
        host.as_str().map(str::to_owned)
    };
    ChildObject {
        seen: Seen {
            uid: object.uid().unwrap_or_default(),
            ours: hash.is_some(),
            hash,
            version,
        },
        pods,
        autoscaled: object.managed_fields().iter().any(is_autoscaler),
        load_balancers: balancers.filter_map(host).collect(),
    }
}
