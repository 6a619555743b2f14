//! Routes, tiers, shares.

use dataplane_core::{Decision, Outcome, Query, Refusal};
use dataplane_protocol::{
    Dialect,
    table::{Balancer, Credential, RouteMatch},
};
use proptest::prelude::*;

use super::common::{Bench, discovering, endpoint, query, route, shares, table};

fn three(balancer: Balancer) -> Bench {
    Bench::new(table(
        vec![(endpoint("a"), 1), (endpoint("b"), 1), (endpoint("c"), 1)],
        vec![route(
            "r",
            balancer,
            &[("a", 0, 100), ("b", 1, 100), ("c", 2, 100)],
        )],
    ))
}

#[test]
fn thirty_requests_over_three_equal_endpoints_are_ten_each() {
    let mut bench = three(Balancer::RoundRobin);
    assert_eq!(bench.share(30), shares(&[("a", 10), ("b", 10), ("c", 10)]));
}

#[test]
fn more_pods_do_not_make_an_endpoints_share_larger() {
    let mut bench = Bench::new(table(
        vec![(endpoint("a"), 3), (endpoint("b"), 1)],
        vec![route(
            "r",
            Balancer::RoundRobin,
            &[("a", 0, 100), ("b", 0, 100)],
        )],
    ));
    let got = bench.share(60);
    assert_eq!(
        got,
        shares(&[("a/0", 10), ("a/1", 10), ("a/2", 10), ("b", 30)])
    );
}

#[test]
fn the_preferred_tier_takes_all_while_it_can() {
    let mut bench = three(Balancer::Priority);
    assert_eq!(bench.share(30), shares(&[("a", 30)]));
}

#[test]
fn when_the_preferred_tier_is_down_the_next_takes_all() {
    let mut bench = three(Balancer::Priority);
    bench.probe_for(30, &["a"]);
    assert_eq!(bench.share(30), shares(&[("b", 30)]));
}

#[test]
fn least_connections_goes_where_the_fewest_are_and_ties_go_round() {
    let mut bench = three(Balancer::LeastConnections);
    let held: Vec<_> = (0..9).map(|_| bench.pick(None).unwrap()).collect();
    let on = |name: &str| {
        held.iter()
            .filter(|pick| pick.instance.instance.id.as_str() == name)
            .count()
    };
    assert_eq!((on("a"), on("b"), on("c")), (3, 3, 3));
    let tied = bench.share(30);
    assert!(
        tied.values().all(|count| (9..=11).contains(count)),
        "{tied:?}"
    );
    for pick in held {
        if pick.instance.instance.id.as_str() == "b" {
            bench.fleet.finish(pick.ticket, Outcome::Success, bench.now);
        }
    }
    assert_eq!(
        bench.share(30),
        shares(&[("b", 30)]),
        "b has nothing in flight"
    );
}

#[test]
fn least_connections_counts_in_proportion_to_weight() {
    let mut bench = Bench::new(table(
        vec![(endpoint("a"), 1), (endpoint("b"), 1)],
        vec![route(
            "r",
            Balancer::LeastConnections,
            &[("a", 0, 300), ("b", 0, 100)],
        )],
    ));
    let held: Vec<_> = (0..40).map(|_| bench.pick(None).unwrap()).collect();
    let on_a = held
        .iter()
        .filter(|pick| pick.instance.instance.id.as_str() == "a")
        .count();
    assert_eq!(on_a, 30);
}

#[test]
fn weight_zero_and_a_withheld_credential_get_nothing() {
    let mut withheld = endpoint("c");
    withheld.credential = Credential::Withheld;
    let mut bench = Bench::new(table(
        vec![(endpoint("a"), 1), (endpoint("b"), 1), (withheld, 1)],
        vec![route(
            "r",
            Balancer::RoundRobin,
            &[("a", 0, 100), ("b", 0, 0), ("c", 0, 100)],
        )],
    ));
    assert_eq!(bench.share(10), shares(&[("a", 10)]));
}

#[test]
fn an_unprobed_instance_is_used_but_after_healthy_ones_of_its_tier() {
    let mut bench = Bench::raw(table(
        vec![(endpoint("a"), 1), (endpoint("b"), 1)],
        vec![route(
            "r",
            Balancer::Priority,
            &[("a", 0, 100), ("b", 0, 100)],
        )],
    ));
    assert_eq!(bench.share(4), shares(&[("a", 2), ("b", 2)]));
    let b = bench.key("b");
    bench
        .fleet
        .probed(b, dataplane_core::ProbeResult::Good { path: 0 }, bench.now);
    assert_eq!(bench.share(4), shares(&[("b", 4)]));
}

#[test]
fn the_first_route_that_fits_takes_the_request_and_owns_it() {
    let mut first = route("by-model", Balancer::Priority, &[("a", 0, 100)]);
    first.matches = vec![RouteMatch {
        models: vec!["gpt-*".into()],
        ..RouteMatch::default()
    }];
    let second = route("rest", Balancer::Priority, &[("b", 0, 100)]);
    let bench = &mut Bench::new(table(
        vec![(endpoint("a"), 1), (endpoint("b"), 1)],
        vec![first, second],
    ));
    assert_eq!(
        bench.pick(Some("gpt-4o")).unwrap().route.id.as_str(),
        "by-model"
    );
    assert_eq!(bench.pick(Some("llama")).unwrap().route.id.as_str(), "rest");
    let ollama = Query {
        prefix: Some("ollama"),
        ..query(Some("gpt-4o"))
    };
    let refusal = bench.fleet.pick(&ollama, bench.now).unwrap_err();
    assert_eq!(refusal, Refusal::NoEndpoint, "the later route is not asked");
}

#[test]
fn each_match_of_a_route_has_its_own_place_among_those_of_others() {
    let by_path = |prefix: &str| RouteMatch {
        path_prefix: Some(prefix.into()),
        ..RouteMatch::default()
    };
    let mut wide = route("wide", Balancer::Priority, &[("a", 0, 100)]);
    wide.matches = vec![RouteMatch::default(), by_path("/v1/chat")];
    let mut middle = route("middle", Balancer::Priority, &[("b", 0, 100)]);
    middle.matches = vec![by_path("/v1"), by_path("/v2")];
    let bench = &mut Bench::new(table(
        vec![(endpoint("a"), 1), (endpoint("b"), 1)],
        vec![wide, middle],
    ));
    for (path, expected, matched) in [
        ("/v1/chat/completions", "wide", 1),
        ("/v1/embeddings", "middle", 0),
        ("/v2/rerank", "middle", 1),
        ("/api/chat", "wide", 0),
    ] {
        let query = Query {
            path,
            ..query(None)
        };
        let taken = bench.fleet.pick(&query, bench.now).unwrap();
        assert_eq!(taken.route.id.as_str(), expected, "{path}");
        let explained = bench.fleet.explain(&query, bench.now);
        assert_eq!(explained.matched, Some(matched), "{path}");
        assert_eq!(
            explained.lines()[0],
            format!("route {expected}, by matches[{matched}]")
        );
    }
}

#[test]
fn a_request_that_no_route_takes_is_refused_so() {
    let mut only = route("v2", Balancer::Priority, &[("a", 0, 100)]);
    only.matches[0].path_prefix = Some("/v2".into());
    let mut bench = Bench::new(table(vec![(endpoint("a"), 1)], vec![only]));
    let refusal = bench.pick(None).unwrap_err();
    assert_eq!((refusal, refusal.reason()), (Refusal::NoRoute, "no_route"));
}

#[test]
fn prefix_and_dialect_leave_only_types_that_have_them() {
    let mut ollama = endpoint("b");
    ollama.profile = "ollama".into();
    let mut bench = Bench::new(table(
        vec![(endpoint("a"), 1), (ollama, 1)],
        vec![route(
            "r",
            Balancer::RoundRobin,
            &[("a", 0, 100), ("b", 0, 100)],
        )],
    ));
    for (prefix, dialect, expected) in [
        (Some("ollama"), None, vec!["b"]),
        (Some("openai"), None, vec!["a", "b"]),
        (None, Some(Dialect::Ollama), vec!["b"]),
        (None, None, vec!["a", "b"]),
        (None, Some(Dialect::Anthropic), vec![]),
        (Some("vllm"), None, vec![]),
    ] {
        let query = Query {
            prefix,
            dialect,
            ..query(None)
        };
        let mut got: Vec<_> = (0..4)
            .filter_map(|_| bench.fleet.pick(&query, bench.now).ok())
            .map(|pick| pick.instance.endpoint.id.to_string())
            .collect();
        got.sort();
        got.dedup();
        assert_eq!(got, expected, "{prefix:?} {dialect:?}");
    }
}

#[test]
fn explain_names_the_one_that_pick_takes_and_changes_nothing() {
    let mut bench = three(Balancer::RoundRobin);
    for _ in 0..10 {
        let explained = bench.fleet.explain(&query(None), bench.now);
        let again = bench.fleet.explain(&query(None), bench.now);
        assert_eq!(explained, again);
        let chosen = explained
            .candidates
            .iter()
            .find(|candidate| candidate.chosen)
            .unwrap();
        let pick = bench.pick(None).unwrap();
        assert_eq!(pick.instance.instance.id, chosen.instance);
        assert_eq!(explained.decision, Some(Decision::NoModel));
    }
}

#[test]
fn explain_says_of_each_instance_why_it_would_not_be_taken() {
    let mut bench = Bench::new(table(
        vec![
            (endpoint("a"), 1),
            (discovering("b"), 1),
            (endpoint("c"), 0),
        ],
        vec![route(
            "r",
            Balancer::Priority,
            &[("a", 0, 100), ("b", 0, 0), ("c", 1, 100)],
        )],
    ));
    bench.probe_for(15, &["a"]);
    let explained = bench.fleet.explain(&query(None), bench.now);
    assert_eq!(
        explained.lines(),
        [
            "route r",
            "✗ tier 0 weight 100 a: unhealthy: refused",
            "✗ tier 0 weight 0 b: weight 0",
            "  endpoint c has no ready instance",
            "refused: unavailable, try again in 10 s",
        ]
    );
}

proptest! {
    #[test]
    fn shares_follow_weights_to_within_one_request(
        weights in prop::collection::vec(1..20_u32, 1..6),
        rounds in 1..4_usize,
    ) {
        let ids: Vec<String> = (0..weights.len()).map(|n| format!("e{n}")).collect();
        let targets: Vec<_> =
            ids.iter().zip(&weights).map(|(id, weight)| (id.as_str(), 0, *weight)).collect();
        let mut bench = Bench::new(table(
            ids.iter().map(|id| (endpoint(id), 1)).collect(),
            vec![route("r", Balancer::RoundRobin, &targets)],
        ));
        let total: u32 = weights.iter().sum();
        let got = bench.share(total as usize * rounds);
        for (id, weight) in ids.iter().zip(&weights) {
            prop_assert_eq!(got[id], *weight as usize * rounds);
        }
    }
}
