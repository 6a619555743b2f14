//! How a route says which endpoints it uses, so that an endpoint that comes, goes or changes its
//! numbers changes no route.

use serde::{Deserialize, Serialize};

use crate::{EndpointId, SetId};

/// A set and single endpoints add up; what a reference says of an endpoint comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<SetId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<EndpointRef>,
    pub priority_order: PriorityOrder,
}

/// One endpoint, and the numbers that count for this route instead of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRef {
    pub endpoint: EndpointId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PriorityOrder {
    #[default]
    LowestFirst,
    HighestFirst,
}

/// Endpoints that a selector picks. One that is not in the table (it was refused) may be named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSet {
    pub id: SetId,
    /// Sorted.
    pub members: Vec<EndpointId>,
}
