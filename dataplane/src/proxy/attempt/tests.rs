//! What no client could time: an attempt at a real socket, with the fleet in the test's hand.

use std::sync::Arc;

use dataplane_core::{Pick, ProbeResult, Query};
use dataplane_protocol::{
    Revision, RoutingTable,
    table::{
        Balancer, Credential, Endpoint, EndpointRef, FailoverOn, FailoverPolicy, HealthMode,
        HealthPolicy, Instance, ModelPolicy, PathScope, Profile, Route, RouteMatch, Scheme,
        Selection,
    },
};
use tokio::net::TcpListener;

use super::*;
use crate::{
    backend::address::Address,
    config::Settings,
    proxy::{chunks::Chunks, upstream::Upstreams},
    state::Shared,
};

fn table(port: u16) -> RoutingTable {
    let endpoint = Endpoint {
        id: "a".into(),
        profile: "vllm".into(),
        priority: 100,
        weight: 100,
        base_path: String::new(),
        credential: Credential::None,
        paths: PathScope::Inference,
        health: HealthPolicy {
            mode: HealthMode::Active,
            paths: vec!["/health".into()],
            interval_ms: 10_000,
            timeout_ms: 1_000,
            unhealthy_threshold: 1,
            healthy_threshold: 1,
        },
        models: ModelPolicy {
            discovery: None,
            fixed: vec![],
            include: vec![],
            exclude: vec![],
        },
    };
    let profile = Profile {
        name: "vllm".into(),
        prefixes: vec![],
        dialects: vec![],
        health_paths: vec![],
        listings: vec![],
    };
    let instance = Instance {
        id: "a".into(),
        scheme: Scheme::Http,
        host: "127.0.0.1".into(),
        port,
    };
    let route = Route {
        id: "r".into(),
        created: None,
        matches: vec![RouteMatch::default()],
        endpoints: Selection {
            refs: vec![EndpointRef {
                endpoint: "a".into(),
                priority: None,
                weight: None,
            }],
            ..Selection::default()
        },
        balancer: Balancer::Priority,
        failover: FailoverPolicy {
            on: FailoverOn::default(),
            attempts: 1,
            budget_percent: 20,
        },
        breaker: None,
        timeouts: timeouts(),
    };
    RoutingTable {
        namespace: "team".into(),
        profiles: [("vllm".to_owned(), Arc::new(profile))].into(),
        endpoints: [("a".into(), Arc::new(endpoint))].into(),
        instances: [("a".into(), Arc::new(vec![instance]))].into(),
        routes: vec![Arc::new(route)],
        ..RoutingTable::default()
    }
}

fn timeouts() -> Timeouts {
    Timeouts {
        connect_ms: 5_000,
        first_token_ms: 120_000,
        first_token_whole_ms: None,
        stream_idle_ms: 120_000,
        request_ms: None,
    }
}

/// A fleet of one instance at `listener`, and a request's pick of it.
fn picked(listener: &TcpListener) -> (Arc<Shared>, Pick) {
    let shared = Shared::new(Settings::default());
    let port = listener.local_addr().unwrap().port();
    shared.apply(Arc::new(table(port)), Revision(1), "file");
    let query = Query {
        path: "/v1/chat/completions",
        header: &|_| None,
        model: None,
        prefix: None,
        dialect: None,
        permits: None,
    };
    let pick = shared.pick(&query, Instant::now()).unwrap();
    (shared, pick)
}

fn message(address: &Address) -> Message {
    let mut head = Lines::new(&Method::POST, &["/v1/chat/completions"]);
    head.add(&http::header::HOST, &address.host);
    Message {
        method: Method::POST,
        head,
        body: Outgoing::whole(Chunks::default()),
    }
}

/// The listener's backlog takes the connection, and nobody ever answers: without the look at
/// what happened since the pick, this would wait for ever.
#[tokio::test]
async fn a_health_failure_between_pick_and_attempt_ends_the_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (shared, pick) = picked(&listener);
    let reason = "no answer".to_owned();
    let failed = ProbeResult::Bad { reason };
    let events = shared.with_fleet(|fleet, now| fleet.probed(pick.instance.key, failed, now));
    shared.carry_out(events);

    let upstream = Upstreams::new(shared.clone()).of(&pick.instance);
    let (upload, timeouts) = (Upload::new(true), timeouts());
    let make = || Some(message(&upstream.address));
    let terms = Terms {
        timeouts: &timeouts,
        stream: false,
        upload: &upload,
        repeatable: true,
        outages: pick.ticket.outages(),
        began: Instant::now(),
    };
    let attempt = run(&upstream, &terms, make);
    let ended = timeout(Duration::from_secs(20), attempt).await;
    let Ok(Err(cause)) = ended else {
        panic!("it waits on");
    };
    assert_eq!(cause, Cause::Unhealthy);
    shared.finish(pick.ticket, cause.outcome(), Instant::now());
}
