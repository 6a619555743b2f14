use super::*;
use crate::testing::health_policy;

fn good() -> ProbeResult {
    ProbeResult::Good { path: 0 }
}

fn bad() -> ProbeResult {
    ProbeResult::Bad {
        reason: "refused".into(),
    }
}

fn policy(mode: HealthMode) -> HealthPolicy {
    HealthPolicy {
        mode,
        healthy_threshold: 2,
        unhealthy_threshold: 3,
        ..health_policy()
    }
}

/// A monitor driven by hand; `now` moves to each probe as it is due.
struct Bench {
    monitor: Monitor,
    policy: HealthPolicy,
    rng: Rng,
    now: Mono,
}

impl Bench {
    fn new(mode: HealthMode) -> Self {
        let policy = policy(mode);
        let now = Mono::from_millis(60_000);
        Self {
            monitor: Monitor::new(&policy, now),
            policy,
            rng: Rng::new(1),
            now,
        }
    }

    /// Waits for the next probe and answers it; (seconds waited, state after).
    fn probe(&mut self, result: ProbeResult) -> (f64, State) {
        let at = self.monitor.next().unwrap().max(self.now);
        let waited = at.since(self.now).as_secs_f64();
        self.now = at;
        self.monitor.due(&self.policy, at).unwrap();
        self.monitor.probed(&self.policy, result, &mut self.rng, at);
        (waited, self.monitor.state())
    }
}

fn about(seconds: f64, expected: f64) -> bool {
    (seconds - expected).abs() <= expected * 0.05 + 1e-6
}

#[test]
fn the_first_probe_decides_at_once() {
    let mut bench = Bench::new(HealthMode::Active);
    assert_eq!(bench.probe(bad()), (0.0, State::Unhealthy));
    let mut bench = Bench::new(HealthMode::Active);
    assert_eq!(bench.probe(good()), (0.0, State::Healthy));
}

#[test]
fn thresholds_in_a_row_turn_it_and_doubts_are_looked_into_soon() {
    let mut bench = Bench::new(HealthMode::Active);
    bench.probe(good());
    for (result, wait, state) in [
        (bad(), 10.0, State::Healthy),
        (bad(), 1.0, State::Healthy),
        (good(), 1.0, State::Healthy),
        (bad(), 10.0, State::Healthy),
        (bad(), 1.0, State::Healthy),
        (bad(), 1.0, State::Unhealthy),
        (bad(), 10.0, State::Unhealthy),
        (good(), 10.0, State::Unhealthy),
        (good(), 1.0, State::Healthy),
        (good(), 10.0, State::Healthy),
    ] {
        let (waited, after) = bench.probe(result);
        assert!(about(waited, wait), "waited {waited}, not {wait}");
        assert_eq!(after, state);
    }
}

#[test]
fn an_unhealthy_one_is_probed_every_ten_seconds_however_long_its_interval() {
    let mut bench = Bench::new(HealthMode::Active);
    bench.policy.interval_ms = 300_000;
    bench.probe(bad());
    assert!(about(bench.probe(bad()).0, 10.0));
}

#[test]
fn a_probe_is_given_out_once_until_it_is_answered_or_given_up() {
    let mut bench = Bench::new(HealthMode::Active);
    assert_eq!(bench.monitor.due(&bench.policy, bench.now), Some(0));
    assert_eq!(bench.monitor.due(&bench.policy, bench.now), None);
    let given_up = bench.now + Duration::from_secs(10);
    assert_eq!(bench.monitor.next(), Some(given_up));
    assert_eq!(bench.monitor.due(&bench.policy, given_up), Some(0));
}

#[test]
fn the_path_that_answered_is_asked_first() {
    let mut bench = Bench::new(HealthMode::Active);
    bench.policy.paths = vec!["/a".into(), "/b".into()];
    bench.probe(ProbeResult::Good { path: 1 });
    let at = bench.monitor.next().unwrap();
    assert_eq!(bench.monitor.due(&bench.policy, at), Some(1));
}

#[test]
fn a_live_connect_failure_is_probed_at_once_but_not_more_than_once_a_second() {
    let mut bench = Bench::new(HealthMode::Active);
    bench.probe(good());
    let probed_at = bench.now;
    let later = probed_at + Duration::from_secs(5);
    bench.monitor.connect_failed(&bench.policy, later);
    assert_eq!(bench.monitor.next(), Some(later));
    bench.now = later;
    bench.probe(good());
    let soon = later + Duration::from_millis(100);
    bench.monitor.connect_failed(&bench.policy, soon);
    assert_eq!(bench.monitor.next(), Some(later + Duration::from_secs(1)));
}

#[test]
fn a_passive_one_is_not_probed_until_a_connection_fails_and_then_until_it_is_back() {
    let mut bench = Bench::new(HealthMode::Passive);
    assert_eq!(bench.monitor.state(), State::Healthy);
    assert_eq!(bench.monitor.next(), None);
    bench.monitor.connect_failed(&bench.policy, bench.now);
    assert_eq!(bench.probe(good()), (0.0, State::Healthy));
    bench.probe(good());
    assert_eq!(bench.monitor.next(), None, "two good ones are enough");
}

#[test]
fn live_connect_failures_make_a_passive_one_unhealthy() {
    let mut bench = Bench::new(HealthMode::Passive);
    for _ in 0..2 {
        assert_eq!(bench.monitor.connect_failed(&bench.policy, bench.now), None);
    }
    bench.monitor.answered(&bench.policy);
    for _ in 0..2 {
        assert_eq!(bench.monitor.connect_failed(&bench.policy, bench.now), None);
    }
    let change = bench
        .monitor
        .connect_failed(&bench.policy, bench.now)
        .unwrap();
    assert_eq!(change.to, State::Unhealthy);
    bench.probe(good());
    assert_eq!(bench.probe(good()).1, State::Healthy);
}

#[test]
fn with_health_checks_off_nothing_is_probed_and_nothing_makes_it_unhealthy() {
    let mut bench = Bench::new(HealthMode::Disabled);
    for _ in 0..10 {
        bench.monitor.connect_failed(&bench.policy, bench.now);
        bench.monitor.reset(&bench.policy, bench.now);
    }
    assert_eq!(bench.monitor.state(), State::Healthy);
    assert_eq!(bench.monitor.next(), None);
}

#[test]
fn switching_checks_off_makes_an_unhealthy_one_healthy() {
    let mut bench = Bench::new(HealthMode::Active);
    bench.probe(bad());
    let off = policy(HealthMode::Disabled);
    assert_eq!(
        bench.monitor.adopt(&off, bench.now).unwrap().to,
        State::Healthy
    );
    assert_eq!(bench.monitor.next(), None);
}
