//! What a route does when things go wrong. In: the engine's preset and the user's members on top
//! of it. Out: the policies of the table, every default filled in.

use crds::route::{
    CircuitBreakerSpec, Engine, FailoverCause, FailoverSpec, TimeoutsSpec,
    WhenAllOpen as WhenAllOpenSpec,
};
use dataplane_protocol::table::{BreakerPolicy, FailoverOn, FailoverPolicy, Timeouts, WhenAllOpen};

use crate::{Problem, duration::optional_millis, verdict::Problems};

const OLLA_CAUSES: [FailoverCause; 7] = [
    FailoverCause::ConnectFailure,
    FailoverCause::Reset,
    FailoverCause::FirstTokenTimeout,
    FailoverCause::Status(429),
    FailoverCause::Status(502),
    FailoverCause::Status(503),
    FailoverCause::Status(504),
];

const SHERPA_CAUSES: [FailoverCause; 1] = [FailoverCause::ConnectFailure];

/// An open breaker waits at most this long, unless the user's first wait is longer.
const MAX_OPEN_FOR_MS: u64 = 300_000;

pub(super) fn failover(engine: Engine, spec: Option<&FailoverSpec>) -> FailoverPolicy {
    let preset: &[FailoverCause] = match engine {
        Engine::Olla => &OLLA_CAUSES,
        Engine::Sherpa => &SHERPA_CAUSES,
    };
    let causes = spec
        .and_then(|spec| spec.causes.as_deref())
        .unwrap_or(preset);
    FailoverPolicy {
        on: failover_on(causes),
        attempts: spec.and_then(|spec| spec.attempts).unwrap_or(3),
        budget_percent: spec.and_then(|spec| spec.budget_percent).unwrap_or(20),
    }
}

fn failover_on(causes: &[FailoverCause]) -> FailoverOn {
    let mut on = FailoverOn::default();
    for cause in causes {
        match cause {
            FailoverCause::ConnectFailure => on.connect_failure = true,
            FailoverCause::Reset => on.reset = true,
            FailoverCause::FirstTokenTimeout => on.first_token_timeout = true,
            FailoverCause::Status(status) => on.statuses.push(*status),
            FailoverCause::Class(class) => on.classes.push(*class),
        }
    }
    on.statuses.sort_unstable();
    on.statuses.dedup();
    on.classes.sort_unstable();
    on.classes.dedup();
    on
}

pub(super) fn breaker(
    engine: Engine,
    spec: Option<&CircuitBreakerSpec>,
) -> Result<Option<BreakerPolicy>, Problem> {
    if engine == Engine::Sherpa {
        return match spec {
            None => Ok(None),
            Some(_) => Err(Problem::invalid(
                "spec.circuitBreaker",
                "engine sherpa has no circuit breaker; use engine olla",
            )),
        };
    }
    let mut problems = Problems::default();
    let default = CircuitBreakerSpec::default();
    let spec = spec.unwrap_or(&default);
    if spec.min_requests.is_some() && spec.failure_percent.is_none() {
        problems.take::<()>(Err(Problem::invalid(
            "spec.circuitBreaker.minRequests",
            "has no effect without failurePercent",
        )));
    }
    let open_for = optional_millis("spec.circuitBreaker.openFor", spec.open_for.as_ref());
    let open_for = problems.take(open_for);
    let open_for_ms = problems.end(open_for)?.unwrap_or(30_000);
    Ok(Some(BreakerPolicy {
        consecutive_failures: spec.consecutive_failures.unwrap_or(5),
        failure_percent: spec.failure_percent,
        min_requests: spec.min_requests.unwrap_or(20),
        open_for_ms,
        max_open_for_ms: open_for_ms.max(MAX_OPEN_FOR_MS),
        half_open_requests: spec.half_open_requests.unwrap_or(1),
        max_ejected_percent: spec.max_ejected_percent.unwrap_or(100),
        when_all_open: match spec.when_all_open.unwrap_or_default() {
            WhenAllOpenSpec::TryBest => WhenAllOpen::TryBest,
            WhenAllOpenSpec::Fail => WhenAllOpen::Fail,
        },
    }))
}

pub(super) fn timeouts(spec: &TimeoutsSpec, problems: &mut Problems) -> Option<Timeouts> {
    let [connect, first_token, stream_idle, request] = [
        ("spec.timeouts.connect", &spec.connect),
        ("spec.timeouts.firstToken", &spec.first_token),
        ("spec.timeouts.streamIdle", &spec.stream_idle),
        ("spec.timeouts.request", &spec.request),
    ]
    .map(|(field, text)| problems.take(optional_millis(field, text.as_ref())));
    let (connect, first_token) = (connect?, first_token?);
    let (stream_idle, request) = (stream_idle?, request?);
    Some(Timeouts {
        connect_ms: connect.unwrap_or(5_000),
        first_token_ms: first_token.unwrap_or(120_000),
        first_token_whole_ms: first_token,
        stream_idle_ms: stream_idle.unwrap_or(120_000),
        request_ms: request,
    })
}
