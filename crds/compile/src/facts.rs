//! What the world says beside our kinds, for one namespace: Services and their addresses, pods,
//! Secrets. Plain values: the operator fills them from its watches, the standalone data plane
//! from Secret documents in its files.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dataplane_protocol::Secret;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// False in the standalone data plane: `service` and `podSelector` then cannot be resolved,
    /// and the verdict says so.
    pub in_cluster: bool,
    pub services: BTreeMap<String, ServiceFact>,
    pub pods: BTreeMap<String, PodFact>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, SecretFact>,
    /// What has not been listed yet, so that nothing is known of it.
    pub unlisted: Unlisted,
}

/// A Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFact {
    /// Values by key; those of a token are not kept.
    pub values: BTreeMap<String, Secret>,
    /// Of type `kubernetes.io/service-account-token`: it speaks for an account of this cluster,
    /// and no backend is to have it.
    pub is_token: bool,
}

impl From<BTreeMap<String, Secret>> for SecretFact {
    fn from(values: BTreeMap<String, Secret>) -> Self {
        Self {
            values,
            is_token: false,
        }
    }
}

/// What is missing here is not known to be absent: data planes keep what they hold of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unlisted {
    /// Services or their EndpointSlices.
    pub services: bool,
    pub pods: bool,
    /// Secrets by name.
    pub secrets: BTreeSet<String>,
}

/// A Service and its EndpointSlices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFact {
    /// The name outside of the cluster that it stands for (type ExternalName).
    pub external_name: Option<String>,
    pub ports: Vec<ServicePort>,
    pub slices: Vec<Arc<SliceFact>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty for the only, unnamed port.
    pub name: String,
    /// As the Service names it.
    pub port: u16,
    /// Not UDP or SCTP.
    pub tcp: bool,
}

/// One EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceFact {
    /// Target ports by port name (empty for the unnamed).
    pub ports: BTreeMap<String, u16>,
    pub addresses: Vec<SliceAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceAddress {
    pub ip: String,
    /// The slice's `ready` condition (absent there means true), and not terminating.
    pub ready: bool,
    /// Name of the pod behind it, if it is one.
    pub pod: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFact {
    pub labels: BTreeMap<String, String>,
    /// Empty until assigned.
    pub ip: String,
    /// The pod's `Ready` condition, no deletion timestamp, and not ended.
    pub ready: bool,
    /// TCP ports of its containers by name.
    pub ports: BTreeMap<String, u16>,
}

impl PodFact {
    pub(crate) fn is_usable(&self) -> bool {
        self.ready && !self.ip.is_empty()
    }
}
