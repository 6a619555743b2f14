//! New tables while requests run.

use dataplane_core::{Cause, Event, Order, Outcome};
use dataplane_protocol::{
    RoutingTable, Secret,
    sync::{Breaker, Health},
    table::{Balancer, Credential},
};

use super::common::{Bench, discovering, endpoint, query, route, serving, shares, table};

fn pods(count: usize) -> RoutingTable {
    table(
        vec![(endpoint("a"), count), (endpoint("b"), 1)],
        vec![route(
            "r",
            Balancer::RoundRobin,
            &[("a", 0, 100), ("b", 0, 100)],
        )],
    )
}

#[test]
fn what_stayed_keeps_its_state_and_what_left_is_told() {
    let mut bench = Bench::new(pods(3));
    for _ in 0..40 {
        let pick = bench.pick(None).unwrap();
        let failed = pick.instance.instance.id.as_str() == "b";
        let outcome = if failed {
            Outcome::Failure(Cause::Reset)
        } else {
            Outcome::Success
        };
        bench.fleet.finish(pick.ticket, outcome, bench.now);
    }
    let (b, gone) = (bench.key("b"), bench.key("a/2"));
    let before = bench.fleet.view(bench.now);
    let events = bench.apply(pods(2));
    assert_eq!(events, [Event::Gone { key: gone }]);
    let after = bench.fleet.view(bench.now);
    assert_eq!(bench.key("b"), b);
    assert_eq!(after.instances[2], before.instances[3]);
    assert_eq!(after.instances[2].breaker, Breaker::Open);
    assert_eq!(after.instances.len(), 3);
}

#[test]
fn a_pod_with_its_name_but_another_address_is_another_one() {
    let mut bench = Bench::new(pods(1));
    let old = bench.key("a");
    let mut moved = pods(1);
    let mut instances = (*moved.instances["a"]).clone();
    instances[0].host = "elsewhere.test".into();
    moved.instances.insert("a".into(), instances.into());
    let events = bench.apply(moved);
    assert_eq!(events, [Event::Gone { key: old }]);
    assert_ne!(bench.key("a"), old);
    assert_eq!(
        bench.fleet.view(bench.now).instances[0].health,
        Health::Unknown
    );
}

#[test]
fn tickets_of_a_vanished_instance_end_quietly() {
    let mut bench = Bench::new(pods(1));
    let picks: Vec<_> = (0..4).map(|_| bench.pick(None).unwrap()).collect();
    bench.apply(table(vec![], vec![]));
    for pick in picks {
        assert!(bench.fleet.first_byte(&pick.ticket, bench.now).is_empty());
        let reset = Outcome::Failure(Cause::Reset);
        assert!(bench.fleet.finish(pick.ticket, reset, bench.now).is_empty());
    }
    assert_eq!(bench.pick(None).unwrap_err().reason(), "no_route");
}

#[test]
fn requests_in_flight_are_counted_across_a_new_table() {
    let mut bench = Bench::new(pods(1));
    let picks: Vec<_> = (0..4).map(|_| bench.pick(None).unwrap()).collect();
    bench.apply(pods(2));
    bench.apply(pods(1));
    let b = |bench: &Bench| bench.fleet.view(bench.now).instances[1].in_flight;
    assert_eq!(b(&bench), 2);
    for pick in picks {
        bench.fleet.finish(pick.ticket, Outcome::Success, bench.now);
    }
    assert_eq!(b(&bench), 0);
}

#[test]
fn the_rotation_goes_on_where_it_was() {
    let mut bench = Bench::new(pods(1));
    let mut seen = Vec::new();
    for _ in 0..10 {
        seen.push(bench.send(Outcome::Success));
        bench.apply(pods(1));
    }
    let on_a = seen.iter().filter(|name| *name == "a").count();
    assert_eq!(on_a, 5, "{seen:?}");
}

#[test]
fn an_instance_waits_for_its_credential_and_is_probed_when_it_comes() {
    let with = |credential| {
        let mut endpoint = endpoint("a");
        endpoint.credential = credential;
        table(
            vec![(endpoint, 1)],
            vec![route("r", Balancer::Priority, &[("a", 0, 100)])],
        )
    };
    let mut bench = Bench::raw(with(Credential::Withheld));
    assert!(bench.fleet.due(bench.now).is_empty());
    assert_eq!(bench.fleet.next_due(), None);
    assert_eq!(bench.pick(None).unwrap_err().reason(), "unavailable");
    bench.apply(with(Credential::Header {
        name: "authorization".into(),
        value: Secret::new("Bearer top-secret"),
    }));
    assert!(matches!(
        bench.fleet.due(bench.now)[..],
        [Order::Probe { .. }]
    ));
    assert!(bench.pick(None).is_ok());
}

#[test]
fn neither_views_nor_debug_output_show_a_credential() {
    let mut secret = serving("a", &["phi"]);
    secret.credential = Credential::Header {
        name: "authorization".into(),
        value: Secret::new("Bearer top-secret"),
    };
    let mut bench = Bench::new(table(
        vec![(secret, 1)],
        vec![route("r", Balancer::Priority, &[("a", 0, 100)])],
    ));
    let pick = bench.pick(None).unwrap();
    let view = serde_json::to_string(&bench.fleet.view(bench.now)).unwrap();
    let why = serde_json::to_string(&bench.fleet.explain(&query(None), bench.now)).unwrap();
    for text in [view, why, format!("{:?}", bench.fleet), format!("{pick:?}")] {
        assert!(!text.contains("top-secret"), "{text}");
    }
}

#[test]
fn a_changed_endpoint_is_probed_and_listed_at_once() {
    let with = |path: &str| {
        let mut endpoint = discovering("a");
        endpoint.health.paths = vec![path.into()];
        table(
            vec![(endpoint, 1)],
            vec![route("r", Balancer::Priority, &[("a", 0, 100)])],
        )
    };
    let mut bench = Bench::new(with("/wrong"));
    bench.probe_for(30, &["a"]);
    bench.list("a", &["phi"]);
    bench.apply(with("/right"));
    bench.probe_all(&[]);
    assert_eq!(bench.share(1), shares(&[("a", 1)]));
    bench.apply(with("/right"));
    assert!(matches!(
        bench.fleet.due(bench.now)[..],
        [Order::List { .. }]
    ));
}

#[test]
fn the_same_seed_and_calls_give_the_same_view() {
    let run = || {
        let mut bench = Bench::new(pods(3));
        bench.probe_for(60, &["a/1"]);
        bench.share(50);
        serde_json::to_value(bench.fleet.view(bench.now)).unwrap()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_changed_weight_leaves_no_debt_from_the_old_one() {
    let with = |weight| {
        table(
            vec![(endpoint("a"), 1), (endpoint("b"), 1)],
            vec![route(
                "r",
                Balancer::RoundRobin,
                &[("a", 0, weight), ("b", 0, weight)],
            )],
        )
    };
    let mut bench = Bench::new(with(1_000_000));
    assert_eq!(bench.send(Outcome::Success), "a");
    bench.apply(with(1));
    assert_eq!(bench.share(20), shares(&[("a", 10), ("b", 10)]));
}

#[test]
fn an_instance_that_left_is_no_longer_probed() {
    let mut bench = Bench::new(pods(3));
    bench.apply(pods(1));
    bench.pass(3_600);
    let asked: Vec<_> = bench
        .fleet
        .due(bench.now)
        .into_iter()
        .map(|order| match order {
            Order::Probe { instance, .. } | Order::List { instance } => {
                instance.instance.id.to_string()
            }
        })
        .collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked.contains(&"a".to_owned()) && asked.contains(&"b".to_owned()));
    let given_up = bench.fleet.next_due().unwrap();
    assert_eq!(
        given_up.since(bench.now).as_secs(),
        10,
        "until those are given up"
    );
}
