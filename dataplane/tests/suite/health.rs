//! Endpoints that stop working, freeze, and come back.

use dataplane::app::From;
use futures::future::{join, join_all};

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml},
    reply::{Gate, Reply},
    wait_for,
};

/// `a` is preferred to `b`, and notices within some hundred milliseconds when it fails.
async fn pair() -> (Backend, Backend, Plane) {
    let a = Backend::start("a", &["m"]).await;
    let b = Backend::start("b", &["m"]).await;
    let quick = "health: { interval: 100ms, timeout: 300ms }";
    let plane = Yaml::default()
        .endpoint("a", &a.url(), &["priority: 1", quick])
        .endpoint("b", &b.url(), &["priority: 2"])
        .route("circuitBreaker: { openFor: 300ms }")
        .start()
        .await;
    (a, b, plane)
}

#[tokio::test]
async fn probes_come_at_the_interval_that_was_asked_for() {
    let (a, _b, _plane) = pair().await;
    let probes = || a.looks().iter().filter(|l| l.target == "/health").count();
    wait_for("ten probes", async || probes() >= 10).await;
}

#[tokio::test]
async fn an_endpoint_that_fails_its_check_gets_no_traffic_until_it_passes_again() {
    let (a, b, plane) = pair().await;
    a.health(Reply::status(503));
    plane.wait_instance("a", "health", "Unhealthy").await;
    let reason = plane.instance("a").await["why_not"].clone();
    assert!(reason.as_str().unwrap().contains("503"), "{reason}");
    for _ in 0..5 {
        assert_eq!(plane.chat("m").await.endpoint(), "b");
    }
    assert_eq!((a.count(), b.count()), (0, 5));
    a.health(Reply::whole(200, &[], "ok"));
    plane.wait_instance("a", "health", "Healthy").await;
    let back = async || plane.chat("m").await.endpoint() == "a";
    wait_for("traffic comes back", back).await;
}

#[tokio::test]
async fn requests_that_wait_for_an_endpoint_that_froze_are_answered_elsewhere() {
    let (a, b, plane) = pair().await;
    let chats = join_all((0..50).map(|_| plane.chat("m")));
    a.freeze();
    let (answers, ()) = join(chats, async {
        wait_for("they wait", async || a.answering() >= 50).await;
    })
    .await;
    for answer in answers {
        assert_eq!((answer.status, answer.endpoint()), (200, "b"));
    }
    assert_eq!(b.count(), 50);
    let labels = ["reason=\"unhealthy\""];
    assert_eq!(plane.metric("olla_failovers_total", &labels).await, 50.0);
}

#[tokio::test]
async fn a_host_that_only_takes_connections_is_found_out() {
    let (a, _b, plane) = pair().await;
    a.deaf(true);
    plane.wait_instance("a", "health", "Unhealthy").await;
    let answer = plane.chat("m").await;
    assert_eq!((answer.status, answer.endpoint()), (200, "b"));
}

#[tokio::test]
async fn a_stream_that_has_begun_goes_on_although_the_check_fails() {
    let (a, _b, plane) = pair().await;
    let gate = Gate::new();
    let reply = Reply::sse().chunk("data: 1\n\n").wait(&gate);
    a.answer(reply.chunk("data: [DONE]\n\n").end());
    let (mut client, _) = plane.stream("m").await;
    assert_eq!(client.chunk().await.unwrap(), "data: 1\n\n");
    a.health(Reply::status(503));
    plane.wait_instance("a", "health", "Unhealthy").await;
    gate.cancel();
    assert_eq!(client.rest().await, (b"data: [DONE]\n\n".to_vec(), true));
}

#[tokio::test]
async fn an_endpoint_that_dies_and_comes_back_costs_no_request() {
    let (mut a, _b, plane) = pair().await;
    assert_eq!(plane.chat("m").await.endpoint(), "a");
    a.stop().await;
    for _ in 0..10 {
        let answer = plane.chat("m").await;
        assert_eq!((answer.status, answer.endpoint()), (200, "b"));
    }
    a.restart().await;
    wait_for("traffic comes back", async || {
        let answer = plane.chat("m").await;
        assert_eq!(answer.status, 200);
        answer.endpoint() == "a"
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_was_down_at_the_start_is_used_once_it_is_up() {
    let mut a = Backend::start("a", &["late"]).await;
    a.stop().await;
    let quick = "health: { interval: 100ms }";
    let plane = Yaml::default()
        .endpoint("a", &a.url(), &[quick])
        .start()
        .await;
    assert_eq!(plane.chat("late").await.status, 503);
    assert_eq!(plane.status().await["system"]["status"], "critical");
    a.restart().await;
    let listed = async || plane.get("/v1/models").await.text().contains("late");
    wait_for("its models are listed", listed).await;
    assert_eq!(plane.chat("late").await.status, 200);
    assert_eq!(plane.status().await["system"]["status"], "healthy");
}

#[tokio::test]
async fn a_passive_endpoint_is_probed_only_while_it_is_in_doubt() {
    let mut a = Backend::start("a", &["m"]).await;
    let passive = "health: { mode: Passive, interval: 100ms }";
    let plane = Yaml::default()
        .endpoint("a", &a.url(), &[passive])
        .start()
        .await;
    let probes = || a.looks().iter().filter(|l| l.target == "/health").count();
    for _ in 0..20 {
        assert_eq!(plane.chat("m").await.status, 200);
    }
    assert_eq!(probes(), 0);
    a.stop().await;
    let failed = async || {
        plane.chat("m").await;
        plane.instance("a").await["health"] == "Unhealthy"
    };
    wait_for("requests find out", failed).await;
    a.restart().await;
    plane.wait_instance("a", "health", "Healthy").await;
    assert_eq!(plane.chat("m").await.status, 200);
}

#[tokio::test]
async fn a_health_answer_of_any_length_is_good() {
    let a = Backend::start("a", &["m"]).await;
    a.health(Reply::whole(200, &[], vec![b'x'; 1_000_000]));
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    assert_eq!(plane.instance("a").await["health"], "Healthy");
}

#[tokio::test]
async fn a_data_plane_is_ready_when_it_has_looked_at_each_endpoint_once() {
    let a = Backend::start("a", &["m"]).await;
    let gate = Gate::new();
    let late = Reply::default().wait(&gate);
    a.health(late.raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
    let yaml = Yaml::tiers(&[("a", &a)]).text();
    let plane = Plane::unready(&yaml).await;
    let ready = plane.get("/internal/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("1 instances have not been probed"));
    assert_eq!(plane.get("/internal/health").await.status, 200, "alive");
    gate.cancel();
    let ready = async || plane.get("/internal/ready").await.status == 200;
    wait_for("it is ready", ready).await;
}

#[tokio::test]
async fn an_endpoint_that_comes_later_and_hangs_does_not_make_it_unready() {
    let a = Backend::start("a", &["m"]).await;
    let hangs = Backend::start("b", &["m"]).await;
    hangs.health(Reply::default().hang());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("olla.yaml");
    std::fs::write(&path, Yaml::tiers(&[("a", &a)]).text()).unwrap();
    let from = From::Files {
        paths: vec![path.clone()],
        namespace: None,
    };
    let plane = Plane::from(Plane::settings(), from).await;
    std::fs::write(&path, Yaml::tiers(&[("a", &a), ("b", &hangs)]).text()).unwrap();
    plane.running.shared.life.reload();
    wait_for("the new endpoint is probed", async || {
        !hangs.looks().is_empty()
    })
    .await;
    assert_eq!(plane.instance("b").await["health"], "Unknown");
    assert_eq!(plane.get("/internal/ready").await.status, 200);
}
