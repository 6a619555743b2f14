//! The end of a data plane: nothing new, and what runs may end.

use std::time::Duration;

use dataplane::config::Settings;
use tokio::net::TcpStream;

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml},
    reply::{Gate, Reply},
    wait_for,
};

#[tokio::test]
async fn a_running_stream_ends_whole_and_nothing_new_is_taken() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    let gate = Gate::new();
    let reply = Reply::sse().chunk("data: 1\n\n").wait(&gate);
    a.answer(reply.chunk("data: [DONE]\n\n").end());
    let (mut client, _) = plane.stream("m").await;
    assert_eq!(client.chunk().await.unwrap(), "data: 1\n\n");
    let addr = plane.addr;
    let drained = tokio::spawn(plane.running.drain());
    let refused = async || TcpStream::connect(addr).await.is_err();
    wait_for("new connections are refused", refused).await;
    assert!(!drained.is_finished());
    gate.cancel();
    assert_eq!(client.rest().await, (b"data: [DONE]\n\n".to_vec(), true));
    assert!(drained.await.unwrap(), "all ended by themselves");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn idle_connections_are_closed_when_draining() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    let mut used = plane.client().await;
    assert_eq!(used.request("GET", "/v1/x", &[], b"").await.status, 200);
    let mut silent = plane.client().await;
    let open = async || plane.metric("olla_connections", &[]).await >= 3.0;
    wait_for("both are taken", open).await;
    let drained = tokio::spawn(plane.running.drain());
    assert!(used.is_closed().await);
    assert!(silent.is_closed().await);
    assert!(drained.await.unwrap());
}

#[tokio::test]
async fn connections_to_backends_are_closed_in_the_end() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    assert_eq!(plane.chat("m").await.status, 200);
    assert!(a.open() > 0);
    assert!(plane.running.drain().await);
    wait_for("the backend has none left", async || a.open() == 0).await;
}

#[tokio::test]
async fn a_stream_without_end_is_not_waited_for_longer_than_the_drain_timeout() {
    let a = Backend::start("a", &["m"]).await;
    let settings = Settings {
        drain_timeout: Duration::from_millis(200),
        ..Plane::settings()
    };
    let plane = Plane::with(settings, &Yaml::tiers(&[("a", &a)]).text()).await;
    a.answer(Reply::sse().chunk("data: 1\n\n").hang());
    let (mut client, _) = plane.stream("m").await;
    client.chunk().await.unwrap();
    assert!(!plane.running.drain().await);
}

#[tokio::test]
async fn a_client_that_leaves_is_not_waited_for() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    let shared = plane.running.shared.clone();
    a.answer(Reply::default().hang());
    let waiting = plane.send_stream("/v1/chat/completions", "m").await;
    wait_for("it waits", async || a.answering() == 1).await;
    let drained = tokio::spawn(plane.running.drain());
    wait_for("it drains", async || shared.drain.is_cancelled()).await;
    drop(waiting);
    assert!(drained.await.unwrap());
    wait_for("the backend sees it", async || a.left() == 1).await;
}
