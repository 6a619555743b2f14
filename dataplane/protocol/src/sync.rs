//! The conversation on `POST /v1/stream`: one JSON document a line, both ways.
//!
//! The token that proves the namespace travels in the `Authorization` header, never in a line.
//! Unknown members are ignored on both sides, so that a neighbour release may add some.

use serde::{Deserialize, Serialize};

use crate::{EndpointId, InstanceId, Resource, ResourceKey, Revision, TableHash};

/// The format this release speaks. A data plane names its own in [`Hello`]; the operator
/// refuses those it does not know in [`FORMATS`].
pub const FORMAT: u32 = 1;

/// Formats that this release understands.
pub const FORMATS: &[u32] = &[1];

/// Path of the stream.
pub const STREAM_PATH: &str = "/v1/stream";

/// Audience of the ServiceAccount token.
pub const AUDIENCE: &str = "olla-operator";

/// Longest line from the operator, bytes. An endpoint with 10,000 instances takes about 1 MB.
pub const MAX_TABLE_LINE: usize = 8 << 20;

/// Longest line from a data plane, bytes.
pub const MAX_REPORT_LINE: usize = 4 << 20;

/// First line of a data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub format: u32,
    /// Who speaks, for people: the pod's name.
    pub data_plane: String,
    /// Release of the data plane.
    pub version: String,
    /// Content that it already holds, credentials included; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<TableHash>,
}

/// Lines from the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToOperator {
    Hello(Hello),
    /// The table of this revision is in use.
    Ack {
        revision: Revision,
    },
    /// It cannot be used, the one before serves on.
    Nack {
        revision: Revision,
        reason: String,
    },
    Report(Report),
}

/// Lines from the operator. What stands between `Begin` and `Commit` takes effect as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToDataPlane {
    /// `full`: forget what you hold; else change it.
    Begin {
        revision: Revision,
        namespace: String,
        full: bool,
    },
    Upsert(Resource),
    Remove(ResourceKey),
    Commit {
        revision: Revision,
        hash: TableHash,
    },
    /// The stream ends, and trying again will not help before something is changed.
    Refused {
        reason: String,
    },
}

/// What a data plane sees of its instances. Sent when something in it changed, at most once a
/// second, and every 30 seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub instances: Vec<InstanceReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    pub endpoint: EndpointId,
    pub instance: InstanceId,
    pub health: Health,
    pub breaker: Breaker,
    /// Why it is not usable, for people; empty when it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Health {
    /// Not probed yet.
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
}

/// Closed lets traffic flow, Open lets none, HalfOpen lets a few through to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Breaker {
    #[default]
    Closed,
    Open,
    HalfOpen,
}
