//! The conversation on `POST /v1/stream`: one JSON document a line, both ways.
//!
//! The token that proves the namespace travels in the `Authorization` header, never in a line.
//! Unknown members are ignored on both sides, so that a neighbour release may add some.

use serde::{Deserialize, Serialize};

use crate::{EndpointId, InstanceId, Resource, ResourceKey, Revision};

/// Formats that this release speaks, newest first. A data plane names its own in [`Hello`], and the
/// operator takes the newest that both know: see [`common_format`]. A release that adds one keeps
/// the one before, so that neighbouring releases understand each other.
pub const FORMATS: &[u32] = &[FORMAT];

/// The newest of them; also that of tables on disk.
pub const FORMAT: u32 = 1;

/// The newest format among `theirs` that this release speaks, too.
pub fn common_format(theirs: &[u32]) -> Option<u32> {
    FORMATS.iter().copied().find(|ours| theirs.contains(ours))
}

/// Path of the stream.
pub const STREAM_PATH: &str = "/v1/stream";

/// Audience of the ServiceAccount token.
pub const AUDIENCE: &str = "olla-operator";

/// Longest line from the operator, bytes. The longest are routes: one that names 10,000 endpoints
/// takes about 1 MB.
pub const MAX_TABLE_LINE: usize = 4 << 20;

/// Longest line from a data plane, bytes: [`REPORTED_AT_ONCE`] instances with reasons of
/// [`MAX_REASON`] bytes and names as long as Kubernetes lets them be.
pub const MAX_REPORT_LINE: usize = 64 << 10;

/// Instances in one report at most; what there is more goes into the next line.
pub const REPORTED_AT_ONCE: usize = 25;

/// Longest reason in a report, bytes; longer ones are cut.
pub const MAX_REASON: usize = 256;

/// First line of a data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The [formats](FORMATS) it speaks.
    pub formats: Vec<u32>,
    /// Who speaks, for people: the pod's name.
    pub data_plane: String,
    /// Release of the data plane.
    pub version: String,
    /// Content that it already holds, credentials included; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
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
    /// The first line: the format of all that follows.
    Welcome {
        format: u32,
    },
    /// `full`: forget what you hold, except for what is to be kept; else change it.
    Begin {
        namespace: String,
        full: bool,
    },
    Upsert(Resource),
    /// The operator does not know this one at the moment: leave it as it is held, and go without
    /// where it is not. Until it is upserted or removed.
    Keep(ResourceKey),
    Remove(ResourceKey),
    /// What the result must be.
    Commit {
        revision: Revision,
    },
    /// The stream ends, and trying again will not help before something is changed.
    Refused {
        reason: String,
    },
}

/// What a data plane sees of its instances: all of them once a stream, then those of which there
/// is news. Of one that leaves the table nothing need be said. Sent at most once a second, in lines of [`REPORTED_AT_ONCE`] instances.
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
