//! How an attempt ended, as the fleet is told.

use std::time::Duration;

use crate::classify::Cause;

/// How an attempt ended, said once for each [`Ticket`](crate::Ticket).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer ended whole, and its status blames nobody but the request.
    Success,
    Failure(Cause),
    /// 429, or 503 with `Retry-After`: the backend lives and wants to be left alone for that
    /// long (default 1 s, at most 60 s). Neither success nor failure.
    Saturated {
        retry_after: Option<Duration>,
    },
    /// The client left, or we cut the attempt: says nothing about the backend.
    Cancelled,
}

impl Outcome {
    /// For metrics; from a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "answered",
            Self::Failure(cause) => cause.label(),
            Self::Saturated { .. } => "saturated",
            Self::Cancelled => "cancelled",
        }
    }
}
