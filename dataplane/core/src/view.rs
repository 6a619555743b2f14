//! What people see of the fleet: status pages, metrics, reports and the terminal all print
//! these, so that they cannot differ. Never a credential.

use dataplane_protocol::{EndpointId, ModelName, RouteId, status::InstanceView, table::Balancer};
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FleetView {
    pub namespace: String,
    /// Sorted by endpoint, then instance.
    pub instances: Vec<InstanceView>,
    /// In order of precedence.
    pub routes: Vec<RouteView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteView {
    pub route: RouteId,
    pub balancer: Balancer,
    pub targets: Vec<TargetView>,
    /// First attempts in the last 10 s.
    pub recent_requests: u32,
    /// Retries in the last 10 s that cost budget.
    pub recent_retries: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetView {
    pub endpoint: EndpointId,
    pub tier: u32,
    pub priority: u32,
    pub weight: u32,
    pub instances: usize,
    /// Those that this route can send a request now.
    pub usable: usize,
}

/// A model that clients may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelView {
    pub name: ModelName,
    /// That serve it now, sorted.
    pub endpoints: Vec<EndpointId>,
    /// Names of their profiles, sorted, each once.
    pub types: Vec<String>,
    /// Instances that list it.
    pub instances: usize,
    /// Those of them that are not unhealthy; at least 1.
    pub usable: usize,
}
