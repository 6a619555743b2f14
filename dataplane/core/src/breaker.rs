//! The breaker of one instance, shared by all routes; thresholds come with each route's policy.
//!
//! *Closed* lets traffic flow, *Open* lets none, *HalfOpen* lets a few trials through to see.
//!
//! ```text
//!   Closed ── failures in a row, or percent of the window ──▶ Open ── its time is over ──▶ HalfOpen
//!     ▲                                                        ▲ └── last resort answered ──┐ │ │
//!     │                                                        └────── a trial failed ──────┼─┘ │
//!     └──────────────── a trial's answer began ◀────────────────────────────────────────────┴───┘
//! ```

use std::{net::IpAddr, time::Duration};

use dataplane_protocol::{sync::Breaker as State, table::BreakerPolicy};

use crate::{
    time::Mono,
    window::{Counts, Origin, Window},
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    phase: Phase,
    /// Failures since the last success, without those in `lone`.
    consecutive: u32,
    /// Failures since the last success that one client alone saw and may have provoked.
    lone: Lone,
    /// Results while closed; `marked` are failures.
    window: Window,
    /// Half-open trials that failed since it was last closed.
    failed_trials: u32,
    /// It opened because the instance could not be connected to.
    unreached: bool,
    /// Grows with each change of state: what was sent before one says nothing after it.
    generation: u32,
}

#[derive(Clone, Debug, Default)]
enum Phase {
    #[default]
    Closed,
    Open {
        since: Mono,
        until: Mono,
    },
    HalfOpen {
        /// When it opened.
        since: Mono,
        out: u32,
        last_trial: Mono,
        /// A trial without a verdict for this long no longer keeps others out.
        patience: Duration,
    },
}

/// Failures that a request may have provoked.
#[derive(Clone, Copy, Debug, Default)]
enum Lone {
    #[default]
    None,
    Of {
        client: IpAddr,
        count: u32,
    },
    /// Two clients saw one: they count as any other.
    Shared,
}

/// A client whose every request fails proves less than two clients do, but in the end enough:
/// it may be the only one.
const LONE_FACTOR: u32 = 4;

/// A failure as the breaker sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) label: &'static str,
    /// Who asked for it, where that is known and the request may be what provoked it.
    pub(crate) provoked_by: Option<IpAddr>,
}

/// Whether a request may pass now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Yes,
    /// As one of the half-open trials.
    Trial,
    /// Not before `until`; it opened at `since`.
    No {
        since: Mono,
        until: Mono,
    },
}

/// By which right a request passed; kept in its ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Its route has no breaker.
    Unjudged,
    /// It was closed, at this generation.
    Free(u32),
    /// Holds a permit of the half-open state of this generation.
    Trial(u32),
    /// Sent although the breaker did not admit it, at this generation.
    Forced(u32),
}

/// A change of state, for the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) from: State,
    pub(crate) to: State,
    pub(crate) reason: String,
}

impl Breaker {
    pub(crate) fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// When an open one lets the first trial through; absent in other states.
    pub(crate) fn reopens(&self) -> Option<Mono> {
        match self.phase {
            Phase::Open { until, .. } => Some(until),
            Phase::Closed | Phase::HalfOpen { .. } => None,
        }
    }

    pub(crate) fn admission(&self, policy: &BreakerPolicy, now: Mono) -> Admission {
        match self.phase {
            Phase::Closed => Admission::Yes,
            Phase::Open { until, .. } if until <= now => Admission::Trial,
            Phase::Open { since, until } => Admission::No { since, until },
            Phase::HalfOpen {
                since,
                out,
                last_trial,
                patience,
            } => {
                let until = last_trial + patience;
                if out < policy.half_open_requests.max(1) || until <= now {
                    Admission::Trial
                } else {
                    Admission::No { since, until }
                }
            }
        }
    }

    /// Lets one request through as `admission` said; becomes half-open when its time has come.
    pub(crate) fn enter(&mut self, policy: &BreakerPolicy, now: Mono) -> (Pass, Option<Change>) {
        match (self.admission(policy, now), &mut self.phase) {
            (Admission::Yes, _) => (Pass::Free(self.generation), None),
            (Admission::No { .. }, _) => (Pass::Forced(self.generation), None),
            (
                Admission::Trial,
                Phase::HalfOpen {
                    out, last_trial, ..
                },
            ) => {
                *out += 1;
                *last_trial = now;
                (Pass::Trial(self.generation), None)
            }
            (Admission::Trial, phase) => {
                let since = match *phase {
                    Phase::Open { since, .. } => since,
                    Phase::Closed | Phase::HalfOpen { .. } => now,
                };
                let half_open = Phase::HalfOpen {
                    since,
                    out: 1,
                    last_trial: now,
                    patience: open_for(policy, self.failed_trials),
                };
                let change = self.change(half_open, "its open time is over".to_owned());
                (Pass::Trial(self.generation), Some(change))
            }
        }
    }

    /// An answer below 500 began: enough for a trial, and for a last resort that got through.
    pub(crate) fn answered(&mut self, pass: Pass) -> Option<Change> {
        let judged = matches!(pass, Pass::Trial(_) | Pass::Forced(_));
        if !judged || !self.is_new(pass) || matches!(self.phase, Phase::Closed) {
            return None;
        }
        self.ends_run();
        self.failed_trials = 0;
        self.window.clear();
        Some(self.change(Phase::Closed, "a trial was answered".to_owned()))
    }

    pub(crate) fn succeeded(&mut self, pass: Pass, now: Mono) -> Option<Change> {
        if pass == Pass::Unjudged {
            return None;
        }
        let change = self.answered(pass);
        if matches!(self.phase, Phase::Closed) {
            self.ends_run();
            let good = Counts {
                total: 1,
                ..Counts::default()
            };
            self.window.add(good, now);
        }
        change
    }

    pub(crate) fn failed(
        &mut self,
        pass: Pass,
        policy: &BreakerPolicy,
        fault: Fault,
        now: Mono,
    ) -> Option<Change> {
        match (&self.phase, pass) {
            (_, Pass::Unjudged) => None,
            // Sent before it opened: what opened it then knew of it.
            (Phase::Closed, _) if !self.is_new(pass) => None,
            (Phase::Closed, _) => {
                self.count(fault.provoked_by);
                let failure = Counts {
                    total: 1,
                    marked: 1,
                    provoked: fault.provoked_by.is_some().into(),
                    by: fault.provoked_by.map_or(Origin::Nobody, Origin::Client),
                };
                self.window.add(failure, now);
                let reason = self.tripped(policy, now)?;
                Some(self.open(policy, format!("{reason}, last: {}", fault.label), now))
            }
            (Phase::HalfOpen { .. }, Pass::Trial(_)) if self.is_new(pass) => {
                self.failed_trials = self.failed_trials.saturating_add(1);
                Some(self.open(policy, format!("a trial failed: {}", fault.label), now))
            }
            // It is open already, or half-open and this was sent before: nothing new.
            (Phase::Open { .. } | Phase::HalfOpen { .. }, _) => None,
        }
    }

    /// Sent since the last change of state.
    fn is_new(&self, pass: Pass) -> bool {
        match pass {
            Pass::Unjudged => false,
            Pass::Free(at) | Pass::Trial(at) | Pass::Forced(at) => at == self.generation,
        }
    }

    /// A trial ended without a verdict: its permit is free again.
    pub(crate) fn released(&mut self, pass: Pass) {
        let new = self.is_new(pass);
        if let (Phase::HalfOpen { out, .. }, Pass::Trial(_)) = (&mut self.phase, pass)
            && new
        {
            *out = out.saturating_sub(1);
        }
    }

    /// What opened it just now was a failure to connect.
    pub(crate) fn opened_unreached(&mut self) {
        self.unreached = matches!(self.phase, Phase::Open { .. });
    }

    /// A probe connected and was answered. If failing to connect was all that opened it, there
    /// is nothing more to wait for: a trial may come at once.
    pub(crate) fn reached(&mut self, now: Mono) {
        if let Phase::Open { until, .. } = &mut self.phase
            && std::mem::take(&mut self.unreached)
        {
            *until = now.min(*until);
        }
    }

    fn ends_run(&mut self) {
        self.consecutive = 0;
        self.lone = Lone::None;
    }

    /// One more failure in a row.
    fn count(&mut self, provoked_by: Option<IpAddr>) {
        let mut more = 1;
        if let Some(from) = provoked_by {
            self.lone = match self.lone {
                Lone::None => Lone::Of {
                    client: from,
                    count: 1,
                },
                Lone::Of { client, count } if client == from => Lone::Of {
                    client,
                    count: count.saturating_add(1),
                },
                Lone::Of { count, .. } => {
                    more += count;
                    Lone::Shared
                }
                Lone::Shared => Lone::Shared,
            };
            if matches!(self.lone, Lone::Of { .. }) {
                return;
            }
        }
        self.consecutive = self.consecutive.saturating_add(more);
    }

    fn tripped(&mut self, policy: &BreakerPolicy, now: Mono) -> Option<String> {
        let limit = policy.consecutive_failures.max(1);
        if self.consecutive >= limit {
            return Some(format!("{} failures in a row", self.consecutive));
        }
        if let Lone::Of { count, .. } = self.lone
            && count >= limit.saturating_mul(LONE_FACTOR)
        {
            return Some(format!("{count} failures in a row, all of one client"));
        }
        let percent = policy.failure_percent?;
        let counts = self.window.sum(now);
        let total = counts.total;
        let enough = policy.min_requests.max(1);
        let is_over =
            |failed: u32| u64::from(failed) * 100 >= u64::from(total) * u64::from(percent);
        let text = |failed: u32| format!("{failed} of {total} requests in 10 s failed");
        let lone = match counts.by {
            Origin::Client(_) => counts.provoked,
            Origin::Nobody | Origin::Several => 0,
        };
        let certain = counts.marked - lone.min(counts.marked);
        if total >= enough && certain > 0 && is_over(certain) {
            return Some(text(certain));
        }
        (lone > 0 && total >= enough.saturating_mul(LONE_FACTOR) && is_over(counts.marked))
            .then(|| format!("{}, {lone} of one client", text(counts.marked)))
    }

    fn open(&mut self, policy: &BreakerPolicy, reason: String, now: Mono) -> Change {
        let until = now + open_for(policy, self.failed_trials);
        self.ends_run();
        self.unreached = false;
        self.window.clear();
        self.change(Phase::Open { since: now, until }, reason)
    }

    fn change(&mut self, phase: Phase, reason: String) -> Change {
        let from = self.state();
        self.phase = phase;
        self.generation = self.generation.wrapping_add(1);
        Change {
            from,
            to: self.state(),
            reason,
        }
    }
}

/// First open time, doubled for each failed trial, up to the policy's longest.
fn open_for(policy: &BreakerPolicy, failed_trials: u32) -> Duration {
    let factor = 1_u64 << failed_trials.min(32);
    let longest = policy.max_open_for_ms.max(policy.open_for_ms);
    Duration::from_millis(policy.open_for_ms.saturating_mul(factor).min(longest))
}

#[cfg(test)]
mod tests;
