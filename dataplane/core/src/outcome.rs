//! How attempts end: words for the breaker, for the retry rules, and for labels.

use std::time::Duration;

/// Why an attempt that sent nothing to its client yet failed: the question to
/// [`Fleet::retry`](crate::Fleet::retry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    ConnectFailure,
    /// Counts as [`Cause::ConnectFailure`]: nothing was sent.
    ConnectTimeout,
    /// Reset or closed before the first byte of the answer.
    Reset,
    FirstTokenTimeout,
    Status(u16),
    /// Cut because the instance failed its health check. Allowed where `Reset` is.
    Unhealthy,
}

impl Cause {
    /// For metrics and logs; from a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ConnectFailure => "connect_failure",
            Self::ConnectTimeout => "connect_timeout",
            Self::Reset => "reset",
            Self::FirstTokenTimeout => "first_token_timeout",
            Self::Status(_) => "status",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// Whether the backend may have carried the request out, or begun to. It has not where it was
    /// never reached, and where it said that it is too busy to.
    pub const fn may_have_run(self) -> bool {
        match self {
            Self::ConnectFailure | Self::ConnectTimeout | Self::Status(429) => false,
            Self::Reset | Self::FirstTokenTimeout | Self::Status(_) | Self::Unhealthy => true,
        }
    }

    /// Whether nothing of the request was sent, not even a part of its body.
    pub const fn is_unsent(self) -> bool {
        matches!(self, Self::ConnectFailure | Self::ConnectTimeout)
    }

    /// Whether another attempt, after `attempts` of them, is free. Either nothing reached the
    /// backend, or it is known to be out and gets no more; or a backend's death broke what it
    /// had in flight: that is bounded by itself, once.
    pub(crate) const fn costs_nothing(self, attempts: usize) -> bool {
        match self {
            Self::ConnectFailure | Self::ConnectTimeout | Self::Unhealthy => true,
            Self::Reset => attempts <= 1,
            Self::FirstTokenTimeout | Self::Status(_) => false,
        }
    }
}

/// How an attempt ended, said once for each [`Ticket`](crate::Ticket).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer ended whole, with a status below 500.
    Success,
    Failure(Failure),
    /// 429, or 503 with `Retry-After`: the backend lives and wants to be left alone for that
    /// long (default 1 s, at most 60 s). Neither success nor failure.
    Saturated {
        retry_after: Option<Duration>,
    },
    /// The client left, or we cut the attempt: says nothing about the backend.
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, unreachable, timed out, TLS failed.
    Connect,
    /// The connection broke before the answer began.
    Reset,
    FirstTokenTimeout,
    StreamIdleTimeout,
    /// The answer began and broke off.
    Truncated,
    /// 500 and above.
    Status(u16),
}

impl Failure {
    /// For metrics and logs; from a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::FirstTokenTimeout => "first_token_timeout",
            Self::StreamIdleTimeout => "stream_idle_timeout",
            Self::Truncated => "truncated",
            Self::Status(_) => "status",
        }
    }
}
