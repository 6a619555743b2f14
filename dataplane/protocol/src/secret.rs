//! A credential that cannot reach a log by accident.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Prints as `[redacted]`; serialises as it is, because the wire to the data plane must carry
/// it. Whatever is written elsewhere goes through
/// [`RoutingTable::without_credentials`](crate::RoutingTable::without_credentials) first.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Named so that a review finds each use.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
