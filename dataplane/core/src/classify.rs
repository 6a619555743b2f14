//! What went wrong, and what that means: the one list of causes from which breaker, retry rules,
//! error codes, log and metrics take their words. In: a status or how an exchange broke. Out: a
//! [`Cause`], and what it is to the breaker.

use std::time::Duration;

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

/// Why a request has no answer, or no whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Refused, unreachable, or TLS failed.
    ConnectFailure,
    /// Counts as [`Cause::ConnectFailure`]: nothing was sent.
    ConnectTimeout,
    /// This process may open no more connections, which says nothing of the backend.
    NoDescriptors,
    /// Reset or closed before the first byte of the answer.
    Reset,
    /// What came is no answer that HTTP knows, or one whose head is too long.
    Malformed,
    FirstTokenTimeout,
    /// The answer's status.
    Status(u16),
    /// Cut because the instance failed its health check, which has been counted there.
    Unhealthy,
    /// The answer began and broke off.
    Truncated,
    /// The answer began and nothing more came.
    StreamIdleTimeout,
    /// The route's own limit, which says nothing of the backend.
    RequestTimeout,
    /// The client sent its request too slowly.
    BodyTimeout,
    /// The client broke off inside its request.
    BodyUnreadable,
    /// The client takes nothing of the answer.
    ClientStalled,
    ClientLeft,
}

impl Cause {
    /// For metrics and logs; from a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ConnectFailure => "connect_failure",
            Self::ConnectTimeout => "connect_timeout",
            Self::NoDescriptors => "no_descriptors",
            Self::Reset => "reset",
            Self::Malformed => "malformed",
            Self::FirstTokenTimeout => "first_token_timeout",
            Self::Status(_) => "status",
            Self::Unhealthy => "unhealthy",
            Self::Truncated => "truncated",
            Self::StreamIdleTimeout => "stream_idle_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::BodyUnreadable => "body_unreadable",
            Self::ClientStalled => "client_stalled",
            Self::ClientLeft => "client_left",
        }
    }

    /// `code` of the error that the client gets. Where the label alone would not say whose fault
    /// it is, the code does.
    pub const fn code(self) -> &'static str {
        match self {
            Self::ConnectFailure | Self::ConnectTimeout => "upstream_unreachable",
            Self::Reset => "upstream_reset",
            Self::Malformed => "upstream_malformed",
            Self::Status(_) => "upstream_status",
            Self::Unhealthy => "upstream_unhealthy",
            cause => cause.label(),
        }
    }

    /// HTTP status that says this.
    pub const fn status(self) -> u16 {
        match self {
            Self::Status(status) => status,
            Self::ConnectFailure
            | Self::ConnectTimeout
            | Self::Reset
            | Self::Malformed
            | Self::Truncated => 502,
            Self::FirstTokenTimeout
            | Self::Unhealthy
            | Self::StreamIdleTimeout
            | Self::RequestTimeout => 504,
            Self::NoDescriptors => 503,
            Self::BodyTimeout | Self::ClientStalled => 408,
            Self::BodyUnreadable => 400,
            // nginx's word for it.
            Self::ClientLeft => 499,
        }
    }

    /// What it is to the breaker of the instance that was asked.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::ConnectFailure
            | Self::ConnectTimeout
            | Self::Reset
            | Self::Malformed
            | Self::FirstTokenTimeout
            | Self::Status(_)
            | Self::Truncated
            | Self::StreamIdleTimeout => Outcome::Failure(self),
            Self::NoDescriptors
            | Self::Unhealthy
            | Self::RequestTimeout
            | Self::BodyTimeout
            | Self::BodyUnreadable
            | Self::ClientStalled
            | Self::ClientLeft => Outcome::Cancelled,
        }
    }

    /// No connection came about: nothing of the request was sent, not even a part of its body.
    pub const fn is_unsent(self) -> bool {
        matches!(
            self,
            Self::ConnectFailure | Self::ConnectTimeout | Self::NoDescriptors
        )
    }

    /// Whether the backend may have carried the request out, or begun to. It has not where it was
    /// never reached, and where it said that it is too busy to.
    pub const fn may_have_run(self) -> bool {
        !self.is_unsent() && !matches!(self, Self::Status(429))
    }

    /// Whether another attempt, after `attempts` of them, is free. Either nothing reached the
    /// backend, or it is known to be out and gets no more; or a backend's death broke what it
    /// had in flight: that is bounded by itself, once.
    pub(crate) const fn costs_nothing(self, attempts: usize) -> bool {
        match self {
            Self::ConnectFailure | Self::ConnectTimeout | Self::Unhealthy => true,
            Self::Reset => attempts <= 1,
            _ => false,
        }
    }

    /// Whether the request may be what provoked it: then one client alone proves little against
    /// the instance.
    pub(crate) const fn may_be_the_requests(self) -> bool {
        // A redirect repeats the path that was asked for.
        matches!(self, Self::Status(500) | Self::Malformed)
    }
}

/// What the status of an answer says, where it is more than an answer. `retry_after` is the
/// header's value.
pub fn answer(status: u16, retry_after: Option<&str>) -> Option<(Cause, Outcome)> {
    let cause = Cause::Status(status);
    let outcome = match (status, retry_after) {
        (429, _) | (503, Some(_)) => Outcome::Saturated {
            retry_after: retry_after.and_then(seconds),
        },
        // Of the request: what is not implemented, the version of HTTP, a loop, or the client's fault.
        // A route may think that another endpoint differs.
        (400..500 | 501 | 505 | 508, _) => Outcome::Success,
        (500.., _) => cause.outcome(),
        _ => return None,
    };
    Some((cause, outcome))
}

/// `Retry-After` in seconds; dates are rare and mean the default.
fn seconds(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_an_answer_a_failure_or_a_wish_to_be_left_alone() {
        for (status, after, expected) in [
            (200, None, None),
            (404, None, Some(Outcome::Success)),
            (501, None, Some(Outcome::Success)),
            (505, None, Some(Outcome::Success)),
            (508, Some("1"), Some(Outcome::Success)),
            (500, None, Some(Cause::Status(500).outcome())),
            (502, Some("1"), Some(Cause::Status(502).outcome())),
            (503, None, Some(Cause::Status(503).outcome())),
            (
                503,
                Some(" 7 "),
                Some(Outcome::Saturated {
                    retry_after: Some(Duration::from_secs(7)),
                }),
            ),
            (429, None, Some(Outcome::Saturated { retry_after: None })),
            (
                429,
                Some("Fri, 27 Nov 2026 12:00:00 GMT"),
                Some(Outcome::Saturated { retry_after: None }),
            ),
        ] {
            let got = answer(status, after).map(|(_, outcome)| outcome);
            assert_eq!(got, expected, "{status} {after:?}");
        }
    }

    #[test]
    fn what_the_client_the_route_or_this_process_ends_says_nothing_of_the_backend() {
        for cause in [
            Cause::NoDescriptors,
            Cause::RequestTimeout,
            Cause::BodyTimeout,
            Cause::BodyUnreadable,
            Cause::ClientStalled,
            Cause::ClientLeft,
        ] {
            assert_eq!(cause.outcome(), Outcome::Cancelled, "{}", cause.label());
        }
        assert_eq!(
            Cause::Truncated.outcome(),
            Outcome::Failure(Cause::Truncated)
        );
    }
}
