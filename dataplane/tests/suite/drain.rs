//! The end of a data plane: nothing new, and what runs may end.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dataplane::config::Settings;
use tokio::net::TcpStream;

use crate::support::{
    backend::Backend,
    client::Client,
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
    wait_for("it drains", async || shared.life.drain.is_cancelled()).await;
    drop(waiting);
    assert!(drained.await.unwrap());
    wait_for("the backend sees it", async || a.left() == 1).await;
}

/// Stays for a while after it has said that it is leaving.
fn lingering() -> Settings {
    Settings {
        drain_delay: Duration::from_millis(500),
        ..Plane::settings()
    }
}

#[tokio::test]
async fn from_the_signal_on_every_answer_says_that_its_connection_ends() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Plane::with(lingering(), &Yaml::tiers(&[("a", &a)]).text()).await;
    let shared = plane.running.shared.clone();
    let addr = plane.addr;
    let mut idle = plane.client().await;
    let answer = idle.request("GET", "/v1/models", &[], b"").await;
    assert!(!answer.has("connection"));
    let gate = Gate::new();
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    a.answer_next(Reply::default().wait(&gate).raw(ok));
    let mut running = plane.send_stream("/v1/chat/completions", "m").await;
    wait_for("it waits", async || a.answering() == 1).await;
    let drained = tokio::spawn(plane.running.drain());
    wait_for("it leaves", async || shared.life.leaving.is_cancelled()).await;
    gate.cancel();
    let mut new = Client::connect(addr).await;
    new.send("GET", "/v1/models", &[], b"").await;
    idle.send("GET", "/internal/health", &[], b"").await;
    for client in [&mut running, &mut new, &mut idle] {
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (200, Some("close"))
        );
        assert!(client.is_closed().await);
    }
    assert!(drained.await.unwrap());
}

/// Sends requests over kept-alive connections for as long as there is a data plane; returns how
/// many of them came to nothing.
async fn client_of(ready: Arc<Mutex<Vec<SocketAddr>>>, answered: Arc<AtomicUsize>) -> usize {
    let mut broken = 0;
    let mut kept: Option<Client> = None;
    for turn in 0.. {
        let addr = {
            let ready = ready.lock().unwrap();
            let Some(addr) = ready.get(turn % ready.len().max(1)) else {
                break;
            };
            *addr
        };
        let mut client = match kept.take() {
            Some(client) => client,
            None => Client::connect(addr).await,
        };
        client.send("GET", "/v1/x", &[], b"").await;
        match client.head().await {
            Some(head) if head.status == 200 && client.rest().await.1 => {
                answered.fetch_add(1, Ordering::Relaxed);
                kept = (head.header("connection") != Some("close")).then_some(client);
            }
            _ => broken += 1,
        }
    }
    broken
}

#[tokio::test]
async fn a_rolling_restart_under_load_breaks_no_request() {
    let a = Backend::start("a", &["m"]).await;
    let yaml = Yaml::tiers(&[("a", &a)]).text();
    let mut plane = Plane::with(lingering(), &yaml).await;
    let ready = Arc::new(Mutex::new(vec![plane.addr]));
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| tokio::spawn(client_of(ready.clone(), answered.clone())))
        .collect();
    for _ in 0..3 {
        let before = answered.load(Ordering::Relaxed);
        let more = async || answered.load(Ordering::Relaxed) > before + 100;
        wait_for("requests are answered", more).await;
        let next = Plane::with(lingering(), &yaml).await;
        ready.lock().unwrap().push(next.addr);
        let shared = plane.running.shared.clone();
        let drained = tokio::spawn(plane.running.drain());
        // A balancer looks away when it sees that it is not ready any more.
        wait_for("it is not ready", async || {
            shared.life.leaving.is_cancelled()
        })
        .await;
        ready.lock().unwrap().retain(|addr| *addr == next.addr);
        assert!(drained.await.unwrap());
        plane = next;
    }
    ready.lock().unwrap().clear();
    for client in clients {
        assert_eq!(client.await.unwrap(), 0);
    }
}
