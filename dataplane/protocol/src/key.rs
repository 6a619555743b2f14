//! What the pieces of a table are known by.

use serde::{Deserialize, Serialize};

use crate::{EndpointId, InstanceId, RouteId, SetId};

/// What a resource is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKey {
    Profile(String),
    Endpoint(EndpointId),
    Set(SetId),
    /// All instances of an endpoint: only to keep them.
    Instances(EndpointId),
    Instance(EndpointId, InstanceId),
    Route(RouteId),
}
