use proptest::prelude::*;

use super::*;
use crate::testing::breaker_policy;

/// One that no request can provoke.
fn fault(label: &'static str) -> Fault {
    Fault {
        label,
        provoked_by: None,
    }
}

/// A 500 that this client got.
fn error_of(client: u8) -> Fault {
    Fault {
        label: "status",
        provoked_by: Some(IpAddr::from([10, 0, 0, client])),
    }
}

const START: Mono = Mono::from_millis(1_000_000);

fn at(seconds: u64) -> Mono {
    START + Duration::from_secs(seconds)
}

/// Of a request that was sent before the breaker changed for the first time.
const BEFORE: Pass = Pass::Free(0);

impl Breaker {
    /// Of one that is sent now, with the breaker closed.
    fn free(&self) -> Pass {
        Pass::Free(self.generation)
    }
}

fn opened(policy: &BreakerPolicy, now: Mono) -> Breaker {
    let mut breaker = Breaker::default();
    for _ in 0..policy.consecutive_failures {
        breaker.failed(breaker.free(), policy, fault("reset"), now);
    }
    assert_eq!(breaker.state(), State::Open);
    breaker
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_starts_the_count_anew() {
    let policy = breaker_policy();
    let mut breaker = Breaker::default();
    for _ in 0..4 {
        assert_eq!(
            breaker.failed(breaker.free(), &policy, fault("reset"), START),
            None
        );
    }
    breaker.succeeded(breaker.free(), START);
    for _ in 0..4 {
        assert_eq!(
            breaker.failed(breaker.free(), &policy, fault("reset"), START),
            None
        );
    }
    let change = breaker
        .failed(breaker.free(), &policy, fault("reset"), START)
        .unwrap();
    assert_eq!((change.from, change.to), (State::Closed, State::Open));
    assert_eq!(change.reason, "5 failures in a row, last: reset");
}

#[test]
fn a_share_of_errors_that_is_all_of_one_client_takes_four_times_as_many_requests() {
    let policy = BreakerPolicy {
        consecutive_failures: 100,
        failure_percent: Some(50),
        min_requests: 10,
        ..breaker_policy()
    };
    let mut breaker = Breaker::default();
    for _ in 0..39 {
        let early = breaker.failed(breaker.free(), &policy, error_of(1), START);
        assert_eq!(early, None);
    }
    let change = breaker
        .failed(breaker.free(), &policy, error_of(1), START)
        .unwrap();
    let reason = "40 of 40 requests in 10 s failed, 40 of one client, last: status";
    assert_eq!(change.reason, reason);

    let mut breaker = Breaker::default();
    for _ in 0..9 {
        let early = breaker.failed(breaker.free(), &policy, error_of(1), START);
        assert_eq!(early, None);
    }
    // A failure that nobody provoked does not make those of one client certain.
    let reset = breaker.failed(breaker.free(), &policy, fault("reset"), START);
    assert_eq!(reset, None);
    let other = breaker.failed(breaker.free(), &policy, error_of(2), START);
    let reason = "11 of 11 requests in 10 s failed, last: status";
    assert_eq!(other.unwrap().reason, reason);
}

#[test]
fn errors_that_one_client_alone_gets_open_it_late_and_those_of_two_as_any_other() {
    let policy = breaker_policy();
    let limit = policy.consecutive_failures;
    let fails =
        |breaker: &mut Breaker, fault| breaker.failed(breaker.free(), &policy, fault, START);

    let mut breaker = Breaker::default();
    for _ in 1..4 * limit {
        assert_eq!(fails(&mut breaker, error_of(1)), None);
    }
    let change = fails(&mut breaker, error_of(1)).unwrap();
    let reason = "20 failures in a row, all of one client, last: status";
    assert_eq!(change.reason, reason);

    let mut breaker = Breaker::default();
    for _ in 1..limit {
        assert_eq!(fails(&mut breaker, error_of(1)), None);
    }
    let change = fails(&mut breaker, error_of(2)).unwrap();
    assert_eq!(change.reason, "5 failures in a row, last: status");
}

#[test]
fn a_success_ends_a_run_of_errors() {
    let policy = breaker_policy();
    let mut breaker = Breaker::default();
    for _ in 0..10 {
        for _ in 1..policy.consecutive_failures {
            let change = breaker.failed(breaker.free(), &policy, error_of(1), START);
            assert_eq!(change, None);
        }
        breaker.succeeded(breaker.free(), START);
        let change = breaker.failed(breaker.free(), &policy, error_of(2), START);
        assert_eq!(change, None);
        breaker.succeeded(breaker.free(), START);
    }
}

#[test]
fn a_share_of_failures_opens_it_only_with_enough_results_in_ten_seconds() {
    let policy = BreakerPolicy {
        consecutive_failures: 100,
        failure_percent: Some(50),
        min_requests: 10,
        ..breaker_policy()
    };
    let mut breaker = Breaker::default();
    for _ in 0..9 {
        let early = breaker.failed(breaker.free(), &policy, fault("status"), at(0));
        assert_eq!(early, None, "nine results are not enough");
    }
    // Those have left the window by then; of the good ones five are in it.
    for second in 1..9 {
        breaker.succeeded(breaker.free(), at(second));
    }
    for _ in 0..4 {
        let below = breaker.failed(breaker.free(), &policy, fault("status"), at(13));
        assert_eq!(below, None);
    }
    let change = breaker
        .failed(breaker.free(), &policy, fault("status"), at(13))
        .unwrap();
    assert_eq!(change.to, State::Open);
    assert_eq!(
        change.reason,
        "5 of 10 requests in 10 s failed, last: status"
    );
}

#[test]
fn half_open_admits_one_probe_at_a_time() {
    let policy = breaker_policy();
    let mut breaker = opened(&policy, START);
    assert!(matches!(
        breaker.admission(&policy, at(29)),
        Admission::No { .. }
    ));
    let (pass, change) = breaker.enter(&policy, at(30));
    assert_eq!(change.unwrap().to, State::HalfOpen);
    assert!(matches!(
        breaker.admission(&policy, at(31)),
        Admission::No { .. }
    ));
    breaker.released(pass);
    assert_eq!(breaker.admission(&policy, at(31)), Admission::Trial);
    let (pass, _) = breaker.enter(&policy, at(31));
    assert_eq!(breaker.answered(pass).unwrap().to, State::Closed);
    assert_eq!(breaker.admission(&policy, at(31)), Admission::Yes);
}

#[test]
fn a_trial_without_verdict_does_not_block_forever() {
    let policy = breaker_policy();
    let mut breaker = opened(&policy, START);
    let _ = breaker.enter(&policy, at(30));
    assert!(matches!(
        breaker.admission(&policy, at(59)),
        Admission::No { .. }
    ));
    assert_eq!(breaker.admission(&policy, at(60)), Admission::Trial);
    let _ = breaker.enter(&policy, at(60));
    assert!(matches!(
        breaker.admission(&policy, at(61)),
        Admission::No { .. }
    ));
}

#[test]
fn open_time_doubles_with_each_failed_trial_up_to_its_bound() {
    let policy = breaker_policy();
    let mut breaker = opened(&policy, START);
    let mut now = START;
    let mut waits = Vec::new();
    for _ in 0..6 {
        let until = breaker.reopens().unwrap();
        waits.push(until.since(now).as_secs());
        now = until;
        let (pass, _) = breaker.enter(&policy, now);
        breaker.failed(pass, &policy, fault("connect"), now);
    }
    assert_eq!(waits, [30, 60, 120, 240, 300, 300]);
    now = breaker.reopens().unwrap();
    let (pass, _) = breaker.enter(&policy, now);
    breaker.answered(pass);
    for _ in 0..5 {
        breaker.failed(breaker.free(), &policy, fault("connect"), now);
    }
    assert_eq!(
        breaker.reopens().unwrap().since(now).as_secs(),
        30,
        "anew once closed"
    );
}

#[test]
fn late_failures_of_an_open_breaker_neither_extend_nor_count() {
    let policy = breaker_policy();
    let mut breaker = opened(&policy, START);
    let until = breaker.reopens();
    for second in 0..40 {
        assert_eq!(
            breaker.failed(BEFORE, &policy, fault("reset"), at(second)),
            None
        );
    }
    assert_eq!(breaker.reopens(), until);
    let (trial, _) = breaker.enter(&policy, at(40));
    assert_eq!(
        breaker.failed(BEFORE, &policy, fault("reset"), at(41)),
        None
    );
    assert_eq!(breaker.state(), State::HalfOpen, "only the trial judges");
    assert!(
        breaker
            .failed(trial, &policy, fault("reset"), at(41))
            .is_some()
    );
}

#[test]
fn a_success_sent_before_it_opened_does_not_close_it() {
    let policy = breaker_policy();
    let mut breaker = opened(&policy, START);
    assert_eq!(breaker.succeeded(BEFORE, at(1)), None);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn an_answered_last_resort_closes_it() {
    let policy = breaker_policy();
    let mut breaker = opened(&policy, START);
    let (pass, change) = breaker.enter(&policy, at(1));
    assert_eq!((pass, change), (Pass::Forced(1), None));
    assert_eq!(breaker.answered(pass).unwrap().to, State::Closed);
    assert_eq!(breaker.answered(pass), None, "said once");
}

#[test]
fn a_trial_of_an_earlier_half_open_time_neither_judges_nor_frees_a_later_one() {
    let policy = breaker_policy();
    let mut breaker = opened(&policy, START);
    let (forgotten, _) = breaker.enter(&policy, at(30));
    let (second, _) = breaker.enter(&policy, at(60));
    breaker.failed(second, &policy, fault("reset"), at(60));
    let _ = breaker.enter(&policy, at(120));
    let full =
        |breaker: &Breaker| matches!(breaker.admission(&policy, at(121)), Admission::No { .. });
    assert!(full(&breaker));
    breaker.released(forgotten);
    assert!(full(&breaker), "its permit was another one");
    assert_eq!(breaker.answered(forgotten), None);
    assert_eq!(
        breaker.failed(forgotten, &policy, fault("reset"), at(121)),
        None
    );
    assert_eq!(breaker.state(), State::HalfOpen);
}

/// What may happen to a breaker, in any order.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Send,
    Answer,
    Succeed,
    Fail,
    Cancel,
    Wait(u64),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        4 => Just(Happening::Send),
        1 => Just(Happening::Answer),
        1 => Just(Happening::Succeed),
        4 => Just(Happening::Fail),
        1 => Just(Happening::Cancel),
        2 => (0..60_u64).prop_map(Happening::Wait),
    ];
    prop::collection::vec(one, 1..120)
}

#[test]
fn what_was_sent_before_it_opened_does_not_open_it_again() {
    let policy = breaker_policy();
    let mut breaker = Breaker::default();
    let slow: Vec<Pass> = (0..9).map(|_| breaker.enter(&policy, START).0).collect();
    let mut now = START;
    while matches!(breaker.state(), State::Closed) {
        breaker.failed(breaker.free(), &policy, fault("reset"), now);
    }
    now = breaker.reopens().unwrap();
    let (trial, _) = breaker.enter(&policy, now);
    assert!(breaker.answered(trial).is_some());
    for pass in slow {
        assert_eq!(
            breaker.failed(pass, &policy, fault("first_token_timeout"), now),
            None
        );
    }
    assert_eq!(breaker.state(), State::Closed);
}

proptest! {
    #[test]
    fn whatever_happens_an_open_breaker_reopens_within_its_bound(all in happenings()) {
        let policy = breaker_policy();
        let mut breaker = Breaker::default();
        let mut now = START;
        let mut out: Vec<Pass> = Vec::new();
        for happening in all {
            match happening {
                Happening::Send => {
                    let admission = breaker.admission(&policy, now);
                    let (pass, change) = breaker.enter(&policy, now);
                    prop_assert_eq!(admission == Admission::Yes, matches!(pass, Pass::Free(_)));
                    prop_assert!(change.is_none_or(|change| change.to == State::HalfOpen));
                    out.push(pass);
                }
                Happening::Answer => {
                    if let Some(pass) = out.first() {
                        breaker.answered(*pass);
                    }
                }
                Happening::Succeed => {
                    if let Some(pass) = out.pop() {
                        breaker.succeeded(pass, now);
                    }
                }
                Happening::Fail => {
                    if let Some(pass) = out.pop() {
                        breaker.failed(pass, &policy, fault("reset"), now);
                    }
                }
                Happening::Cancel => {
                    if let Some(pass) = out.pop() {
                        breaker.released(pass);
                    }
                }
                Happening::Wait(seconds) => now = now + Duration::from_secs(seconds),
            }
            let longest = Duration::from_millis(policy.max_open_for_ms);
            if let Admission::No { until, .. } = breaker.admission(&policy, now) {
                prop_assert!(until <= now + longest);
            }
            let later = breaker.admission(&policy, now + longest);
            prop_assert!(!matches!(later, Admission::No { .. }), "shut for ever");
        }
    }
}
