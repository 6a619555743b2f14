//! Which attempt may follow another, and where it goes.

use dataplane_core::{Cause, Outcome};
use dataplane_protocol::table::Balancer;

use super::common::{Bench, alone, endpoint, name, query, route, serving, table, two_tiers};

#[test]
fn a_retry_goes_to_another_endpoint_of_the_tier_before_another_pod_of_the_same() {
    let mut bench = Bench::new(table(
        vec![(endpoint("a"), 2), (endpoint("b"), 1), (endpoint("c"), 1)],
        vec![route(
            "r",
            Balancer::Priority,
            &[("a", 0, 1000), ("b", 0, 1), ("c", 1, 100)],
        )],
    ));
    let first = bench.pick(None).unwrap();
    assert!(name(&first).starts_with("a/"));
    let mut tried = vec![first.ticket.key()];
    let second = bench
        .fleet
        .retry(&query(None), &tried, &first.ticket, Cause::Reset, bench.now)
        .unwrap();
    assert_eq!((name(&second), second.attempt), ("b", 2));
    tried.push(second.ticket.key());
    let third = bench
        .fleet
        .retry(
            &query(None),
            &tried,
            &second.ticket,
            Cause::Reset,
            bench.now,
        )
        .unwrap();
    assert!(name(&third).starts_with("a/"), "same tier first");
    assert!(!tried.contains(&third.ticket.key()));
    tried.push(third.ticket.key());
    let fourth = bench
        .fleet
        .retry(&query(None), &tried, &third.ticket, Cause::Reset, bench.now);
    assert!(fourth.is_none(), "three attempts are used up");
}

#[test]
fn there_is_no_retry_when_nobody_else_is_left_or_the_cause_is_not_listed() {
    let mut bench = two_tiers();
    let pick = bench.pick(None).unwrap();
    let tried = [pick.ticket.key()];
    let not_listed = bench.fleet.retry(
        &query(None),
        &tried,
        &pick.ticket,
        Cause::Status(500),
        bench.now,
    );
    assert!(not_listed.is_none());
    let mut bench = alone(|_| {});
    let pick = bench.pick(None).unwrap();
    let tried = [pick.ticket.key()];
    assert!(
        bench
            .fleet
            .retry(&query(None), &tried, &pick.ticket, Cause::Reset, bench.now)
            .is_none()
    );
}

#[test]
fn there_is_no_retry_once_the_answer_goes_to_the_client() {
    let mut bench = two_tiers();
    let mut pick = bench.pick(None).unwrap();
    let tried = [pick.ticket.key()];
    pick.ticket.commit();
    let next = bench
        .fleet
        .retry(&query(None), &tried, &pick.ticket, Cause::Reset, bench.now);
    assert!(next.is_none());
}

/// Were they counted, a thousand of them would allow two hundred.
#[test]
fn requests_that_are_refused_allow_no_retries() {
    let order = [("a", 0, 100), ("b", 1, 100)];
    let mut bench = Bench::new(table(
        vec![(serving("a", &["m"]), 1), (serving("b", &["m"]), 1)],
        vec![route("r", Balancer::Priority, &order)],
    ));
    for _ in 0..1_000 {
        assert!(bench.pick(Some("unknown")).is_err());
    }
    let (mut granted, now) = (0, bench.now);
    for _ in 0..30 {
        let pick = bench.pick(None).unwrap();
        let tried = [pick.ticket.key()];
        let cause = Cause::Status(503);
        let next = bench
            .fleet
            .retry(&query(None), &tried, &pick.ticket, cause, now);
        bench.fleet.finish(pick.ticket, Outcome::Cancelled, now);
        if let Some(next) = next {
            granted += 1;
            bench.fleet.finish(next.ticket, Outcome::Cancelled, now);
        }
    }
    assert_eq!(granted, 10);
}

#[test]
fn a_used_up_budget_stops_retries_but_not_those_of_a_backends_death() {
    let mut bench = two_tiers();
    let mut retry = |cause| {
        let pick = bench.pick(None).unwrap();
        let tried = [pick.ticket.key()];
        let second = bench
            .fleet
            .retry(&query(None), &tried, &pick.ticket, cause, bench.now);
        bench
            .fleet
            .finish(pick.ticket, Outcome::Cancelled, bench.now);
        second.map(|pick| {
            bench
                .fleet
                .finish(pick.ticket, Outcome::Cancelled, bench.now)
        })
    };
    let mut granted = |cause| (0..30).filter(|_| retry(cause).is_some()).count();
    assert_eq!(granted(Cause::Status(503)), 10);
    // What was in flight when it died must all go elsewhere.
    for cause in [Cause::ConnectFailure, Cause::Reset, Cause::Unhealthy] {
        assert_eq!(granted(cause), 30, "{cause:?}");
    }
}
