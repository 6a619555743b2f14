//! Who serves a model, and what clients see listed.

use std::time::Duration;

use dataplane_core::{Decision, Event, ListingResult, Order, Query, Refusal};
use dataplane_protocol::table::{Balancer, Credential};

use super::common::{Bench, discovering, endpoint, query, route, serving, table};

fn two(a: dataplane_protocol::table::Endpoint, b: dataplane_protocol::table::Endpoint) -> Bench {
    Bench::new(table(
        vec![(a, 1), (b, 1)],
        vec![route(
            "r",
            Balancer::RoundRobin,
            &[("a", 0, 100), ("b", 0, 100)],
        )],
    ))
}

/// The instances that four requests for `model` reach, and why.
fn reached(bench: &mut Bench, model: &str) -> Result<(Vec<String>, Decision), Refusal> {
    let mut names = Vec::new();
    let mut decision = Decision::NoModel;
    for _ in 0..4 {
        let pick = bench.pick(Some(model))?;
        decision = pick.decision;
        names.push(pick.instance.instance.id.to_string());
    }
    names.sort();
    names.dedup();
    Ok((names, decision))
}

#[test]
fn only_those_that_list_a_model_get_requests_for_it() {
    let mut bench = two(
        serving("a", &["llama3:latest", "Qwen"]),
        serving("b", &["qwen", "phi"]),
    );
    let found = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Ok((names, Decision::ModelFound))
    };
    for (model, expected) in [
        ("phi", found(&["b"])),
        ("llama3", found(&["a"])),
        ("qwen", found(&["b"])),
        ("Qwen", found(&["a"])),
        ("QWEN", found(&["a", "b"])),
        ("gpt-4o", Err(Refusal::ModelNotFound)),
    ] {
        assert_eq!(reached(&mut bench, model), expected, "{model}");
    }
}

#[test]
fn an_endpoint_without_a_list_serves_only_what_nobody_lists() {
    let mut bench = two(serving("a", &["phi"]), endpoint("b"));
    assert_eq!(
        reached(&mut bench, "phi"),
        Ok((vec!["a".into()], Decision::ModelFound))
    );
    let other = reached(&mut bench, "gpt-4o");
    assert_eq!(
        other,
        Ok((vec!["b".into()], Decision::ModelUnknownEndpoint))
    );
}

#[test]
fn an_endpoint_not_listed_yet_is_the_last_to_be_asked() {
    let mut bench = two(discovering("a"), endpoint("b"));
    let open = reached(&mut bench, "phi");
    assert_eq!(open, Ok((vec!["b".into()], Decision::ModelUnknownEndpoint)));
    let mut bench = two(discovering("a"), serving("b", &["qwen"]));
    let unknown = reached(&mut bench, "phi");
    assert_eq!(
        unknown,
        Ok((vec!["a".into()], Decision::ModelUnknownEndpoint))
    );
    bench.list("a", &["qwen"]);
    assert_eq!(reached(&mut bench, "phi"), Err(Refusal::ModelNotFound));
}

#[test]
fn excluded_models_are_not_asked_of_an_endpoint_without_a_list() {
    let mut closed = endpoint("a");
    closed.models.exclude = vec!["gpt-*".into()];
    let mut bench = two(closed, serving("b", &["phi"]));
    assert_eq!(reached(&mut bench, "gpt-4o"), Err(Refusal::ModelNotFound));
    assert!(reached(&mut bench, "qwen").is_ok());
}

#[test]
fn a_known_model_whose_instance_is_down_is_unavailable_not_unknown() {
    let mut bench = two(serving("a", &["phi"]), serving("b", &["qwen"]));
    bench.probe_for(30, &["a"]);
    let refusal = bench.pick(Some("phi")).unwrap_err();
    let retry_after = Duration::from_secs(10);
    assert_eq!(refusal, Refusal::ModelUnavailable { retry_after });
}

#[test]
fn a_model_of_an_endpoint_scaled_to_nothing_is_unavailable_not_unknown() {
    let targets: &[(&str, u32, u32)] = &[("a", 0, 100), ("b", 0, 100)];
    let with = |count| {
        table(
            vec![(discovering("a"), count), (serving("b", &["qwen"]), 1)],
            vec![route("r", Balancer::RoundRobin, targets)],
        )
    };
    let mut bench = Bench::new(with(1));
    bench.list("a", &["phi"]);
    bench.apply(with(0));
    bench.apply(with(0));
    assert_eq!(
        bench.pick(Some("phi")).unwrap_err().reason(),
        "model_unavailable"
    );
    assert_eq!(
        bench.pick(Some("other")).unwrap_err(),
        Refusal::ModelNotFound
    );
}

#[test]
fn listing_begins_with_the_first_good_probe_and_follows_the_interval() {
    let mut bench = Bench::raw(table(vec![(discovering("a"), 1)], vec![]));
    let orders = bench.fleet.due(bench.now);
    assert!(
        matches!(orders[..], [Order::Probe { .. }]),
        "no listing before it is healthy"
    );
    let a = bench.key("a");
    bench
        .fleet
        .probed(a, dataplane_core::ProbeResult::Good { path: 0 }, bench.now);
    assert!(matches!(
        bench.fleet.due(bench.now)[..],
        [Order::List { .. }]
    ));
    assert!(bench.fleet.due(bench.now).is_empty(), "given out once");
    let events = bench.list("a", &["phi", "qwen"]);
    assert!(matches!(events[..], [Event::Models { count: 2, .. }]));
    assert!(bench.list("a", &["qwen", "phi"]).is_empty(), "nothing new");
    bench.pass(28);
    let early = bench.fleet.due(bench.now);
    assert!(
        !early
            .iter()
            .any(|order| matches!(order, Order::List { .. }))
    );
    bench.pass(4);
    let orders = bench.fleet.due(bench.now);
    assert!(
        orders
            .iter()
            .any(|order| matches!(order, Order::List { .. }))
    );
}

#[test]
fn an_unhealthy_one_is_not_listed_until_it_is_back_and_then_at_once() {
    let mut bench = Bench::new(table(vec![(discovering("a"), 1)], vec![]));
    bench.fleet.due(bench.now);
    bench.list("a", &["phi"]);
    bench.probe_for(15, &["a"]);
    for _ in 0..60 {
        bench.pass(1);
        let orders = bench.fleet.due(bench.now);
        assert!(
            !orders
                .iter()
                .any(|order| matches!(order, Order::List { .. }))
        );
        let a = bench.key("a");
        if !orders.is_empty() {
            let bad = dataplane_core::ProbeResult::Bad {
                reason: "refused".into(),
            };
            bench.fleet.probed(a, bad, bench.now);
        }
    }
    let a = bench.key("a");
    bench
        .fleet
        .probed(a, dataplane_core::ProbeResult::Good { path: 0 }, bench.now);
    let orders = bench.fleet.due(bench.now);
    assert!(matches!(orders[..], [Order::List { .. }]));
}

#[test]
fn a_detected_type_changes_what_reaches_an_auto_endpoint_and_outlives_a_table() {
    let mut auto = discovering("a");
    auto.profile = "auto".into();
    let table = table(
        vec![(auto, 1)],
        vec![route("r", Balancer::Priority, &[("a", 0, 100)])],
    );
    let mut bench = Bench::new(table.clone());
    let ollama = Query {
        prefix: Some("ollama"),
        ..query(None)
    };
    assert_eq!(
        bench.fleet.pick(&ollama, bench.now).unwrap_err(),
        Refusal::NoEndpoint
    );
    let a = bench.key("a");
    let result = ListingResult::Models {
        models: vec![],
        detected: Some("ollama".into()),
    };
    bench.fleet.listed(a, result, bench.now);
    bench.apply(table);
    let pick = bench.fleet.pick(&ollama, bench.now).unwrap();
    assert_eq!(pick.instance.profile.name, "ollama");
}

#[test]
fn clients_see_models_that_somebody_usable_and_routed_serves() {
    let mut withheld = serving("withheld", &["secret"]);
    withheld.credential = Credential::Withheld;
    let mut ollama = serving("b", &["phi", "Qwen"]);
    ollama.profile = "ollama".into();
    let mut bench = Bench::new(table(
        vec![
            (serving("a", &["phi"]), 1),
            (ollama, 1),
            (serving("down", &["lost"]), 1),
            (withheld, 1),
            (serving("unrouted", &["hidden"]), 1),
        ],
        vec![route(
            "r",
            Balancer::Priority,
            &[
                ("a", 0, 100),
                ("b", 1, 100),
                ("down", 0, 100),
                ("withheld", 0, 100),
            ],
        )],
    ));
    bench.probe_for(30, &["down"]);
    let listed = |prefix| {
        let models = bench.fleet.models(prefix, None);
        let names = models.iter().map(|model| {
            let endpoints: Vec<_> = model.endpoints.iter().map(ToString::to_string).collect();
            format!("{} {}", model.name, endpoints.join(","))
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(listed(None), ["phi a,b", "Qwen b"]);
    assert_eq!(listed(Some("ollama")), ["phi b", "Qwen b"]);
    assert_eq!(listed(Some("vllm")), Vec::<String>::new());
}
