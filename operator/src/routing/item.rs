//! What is kept of the cluster's objects, and where each piece comes from. Values only.

use std::{collections::BTreeMap, sync::Arc};

use compile::facts::{PodFact, ServicePort, SliceFact};
use crds::{LlmEndpoint, OllaRoute};
use dataplane_protocol::Secret;
use kube::{Resource, core::object::HasSpec};

/// Where items come from: one watch each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// All LlmEndpoints.
    Endpoints,
    /// All OllaRoutes.
    Routes,
    /// Services of one namespace.
    Services(String),
    /// EndpointSlices of one namespace.
    Slices(String),
    /// Pods of one namespace.
    Pods(String),
    /// One Secret.
    Secret { namespace: String, name: String },
}

impl Source {
    /// The one it is confined to.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Endpoints | Self::Routes => None,
            Self::Services(namespace) | Self::Slices(namespace) | Self::Pods(namespace) => {
                Some(namespace)
            }
            Self::Secret { namespace, .. } => Some(namespace),
        }
    }

    /// For metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Endpoints => "LlmEndpoint",
            Self::Routes => "OllaRoute",
            Self::Services(_) => "Service",
            Self::Slices(_) => "EndpointSlice",
            Self::Pods(_) => "Pod",
            Self::Secret { .. } => "Secret",
        }
    }
}

/// What is kept of one object of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub namespace: String,
    pub name: String,
    pub fact: Fact,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    Endpoint(Decoded<LlmEndpoint>),
    Route(Decoded<OllaRoute>),
    Service(ServiceEntry),
    Slice(SliceEntry),
    Pod(PodFact),
    Secret(BTreeMap<String, Secret>),
}

/// An object of ours, or why it is none.
#[derive(Clone, Debug)]
pub enum Decoded<K> {
    /// Metadata trimmed to what compile reads; no status.
    Object(Arc<K>),
    Undecodable {
        uid: Option<String>,
        generation: i64,
        labels: BTreeMap<String, String>,
        message: String,
    },
}

impl<K: Resource> Decoded<K> {
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::Object(object) => object.meta().uid.as_deref(),
            Self::Undecodable { uid, .. } => uid.as_deref(),
        }
    }

    pub fn generation(&self) -> i64 {
        match self {
            Self::Object(object) => object.meta().generation.unwrap_or_default(),
            Self::Undecodable { generation, .. } => *generation,
        }
    }
}

/// Metadata and spec: the status is no part of it.
impl<K: Resource + HasSpec<Spec: PartialEq>> PartialEq for Decoded<K> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Object(one), Self::Object(other)) => {
                one.meta() == other.meta() && one.spec() == other.spec()
            }
            (
                Self::Undecodable {
                    uid,
                    generation,
                    labels,
                    message,
                },
                Self::Undecodable {
                    uid: other_uid,
                    generation: other_generation,
                    labels: other_labels,
                    message: other_message,
                },
            ) => {
                (uid, generation, labels, message)
                    == (other_uid, other_generation, other_labels, other_message)
            }
            _ => false,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceEntry {
    pub ports: Vec<ServicePort>,
    /// Of type ExternalName: the name outside of the cluster.
    pub external_name: Option<String>,
    /// `IPv4` or `IPv6`: the Service's first family. Slices of the other one hold the same pods
    /// again.
    pub family: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceEntry {
    pub service: String,
    pub family: String,
    pub slice: SliceFact,
}
