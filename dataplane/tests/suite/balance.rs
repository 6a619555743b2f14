//! Who gets how much.

use std::collections::BTreeMap;

use futures::future::join_all;

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml},
    reply::Reply,
    wait_for,
};

/// Answers by endpoint of `number` chats, one after another.
async fn shares(plane: &Plane, number: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..number {
        let answer = plane.chat("m").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        *shares.entry(answer.endpoint().to_owned()).or_default() += 1;
    }
    shares
}

fn of<const N: usize>(shares: [(&str, usize); N]) -> BTreeMap<String, usize> {
    shares.map(|(name, count)| (name.to_owned(), count)).into()
}

async fn three() -> (Backend, Backend, Backend) {
    let a = Backend::start("a", &["m"]).await;
    let b = Backend::start("b", &["m"]).await;
    let c = Backend::start("c", &["m"]).await;
    (a, b, c)
}

#[tokio::test]
async fn round_robin_is_even() {
    let (a, b, c) = three().await;
    let yaml = Yaml::tiers(&[("a", &a), ("b", &b), ("c", &c)]);
    let plane = yaml.route("loadBalancer: round_robin").start().await;
    assert_eq!(
        shares(&plane, 30).await,
        of([("a", 10), ("b", 10), ("c", 10)])
    );
}

#[tokio::test]
async fn one_tier_is_shared_by_weight() {
    let (a, b, c) = three().await;
    let plane = Yaml::default()
        .endpoint("a", &a.url(), &["weight: 3"])
        .endpoint("b", &b.url(), &["weight: 1"])
        .endpoint("c", &c.url(), &["weight: 0"])
        .start()
        .await;
    assert_eq!(shares(&plane, 40).await, of([("a", 30), ("b", 10)]));
}

#[tokio::test]
async fn the_lowest_priority_number_is_preferred_unless_the_route_says_otherwise() {
    let (a, b, c) = three().await;
    let yaml = Yaml::tiers(&[("a", &a), ("b", &b), ("c", &c)]);
    let plane = yaml.start().await;
    assert_eq!(shares(&plane, 10).await, of([("a", 10)]));
    let plane = yaml.route("priorityOrder: HighestFirst").start().await;
    assert_eq!(shares(&plane, 10).await, of([("c", 10)]));
}

#[tokio::test]
async fn least_connections_goes_where_fewest_are() {
    let (a, b, c) = three().await;
    for backend in [&a, &b, &c] {
        backend.answer(Reply::default().hang());
    }
    let yaml = Yaml::equal(&[("a", &a), ("b", &b), ("c", &c)]);
    let plane = yaml.route("loadBalancer: least_connections").start().await;
    let send = || plane.send_stream("/v1/chat/completions", "m");
    let clients = join_all((0..12).map(|_| send())).await;
    let busy = || [&a, &b, &c].map(Backend::answering);
    wait_for("all wait", async || busy().iter().sum::<usize>() == 12).await;
    assert_eq!(busy(), [4, 4, 4]);
    drop(clients);
    plane.wait_instance("a", "in_flight", 0).await;
}

#[tokio::test]
async fn a_busy_endpoint_does_not_swallow_a_round_robin() {
    let (a, b, c) = three().await;
    c.answer(Reply::busy(503, "60"));
    let yaml = Yaml::equal(&[("a", &a), ("b", &b), ("c", &c)]);
    let plane = yaml.route("loadBalancer: round_robin").start().await;
    let shares = shares(&plane, 60).await;
    assert!(!shares.contains_key("c"), "{shares:?}");
    assert_eq!(c.count(), 1, "asked once, then left alone");
}

#[tokio::test]
async fn a_better_tier_gets_its_traffic_back_when_it_recovers() {
    let (mut a, b, _) = three().await;
    let plane = Yaml::tiers(&[("a", &a), ("b", &b)])
        .route("circuitBreaker: { openFor: 300ms }")
        .start()
        .await;
    a.stop().await;
    plane.wait_instance("a", "health", "Unhealthy").await;
    assert_eq!(shares(&plane, 5).await, of([("b", 5)]));
    a.restart().await;
    plane.wait_instance("a", "health", "Healthy").await;
    let ramp = plane.instance("a").await["ramp_permille"].as_u64();
    assert!(ramp < Some(1000), "slowly at first: {ramp:?}");
    plane.wait_instance("a", "ramp_permille", 1000).await;
    assert_eq!(shares(&plane, 5).await, of([("a", 5)]));
}
