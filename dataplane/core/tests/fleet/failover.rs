//! Breakers, saturation, last resort, and the way back.

use std::time::Duration;

use dataplane_core::{Cause, Decision, Event, Outcome, Refusal};
use dataplane_protocol::{
    sync::{Breaker, Health},
    table::{Balancer, HealthMode, WhenAllOpen},
};

use super::common::{
    Bench, alone, breaker, endpoint, name, query, route, serving, shares, table, two_tiers,
};

const RESET: Outcome = Outcome::Failure(Cause::Reset);

/// Five resets open the breaker of whoever the balancer prefers.
fn open_the_first(bench: &mut Bench) {
    for _ in 0..5 {
        bench.send(RESET);
    }
}

#[test]
fn an_open_breaker_moves_traffic_to_the_next_tier() {
    let mut bench = two_tiers();
    open_the_first(&mut bench);
    let opened = bench.events.iter().any(|event| {
        matches!(
            event,
            Event::Breaker {
                from: Breaker::Closed,
                to: Breaker::Open,
                ..
            }
        )
    });
    assert!(opened);
    assert_eq!(bench.share(20), shares(&[("b", 20)]));
}

#[test]
fn cancelled_and_saturated_requests_open_no_breaker() {
    let mut bench = alone(|_| {});
    for _ in 0..50 {
        bench.send(Outcome::Cancelled);
        bench.send(Outcome::Saturated { retry_after: None });
    }
    let view = &bench.fleet.view(bench.now).instances[0];
    assert_eq!((view.breaker, view.failures), (Breaker::Closed, 0));
}

#[test]
fn half_open_admits_one_probe_at_a_time_and_the_rest_goes_elsewhere() {
    let mut bench = two_tiers();
    open_the_first(&mut bench);
    bench.pass(30);
    let trial = bench.pick(None).unwrap();
    assert_eq!(name(&trial), "a");
    assert_eq!(bench.share(10), shares(&[("b", 10)]));
    let events = bench.fleet.first_byte(&trial.ticket, bench.now);
    let closed = events.iter().any(|event| {
        matches!(
            event,
            Event::Breaker {
                from: Breaker::HalfOpen,
                to: Breaker::Closed,
                ..
            }
        )
    });
    assert!(closed, "the first byte of the answer is enough");
    bench
        .fleet
        .finish(trial.ticket, Outcome::Success, bench.now);
    bench.pass(10);
    assert_eq!(bench.share(10), shares(&[("a", 10)]));
}

#[test]
fn a_cancelled_trial_makes_room_for_another() {
    let mut bench = two_tiers();
    open_the_first(&mut bench);
    bench.pass(30);
    for _ in 0..3 {
        assert_eq!(bench.send(Outcome::Cancelled), "a");
    }
}

#[test]
fn traffic_ramps_back_to_a_tier_that_recovered() {
    let mut bench = two_tiers();
    bench.probe_for(30, &["a"]);
    assert_eq!(bench.share(10), shares(&[("b", 10)]));
    let is_back = |bench: &Bench| {
        let view = bench.fleet.view(bench.now);
        view.instances
            .iter()
            .all(|instance| instance.health == Health::Healthy)
    };
    while !is_back(&bench) {
        bench.probe_for(1, &[]);
    }
    let mut on_a = Vec::new();
    for _ in 0..4 {
        on_a.push(bench.share(400).get("a").copied().unwrap_or(0));
        bench.pass(4);
    }
    assert!(on_a.is_sorted(), "{on_a:?}");
    assert!(on_a[0] < 200, "not all at once: {on_a:?}");
    assert_eq!(on_a[3], 400, "all of it in the end: {on_a:?}");
}

#[test]
fn a_first_start_takes_its_full_share_at_once() {
    let mut bench = two_tiers();
    assert_eq!(bench.share(50), shares(&[("a", 50)]));
}

#[test]
fn a_lone_instance_that_recovers_takes_everything_at_once() {
    let mut bench = alone(|_| {});
    bench.probe_for(30, &["a"]);
    bench.probe_for(11, &[]);
    assert_eq!(bench.share(50), shares(&[("a", 50)]));
}

#[test]
fn a_good_probe_lets_a_trial_through_where_only_connecting_had_failed() {
    let mut bench = two_tiers();
    for _ in 0..5 {
        bench.send(Outcome::Failure(Cause::ConnectFailure));
    }
    assert_eq!(bench.send(Outcome::Success), "b");
    bench.probe_for(3, &[]);
    let answered = (0..20).any(|_| bench.send(Outcome::Success) == "a");
    assert!(answered, "its breaker would stay open for 30 s");

    let mut bench = two_tiers();
    open_the_first(&mut bench);
    bench.probe_for(3, &[]);
    assert_eq!(
        bench.share(20),
        shares(&[("b", 20)]),
        "resets are not undone by a probe"
    );
}

#[test]
fn a_saturated_backend_rests_for_as_long_as_it_asked() {
    let mut bench = two_tiers();
    let retry_after = Some(Duration::from_secs(7));
    bench.send(Outcome::Saturated { retry_after });
    assert_eq!(bench.send(Outcome::Success), "b");
    bench.pass(7);
    assert_eq!(bench.send(Outcome::Success), "a");
}

#[test]
fn the_last_resort_is_a_saturated_one_before_an_open_one() {
    let mut bench = two_tiers();
    open_the_first(&mut bench);
    let retry_after = Some(Duration::from_secs(50));
    assert_eq!(bench.send(Outcome::Saturated { retry_after }), "b");
    let pick = bench.pick(None).unwrap();
    assert_eq!((name(&pick), pick.decision), ("b", Decision::LastResort));
    let tried = [pick.ticket.key()];
    let next = bench
        .fleet
        .retry(
            &query(None),
            &tried,
            &pick.ticket,
            Cause::Status(429),
            bench.now,
        )
        .unwrap();
    assert_eq!((name(&next), next.decision), ("a", Decision::LastResort));
}

#[test]
fn with_all_open_the_policy_decides_between_a_try_and_an_error() {
    let mut bench = alone(|policy| policy.when_all_open = WhenAllOpen::TryBest);
    open_the_first(&mut bench);
    assert_eq!(bench.pick(None).unwrap().decision, Decision::LastResort);
    let mut bench = alone(|policy| policy.when_all_open = WhenAllOpen::Fail);
    open_the_first(&mut bench);
    bench.pass(12);
    let retry_after = Duration::from_secs(18);
    assert_eq!(
        bench.pick(None).unwrap_err(),
        Refusal::Unavailable { retry_after }
    );
}

#[test]
fn a_last_resort_that_is_answered_closes_the_breaker() {
    let mut bench = alone(|_| {});
    open_the_first(&mut bench);
    bench.send(Outcome::Success);
    assert_eq!(
        bench.fleet.view(bench.now).instances[0].breaker,
        Breaker::Closed
    );
}

#[test]
fn an_unhealthy_one_is_not_even_a_last_resort() {
    let mut bench = alone(|_| {});
    bench.probe_for(30, &["a"]);
    assert_eq!(bench.pick(None).unwrap_err().reason(), "unavailable");
}

#[test]
fn no_more_than_the_allowed_share_is_ejected_and_those_open_longest_come_first() {
    let mut policy = breaker();
    policy.max_ejected_percent = 50;
    let mut only = route(
        "r",
        Balancer::RoundRobin,
        &[("a", 0, 100), ("b", 0, 100), ("c", 0, 100)],
    );
    only.breaker = Some(policy);
    let mut bench = Bench::new(table(
        vec![(endpoint("a"), 1), (endpoint("b"), 1), (endpoint("c"), 1)],
        vec![only],
    ));
    let mut fail = |who: &str| {
        for _ in 0..15 {
            let pick = bench.pick(None).unwrap();
            let outcome = if name(&pick) == who {
                RESET
            } else {
                Outcome::Cancelled
            };
            bench.fleet.finish(pick.ticket, outcome, bench.now);
        }
        bench.pass(1);
        let mut seen: Vec<_> = (0..9)
            .map(|_| {
                let pick = bench.pick(None).unwrap();
                let name = name(&pick).to_owned();
                bench
                    .fleet
                    .finish(pick.ticket, Outcome::Cancelled, bench.now);
                name
            })
            .collect();
        seen.sort();
        seen.dedup();
        seen
    };
    assert_eq!(fail("b"), ["a", "c"], "one of three may be out");
    assert_eq!(fail("a"), ["b", "c"], "two may not: b was out first");
}

#[test]
fn a_route_without_breaker_neither_looks_nor_counts() {
    let plain = |id: &str| {
        let mut route = route(id, Balancer::Priority, &[("a", 0, 100)]);
        route.breaker = None;
        route
    };
    let mut judging = route("judging", Balancer::Priority, &[("a", 0, 100)]);
    judging.matches[0].path_prefix = Some("/v1/chat".into());
    let mut bench = Bench::new(table(vec![(endpoint("a"), 1)], vec![plain("plain")]));
    for _ in 0..50 {
        bench.send(RESET);
    }
    assert_eq!(
        bench.fleet.view(bench.now).instances[0].breaker,
        Breaker::Closed
    );
    let mut bench = Bench::new(table(
        vec![(endpoint("a"), 1)],
        vec![judging, plain("plain")],
    ));
    open_the_first(&mut bench);
    let other = dataplane_core::Query {
        path: "/v1/embeddings",
        ..query(None)
    };
    let pick = bench.fleet.pick(&other, bench.now).unwrap();
    assert_eq!(pick.decision, Decision::NoModel);
}

#[test]
fn going_unhealthy_tells_the_shell_to_cut_what_is_unanswered() {
    let mut bench = two_tiers();
    let a = bench.key("a");
    bench.probe_for(30, &["a"]);
    let outages = 1;
    let cut = Event::CutUnanswered { key: a, outages };
    assert!(bench.events.contains(&cut));
}

#[test]
fn a_ticket_knows_of_the_outages_before_its_pick_and_of_no_other() {
    let mut bench = two_tiers();
    let before = bench.pick(None).unwrap();
    bench.probe_for(30, &["a"]);
    bench.probe_for(30, &[]);
    let after = bench.pick(None).unwrap();
    assert_eq!((name(&before), name(&after)), ("a", "a"));
    assert_eq!((before.ticket.outages(), after.ticket.outages()), (0, 1));
}

#[test]
fn live_connect_failures_take_a_passive_endpoint_out_until_it_answers_again() {
    let mut passive = endpoint("a");
    passive.health.mode = HealthMode::Passive;
    let mut bench = Bench::raw(table(
        vec![(passive, 1), (endpoint("b"), 1)],
        vec![route(
            "r",
            Balancer::Priority,
            &[("a", 0, 100), ("b", 1, 100)],
        )],
    ));
    bench.send(Outcome::Failure(Cause::ConnectFailure));
    bench.send(Outcome::Failure(Cause::ConnectFailure));
    let view = &bench.fleet.view(bench.now).instances[0];
    assert_eq!(view.health, Health::Unhealthy);
    assert_eq!(view.why_not, "unhealthy: requests could not connect");
    bench.probe_for(1, &[]);
    assert_eq!(
        bench.fleet.view(bench.now).instances[0].health,
        Health::Healthy
    );
}

#[test]
fn the_wait_a_refused_client_is_told_is_at_least_a_second() {
    let mut only = route("r", Balancer::Priority, &[("a", 0, 100)]);
    only.breaker = Some(dataplane_protocol::table::BreakerPolicy {
        when_all_open: WhenAllOpen::Fail,
        open_for_ms: 200,
        ..breaker()
    });
    let mut bench = Bench::new(table(vec![(serving("a", &["phi"]), 1)], vec![only]));
    open_the_first(&mut bench);
    let retry_after = Duration::from_secs(1);
    let refusal = bench.pick(Some("phi")).unwrap_err();
    assert_eq!(refusal, Refusal::ModelUnavailable { retry_after });
}
