//! May this attempt be tried elsewhere? Policy, number of attempts, and a budget that keeps a
//! broken fleet from being buried under its own retries.

use dataplane_protocol::table::FailoverPolicy;

use crate::{
    classify::Cause,
    time::Mono,
    window::{Counts, Window},
};

/// Retries that are always allowed within the window, so that quiet routes can fail over.
const FLOOR: u64 = 10;

/// Requests and retries of one route over the last ten seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget {
    window: Window,
}

impl Budget {
    pub(crate) fn request(&mut self, now: Mono) {
        self.window.add(
            Counts {
                total: 1,
                ..Counts::default()
            },
            now,
        );
    }

    /// After `attempts` of the request, the last ended by `cause`.
    pub(crate) fn allows(&self, percent: u32, cause: Cause, attempts: usize, now: Mono) -> bool {
        let sum = self.window.sum(now);
        let share = u64::from(sum.total) * u64::from(percent) / 100;
        cause.costs_nothing(attempts) || u64::from(sum.marked) < share.max(FLOOR)
    }

    pub(crate) fn spend(&mut self, cause: Cause, attempts: usize, now: Mono) {
        if !cause.costs_nothing(attempts) {
            self.window.add(
                Counts {
                    marked: 1,
                    ..Counts::default()
                },
                now,
            );
        }
    }

    /// (requests, retries) of the last ten seconds.
    pub(crate) fn recent(&self, now: Mono) -> (u32, u32) {
        let sum = self.window.sum(now);
        (sum.total, sum.marked)
    }
}

/// Whether the policy wants another attempt after `attempts` of them, the last ended by `cause`.
pub(crate) fn wanted(policy: &FailoverPolicy, cause: Cause, attempts: usize) -> bool {
    let on = &policy.on;
    attempts < policy.attempts as usize
        && match cause {
            Cause::ConnectFailure | Cause::ConnectTimeout => on.connect_failure,
            Cause::Reset | Cause::Malformed | Cause::Unhealthy => on.reset,
            Cause::FirstTokenTimeout => on.first_token_timeout,
            Cause::Status(status) => on.status(status),
            // The next one would find no descriptor either; or the client has a part of the answer,
            // or has ended it.
            Cause::NoDescriptors
            | Cause::Truncated
            | Cause::StreamIdleTimeout
            | Cause::RequestTimeout
            | Cause::BodyTimeout
            | Cause::BodyUnreadable
            | Cause::ClientStalled
            | Cause::ClientLeft => false,
        }
}

#[cfg(test)]
mod tests {
    use dataplane_protocol::table::FailoverOn;

    use super::*;

    #[test]
    fn each_cause_asks_its_own_switch() {
        let policy = |on| FailoverPolicy {
            on,
            attempts: 3,
            budget_percent: 20,
        };
        let connect = policy(FailoverOn {
            connect_failure: true,
            ..FailoverOn::default()
        });
        let reset = policy(FailoverOn {
            reset: true,
            ..FailoverOn::default()
        });
        let token = policy(FailoverOn {
            first_token_timeout: true,
            ..FailoverOn::default()
        });
        let status = policy(FailoverOn {
            statuses: vec![502, 503],
            ..FailoverOn::default()
        });
        let class = policy(FailoverOn {
            classes: vec![5],
            ..FailoverOn::default()
        });
        for (cause, expected) in [
            (Cause::ConnectFailure, [true, false, false, false, false]),
            (Cause::ConnectTimeout, [true, false, false, false, false]),
            (Cause::NoDescriptors, [false, false, false, false, false]),
            (Cause::Reset, [false, true, false, false, false]),
            (Cause::Malformed, [false, true, false, false, false]),
            (Cause::Unhealthy, [false, true, false, false, false]),
            (Cause::FirstTokenTimeout, [false, false, true, false, false]),
            (Cause::Status(503), [false, false, false, true, true]),
            (Cause::Status(500), [false, false, false, false, true]),
            (Cause::Status(408), [false, false, false, false, false]),
            (Cause::Truncated, [false, false, false, false, false]),
        ] {
            let got =
                [&connect, &reset, &token, &status, &class].map(|policy| wanted(policy, cause, 1));
            assert_eq!(got, expected, "{cause:?}");
        }
        assert!(wanted(&connect, Cause::ConnectFailure, 2));
        assert!(
            !wanted(&connect, Cause::ConnectFailure, 3),
            "attempts are used up"
        );
    }

    #[test]
    fn a_busy_route_may_retry_its_percentage_and_a_quiet_one_ten() {
        for (requests, allowed) in [(0, 10), (20, 10), (100, 20), (1_000, 200)] {
            let mut budget = Budget::default();
            let now = Mono::from_millis(5_000);
            for _ in 0..requests {
                budget.request(now);
            }
            let mut spent = 0;
            while budget.allows(20, Cause::Status(503), 1, now) {
                budget.spend(Cause::Status(503), 1, now);
                spent += 1;
            }
            assert_eq!(spent, allowed, "{requests} requests");
            assert!(
                budget.allows(20, Cause::ConnectFailure, 2, now),
                "costs nothing"
            );
            assert!(
                budget.allows(20, Cause::Status(503), 1, Mono::from_millis(15_000)),
                "it refills"
            );
        }
    }
}
