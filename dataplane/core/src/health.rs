//! Whether an instance answers its health check: thresholds, and when to probe next.
//!
//! Active: probed at an interval from the start. Passive: trusted until live traffic cannot
//! connect, then probed until it is back. Disabled: always healthy.

use std::time::Duration;

use dataplane_protocol::{
    sync::Health as State,
    table::{HealthMode, HealthPolicy},
};

use crate::{order::ProbeResult, rng::Rng, time::Mono};

/// A doubt (failed probe, broken connection) is looked into this soon.
const DOUBT: Duration = Duration::from_secs(1);
/// An unhealthy instance is probed at least this often, however long its interval: traffic
/// waits for it.
const UNHEALTHY: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) struct Monitor {
    state: State,
    /// Why it is in this state, for people; empty at first.
    reason: String,
    good: u32,
    bad: u32,
    /// Index in `paths` of the one that answered last.
    path: usize,
    next: Option<Mono>,
    /// A probe was given out; without a result it is forgotten at this time.
    under_way: Option<Mono>,
    last: Option<Mono>,
}

/// A change of state, for the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) from: State,
    pub(crate) to: State,
    pub(crate) reason: String,
}

impl Monitor {
    pub(crate) fn new(policy: &HealthPolicy, now: Mono) -> Self {
        let active = policy.mode == HealthMode::Active;
        Self {
            state: if active {
                State::Unknown
            } else {
                State::Healthy
            },
            reason: String::new(),
            good: 0,
            bad: 0,
            path: 0,
            next: active.then_some(now),
            under_way: None,
            last: None,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// When the last probe was given out.
    pub(crate) fn last(&self) -> Option<Mono> {
        self.last
    }

    /// When the next probe is due; while one is under way, when that is given up.
    pub(crate) fn next(&self) -> Option<Mono> {
        self.under_way.or(self.next)
    }

    /// The endpoint was changed: what it now asks for holds from here on.
    pub(crate) fn adopt(&mut self, policy: &HealthPolicy, now: Mono) -> Option<Change> {
        if self.path >= policy.paths.len() {
            self.path = 0;
        }
        match policy.mode {
            HealthMode::Disabled => {
                self.next = None;
                self.under_way = None;
                self.bad = 0;
                self.turn(State::Healthy, "health checks are off".to_owned())
            }
            // A fixed path or credential shows at once.
            HealthMode::Active => {
                self.next = Some(now);
                None
            }
            HealthMode::Passive if self.state == State::Unknown => {
                self.next = None;
                self.turn(
                    State::Healthy,
                    "trusted until a connection fails".to_owned(),
                )
            }
            HealthMode::Passive => {
                let doubted = self.state == State::Unhealthy || self.bad > 0;
                self.next = doubted.then_some(now);
                None
            }
        }
    }

    /// The first path to ask when a probe is due; it is then under way.
    pub(crate) fn due(&mut self, policy: &HealthPolicy, now: Mono) -> Option<usize> {
        if self.next().is_none_or(|at| at > now) {
            return None;
        }
        self.next = None;
        self.under_way = Some(now + Duration::from_millis(policy.timeout_ms) * 2);
        self.last = Some(now);
        Some(self.path)
    }

    pub(crate) fn probed(
        &mut self,
        policy: &HealthPolicy,
        result: ProbeResult,
        rng: &mut Rng,
        now: Mono,
    ) -> Option<Change> {
        self.under_way = None;
        if policy.mode == HealthMode::Disabled {
            return None;
        }
        let change = match result {
            ProbeResult::Good { path } => {
                self.path = if path < policy.paths.len() { path } else { 0 };
                self.passed(policy)
            }
            ProbeResult::Bad { reason } => self.failed(policy, reason),
            ProbeResult::NotAsked => None,
        };
        self.next = self.next_after(policy).map(|wait| now + rng.jitter(wait));
        change
    }

    /// Live traffic could not connect: probe at once. In passive mode it is itself a sign.
    pub(crate) fn connect_failed(&mut self, policy: &HealthPolicy, now: Mono) -> Option<Change> {
        if policy.mode == HealthMode::Disabled {
            return None;
        }
        let soonest = self.last.map_or(now, |last| now.max(last + DOUBT));
        self.probe_by(soonest);
        if policy.mode == HealthMode::Passive && self.state == State::Healthy {
            return self.failed(policy, "requests could not connect".to_owned());
        }
        None
    }

    /// Live traffic was cut off before an answer: look into it soon.
    pub(crate) fn reset(&mut self, policy: &HealthPolicy, now: Mono) {
        if policy.mode != HealthMode::Disabled {
            self.good = 0;
            self.probe_by(now + interval(policy).min(DOUBT));
        }
    }

    /// Live traffic was answered: in passive mode, failures before it are no longer in a row.
    pub(crate) fn answered(&mut self, policy: &HealthPolicy) {
        if policy.mode == HealthMode::Passive && self.state == State::Healthy {
            self.bad = 0;
        }
    }

    fn probe_by(&mut self, at: Mono) {
        if self.under_way.is_none() {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }

    fn passed(&mut self, policy: &HealthPolicy) -> Option<Change> {
        self.bad = 0;
        self.good = self.good.saturating_add(1);
        let enough = match self.state {
            // The first probe decides: waiting for more would only delay a start.
            State::Unknown => true,
            State::Unhealthy => self.good >= policy.healthy_threshold,
            State::Healthy => false,
        };
        if !enough {
            return None;
        }
        let path = policy.paths.get(self.path).map_or("/", String::as_str);
        self.turn(State::Healthy, format!("{path} answers"))
    }

    fn failed(&mut self, policy: &HealthPolicy, reason: String) -> Option<Change> {
        self.good = 0;
        self.bad = self.bad.saturating_add(1);
        let enough = match self.state {
            State::Unknown => true,
            State::Healthy => self.bad >= policy.unhealthy_threshold,
            State::Unhealthy => {
                self.reason = reason;
                return None;
            }
        };
        if enough {
            self.turn(State::Unhealthy, reason)
        } else {
            None
        }
    }

    fn turn(&mut self, to: State, reason: String) -> Option<Change> {
        let from = std::mem::replace(&mut self.state, to);
        self.reason.clone_from(&reason);
        (from != to).then_some(Change { from, to, reason })
    }

    /// Wait until the next probe; absent when none is needed.
    fn next_after(&self, policy: &HealthPolicy) -> Option<Duration> {
        let interval = interval(policy);
        match self.state {
            State::Unhealthy if self.good > 0 => Some(interval.min(DOUBT)),
            State::Unhealthy => Some(interval.min(UNHEALTHY)),
            State::Unknown | State::Healthy if self.bad > 0 => Some(interval.min(DOUBT)),
            State::Unknown | State::Healthy if policy.mode == HealthMode::Active => Some(interval),
            // Passive, in doubt: until enough good ones in a row.
            State::Unknown | State::Healthy => {
                (self.good < policy.healthy_threshold).then_some(interval.min(DOUBT))
            }
        }
    }
}

/// At least a tenth of a second: a zero in a table must not become a busy loop.
fn interval(policy: &HealthPolicy) -> Duration {
    Duration::from_millis(policy.interval_ms.max(100))
}

#[cfg(test)]
mod tests;
