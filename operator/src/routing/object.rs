//! What is kept of the cluster's objects, and where each piece comes from. Values only.

use compile::{
    Form, Kind,
    facts::{PodFact, SecretFact},
    namespace::{Service, Slice},
};
use crds::{LlmEndpoint, OllaRoute};

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
pub struct CachedObject {
    pub namespace: String,
    pub name: String,
    pub data: ObjectData,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ObjectData {
    Endpoint(Form<LlmEndpoint>),
    Route(Form<OllaRoute>),
    Service(Service),
    Slice(Slice),
    Pod(PodFact),
    Secret(SecretFact),
}

impl ObjectData {
    /// For objects of our own kinds: which, and where they come from.
    pub fn own_kind(&self) -> Option<(Kind, Source)> {
        match self {
            Self::Endpoint(_) => Some((Kind::LlmEndpoint, Source::Endpoints)),
            Self::Route(_) => Some((Kind::OllaRoute, Source::Routes)),
            Self::Service(_) | Self::Slice(_) | Self::Pod(_) | Self::Secret(_) => None,
        }
    }
}
