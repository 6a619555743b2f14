//! What a decision looks like from outside: who was picked, by which right, or why nobody.

use std::{net::IpAddr, sync::Arc, time::Duration};

use dataplane_protocol::{
    status::{Decision, InstanceKey, NO_ROUTE},
    table::{Credential, Endpoint, Instance, Profile, Route},
};

use crate::{breaker::Pass, time::Mono};

/// What the shell needs to talk to an instance.
#[derive(Clone, Debug)]
pub struct InstanceInfo {
    pub key: InstanceKey,
    pub endpoint: Arc<Endpoint>,
    pub instance: Instance,
    /// The detected one where the endpoint says `auto`.
    pub profile: Arc<Profile>,
}

impl InstanceInfo {
    pub(crate) fn is_withheld(&self) -> bool {
        matches!(self.endpoint.credential, Credential::Withheld)
    }
}

/// Where to send an attempt.
#[derive(Debug)]
#[must_use = "its ticket must be finished"]
pub struct Pick {
    pub ticket: Ticket,
    pub instance: Arc<InstanceInfo>,
    pub route: Arc<Route>,
    /// 0 is the preferred one.
    pub tier: u32,
    /// 1 for the first attempt of a request.
    pub attempt: u32,
    pub decision: Decision,
}

/// One attempt under way. It counts as in flight until [`Fleet::finish`](crate::Fleet::finish)
/// consumes it, so it must not be dropped without.
#[derive(Debug)]
#[must_use = "an attempt that is never finished counts as in flight for ever"]
pub struct Ticket {
    pub(crate) key: InstanceKey,
    pub(crate) route: Arc<Route>,
    pub(crate) started: Mono,
    pub(crate) pass: Pass,
    pub(crate) committed: bool,
    pub(crate) client: Option<IpAddr>,
    pub(crate) outages: u32,
}

impl Ticket {
    pub fn key(&self) -> InstanceKey {
        self.key
    }

    /// How often its instance had gone unhealthy when it was picked. One that the shell hears of
    /// beyond these came after the pick, however late the shell begins to listen.
    pub fn outages(&self) -> u32 {
        self.outages
    }

    /// Who asked, where the shell knows: some failures count only once two have seen them.
    pub fn asked_by(&mut self, client: IpAddr) {
        self.client = Some(client);
    }

    /// Its answer goes to the client from here on: however it ends, no other attempt follows.
    pub fn commit(&mut self) {
        self.committed = true;
    }
}

/// Why nobody was picked. `retry_after` is the soonest that trying again may help, at least 1 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no route matches this request")]
    NoRoute,
    #[error("no endpoint of the route has this type")]
    NoEndpoint,
    #[error("no endpoint of the route accepts this operation")]
    NotPermitted,
    #[error("no endpoint of the route serves this model (is it pulled or loaded?)")]
    ModelNotFound,
    #[error(
        "every endpoint that serves this model is unhealthy, saturated, or has an open circuit breaker"
    )]
    ModelUnavailable { retry_after: Duration },
    #[error("every endpoint of the route is unhealthy, saturated, or has an open circuit breaker")]
    Unavailable { retry_after: Duration },
}

impl Refusal {
    /// For headers, metrics and logs; from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoRoute => NO_ROUTE,
            Self::NoEndpoint => "no_endpoint",
            Self::NotPermitted => "administration_path",
            Self::ModelNotFound => "model_not_found",
            Self::ModelUnavailable { .. } => "model_unavailable",
            Self::Unavailable { .. } => "unavailable",
        }
    }

    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ModelUnavailable { retry_after } | Self::Unavailable { retry_after } => {
                Some(*retry_after)
            }
            Self::NoRoute | Self::NoEndpoint | Self::NotPermitted | Self::ModelNotFound => None,
        }
    }
}
