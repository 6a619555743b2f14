//! What a data plane says of itself under `/internal/…` and `/version`: one type a document, for
//! who writes them and for who reads them. Olla's field names where it has them. A reader takes no
//! offence at members that it does not know. Never a credential.

mod explanation;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    EndpointId, InstanceId, ModelName, Revision, RouteId,
    sync::{Breaker, Health},
};

pub use self::explanation::{CandidateView, Decision, Explanation, NO_ROUTE};

/// `/internal/status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub system: System,
    pub config: Config,
    /// Sorted by endpoint, then instance.
    pub endpoints: Vec<InstanceView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    pub status: Condition,
    /// Release of the data plane.
    pub version: String,
    pub uptime_seconds: u64,
    /// `usable/all` instances.
    pub endpoints_up: String,
    /// Attempts under way.
    pub active_connections: u32,
    pub total_requests: u64,
    pub total_failures: u64,
    pub draining: bool,
}

/// All instances at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// All are usable.
    Healthy,
    /// Some are not.
    Degraded,
    /// None is, or there is none.
    Critical,
}

/// The table in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub namespace: String,
    /// Absent until the first table.
    pub revision: Option<Revision>,
    /// `file`, `operator`, `disk`; empty until the first table.
    pub origin: String,
    /// What keeps a newer one from being used; empty when nothing does.
    pub problem: String,
}

/// `/internal/status/endpoints`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoints {
    pub total_count: usize,
    pub healthy_count: usize,
    /// Instances that some route can send a request now.
    pub routable_count: usize,
    /// Sorted by endpoint, then instance.
    pub endpoints: Vec<InstanceView>,
}

/// `/internal/status/models`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Models {
    pub total_models: usize,
    pub models: Vec<Model>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    pub name: ModelName,
    /// That serve it now, sorted.
    pub endpoints: Vec<EndpointId>,
}

/// `/internal/health` and `/internal/ready`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// `healthy`; `ready` or `not ready`.
    pub status: String,
    /// Why it should get no requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `/version`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub name: String,
    pub version: String,
}

/// Of a page that is not told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDocument {
    pub error: String,
}

/// Names one instance's live state. Never reused within a process, so what is late finds nobody
/// rather than somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceKey(u32);

impl InstanceKey {
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceView {
    pub route: RouteId,
    pub tier: u32,
    pub priority: u32,
    pub weight: u32,
}
