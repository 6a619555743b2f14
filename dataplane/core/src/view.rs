//! What people see of the fleet: status pages, metrics, reports and the terminal all print
//! these, so that they cannot differ. Never a credential.

use dataplane_protocol::{
    EndpointId, InstanceId, ModelName, RouteId,
    sync::{Breaker, Health},
    table::Balancer,
};
use serde::Serialize;

use crate::pick::InstanceKey;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FleetView {
    pub namespace: String,
    /// Sorted by endpoint, then instance.
    pub instances: Vec<InstanceView>,
    /// In order of precedence.
    pub routes: Vec<RouteView>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceView {
    pub endpoint: EndpointId,
    pub instance: InstanceId,
    pub key: InstanceKey,
    /// Name of its profile; the detected one for `auto`.
    #[serde(rename = "type")]
    pub profile: String,
    /// `scheme://host:port` and the base path.
    pub url: String,
    /// Where routes use it.
    pub places: Vec<PlaceView>,
    pub health: Health,
    /// Why health is as it is; empty before the first change.
    pub health_reason: String,
    pub breaker: Breaker,
    /// Until an open breaker lets a trial through.
    pub breaker_reopens_in_ms: Option<u64>,
    /// Rest of the time that the backend wants to be left alone.
    pub saturated_for_ms: Option<u64>,
    pub in_flight: u32,
    /// Attempts since it is known.
    pub requests: u64,
    pub failures: u64,
    /// Moving average over about twenty answers.
    pub first_byte_ms_ewma: Option<f64>,
    /// Share of full traffic while it comes back, in 1/1000; 1000 otherwise.
    pub ramp_permille: u32,
    /// What it serves; absent while that is not known.
    pub models: Option<Vec<ModelName>>,
    /// Why models are not known, or old; empty when all is well.
    pub models_reason: String,
    /// Since its models were last asked for, with whatever result; absent before the first.
    pub last_listing_ago_ms: Option<u64>,
    /// Whether some route can send it a request now.
    pub usable: bool,
    /// Why not, for people; empty when usable.
    pub why_not: String,
    pub last_probe_ago_ms: Option<u64>,
    pub next_probe_in_ms: Option<u64>,
}

/// An instance's place in one route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlaceView {
    pub route: RouteId,
    pub tier: u32,
    pub priority: u32,
    pub weight: u32,
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
