//! What the fleet asks of the shell (probes, listings), what comes back, and what it reports.

use std::{sync::Arc, time::Duration};

use dataplane_protocol::{
    EndpointId, InstanceId, ModelName,
    status::InstanceKey,
    sync::{Breaker, Health},
};

use crate::pick::InstanceInfo;

/// Work for the shell. Answer each with [`Fleet::probed`](crate::Fleet::probed) or
/// [`Fleet::listed`](crate::Fleet::listed); one that got no answer within twice the health
/// timeout is given out again.
#[derive(Clone, Debug)]
pub enum Order {
    /// Ask `health.paths` in turn, beginning with `first_path`, until one answers 2xx.
    Probe {
        instance: Arc<InstanceInfo>,
        first_path: usize,
        timeout: Duration,
    },
    /// Ask the discovery's listings in turn until one parses.
    List { instance: Arc<InstanceInfo> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// `path`: index in `health.paths` of the one that answered; the next probe begins there.
    Good {
        path: usize,
    },
    Bad {
        reason: String,
    },
    /// This process could not ask: nothing is known that was not known before.
    NotAsked,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListingResult {
    /// `detected`: the profile that an `auto` endpoint turned out to be.
    Models {
        models: Vec<ModelName>,
        detected: Option<String>,
    },
    /// 404, 405 or 501 on all paths: the backend has no listing. It may serve anything, and is
    /// asked only where nobody is known to.
    Unsupported,
    Failed {
        reason: String,
    },
}

/// Something that people or the shell should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Health {
        endpoint: EndpointId,
        instance: InstanceId,
        key: InstanceKey,
        from: Health,
        to: Health,
        reason: String,
    },
    Breaker {
        endpoint: EndpointId,
        instance: InstanceId,
        from: Breaker,
        to: Breaker,
        reason: String,
    },
    /// Its list of models changed.
    Models {
        endpoint: EndpointId,
        instance: InstanceId,
        count: usize,
    },
    /// It went unhealthy, for the `outages`th time: cut its attempts that have no first byte yet
    /// and whose [ticket](crate::Ticket::outages) knows of fewer; they may be retried.
    CutUnanswered { key: InstanceKey, outages: u32 },
    /// It left the table. Its running requests finish; idle connections to it are closed.
    Gone { key: InstanceKey },
}
