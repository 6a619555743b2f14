//! Bytes that no client should send.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::io::AsyncReadExt as _;

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml},
    wait_for,
};

async fn one() -> (Backend, Plane) {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    (a, plane)
}

/// Sends `bytes` on a connection of their own, closes the sending side, and reads to the end.
async fn answer_to(plane: &Plane, bytes: &[u8]) -> Vec<u8> {
    let mut client = plane.client().await;
    client.write(bytes).await;
    let mut stream = client.half_closed();
    let mut out = Vec::new();
    // A reset is a fair answer to garbage.
    let _ = stream.read_to_end(&mut out).await;
    out
}

/// Random bytes, also behind beginnings that lead deep into the parsers.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let beginnings = prop::sample::select(vec![
        "",
        "GET ",
        "GET / HTTP/1.1\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 40\r\n\r\n",
        "POST /v1/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
        "POST /v1/x HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ]);
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    (beginnings, noise).prop_map(|(start, noise)| [start.as_bytes(), &noise].concat())
}

#[test]
fn no_bytes_from_a_client_make_the_data_plane_fall_over() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (_a, mut plane) = runtime.block_on(one());
    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&bytes(), |bytes| {
            runtime.block_on(answer_to(&plane, &bytes));
            let status = runtime.block_on(plane.chat("m")).status;
            prop_assert_eq!(status, 200, "after {:?}", String::from_utf8_lossy(&bytes));
            Ok(())
        })
        .unwrap();
    runtime.block_on(async {
        // One is this look itself.
        let open = async || plane.metric("olla_connections", &[]).await <= 1.0;
        wait_for("no connection is left behind", open).await;
        plane.wait_instance("a", "in_flight", 0).await;
        let running = plane.running.failed();
        assert!(
            futures::poll!(Box::pin(running)).is_pending(),
            "no task died"
        );
    });
}

#[tokio::test]
async fn a_head_that_two_readers_could_read_differently_is_refused() {
    let (a, plane) = one().await;
    for head in [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: +5",
        "content-length: 5, 6",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        " folded: x",
        "na me: x",
    ] {
        let text = format!("POST /v1/x HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\nhello");
        let answer = answer_to(&plane, text.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 4"), "{head}: {answer}");
    }
    assert_eq!(a.count(), 0);
}

#[tokio::test]
async fn a_body_with_both_lengths_is_one_request_to_the_backend() {
    let (a, plane) = one().await;
    let smuggled = "POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\
        transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    answer_to(&plane, smuggled.as_bytes()).await;
    assert!(a.count() <= 1);
    if a.count() == 1 {
        assert_eq!(a.last().body, b"hello");
        assert_eq!(a.last().header("content-length"), Some("5"));
        assert!(!a.last().has("transfer-encoding"));
    }
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let (_a, plane) = one().await;
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20));
    let answer = answer_to(&plane, long.as_bytes()).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    let many = "x-a: b\r\n".repeat(5000);
    let many = format!("GET /v1/x HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    let answer = answer_to(&plane, many.as_bytes()).await;
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 431"));
    assert_eq!(plane.chat("m").await.status, 200);
}

#[tokio::test]
async fn a_backend_that_says_garbage_costs_an_error_and_nothing_else() {
    let (a, plane) = one().await;
    let mut runner = fastrand::Rng::with_seed(11);
    for number in 0..60 {
        let noise: Vec<u8> = std::iter::repeat_with(|| runner.u8(..)).take(100).collect();
        let start = ["", "HTTP/1.1 ", "HTTP/1.1 200 OK\r\n", CHUNKED][number % 4];
        let reply = crate::support::reply::Reply::default().raw(start);
        a.answer_next(reply.raw(noise).close());
        let answer = plane.chat("m").await;
        assert!(
            answer.status == 502 || !answer.whole,
            "{number}: {answer:?}"
        );
    }
    plane.wait_instance("a", "in_flight", 0).await;
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
