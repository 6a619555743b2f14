//! Bodies of all sizes and kinds, and connections that are used again.

use std::time::Duration;

use dataplane::config::Settings;
use futures::future::join_all;

use crate::support::{
    backend::Backend,
    client::Client,
    plane::{Plane, Yaml, chat},
    reply::Reply,
    wait_for,
};

async fn one() -> (Backend, Plane) {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    (a, plane)
}

/// Bytes in which a lost or doubled piece shows.
fn pattern(length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

#[tokio::test]
async fn a_megabyte_goes_up_intact() {
    let (a, plane) = one().await;
    let body = pattern(1 << 20);
    let kind = [("content-type", "application/octet-stream")];
    let answer = plane.request("POST", "/v1/files", &kind, &body).await;
    assert_eq!(answer.status, 200);
    assert!(a.last().body == body);
}

#[tokio::test]
async fn twenty_four_megabytes_come_down_intact() {
    let (a, plane) = one().await;
    let body = pattern(24 << 20);
    let kind = [("content-type", "audio/mpeg")];
    a.answer_next(Reply::whole(200, &kind, &body));
    let answer = plane.get("/v1/files/1").await;
    assert_eq!(answer.header("content-length"), Some("25165824"));
    assert!(answer.whole && answer.body == body);

    let mut chunked = Reply::stream("audio/mpeg");
    for part in body.chunks(100_000) {
        chunked = chunked.chunk(part);
    }
    a.answer_next(chunked.end());
    let answer = plane.get("/v1/files/1").await;
    assert!(answer.whole && answer.body == body);
}

#[tokio::test]
async fn an_answer_without_a_body_has_none() {
    let (a, plane) = one().await;
    a.answer(Reply::head(204, &[("x-mine", "1")]));
    let mut client = plane.client().await;
    for _ in 0..3 {
        let answer = client.request("POST", "/v1/x", &[], b"{}").await;
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        assert_eq!(answer.header("x-mine"), Some("1"));
    }
    a.answer(Reply::whole(200, &[], ""));
    for _ in 0..3 {
        let answer = client.request("POST", "/v1/x", &[], b"{}").await;
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert_eq!(answer.header("content-length"), Some("0"));
    }
    assert_eq!(plane.instance("a").await["failures"], 0);
}

#[tokio::test]
async fn an_empty_chunked_stream_ends_whole() {
    let (a, plane) = one().await;
    a.answer(Reply::sse().end());
    let (mut client, head) = plane.stream("m").await;
    assert_eq!(head.status, 200);
    assert_eq!(client.rest().await, (vec![], true));
}

#[tokio::test]
async fn a_head_request_gets_the_head_alone() {
    let (a, plane) = one().await;
    let headers = [("content-length", "1234"), ("etag", "\"x\"")];
    a.answer(Reply::head(200, &headers));
    let mut client = plane.client().await;
    for _ in 0..3 {
        client.send("HEAD", "/v1/files/1", &[], b"").await;
        let head = client.head().await.unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-length"), Some("1234"));
        assert_eq!(head.header("etag"), Some("\"x\""));
    }
    assert_eq!(a.last().method, "HEAD");
    assert_eq!(plane.instance("a").await["failures"], 0);
}

#[tokio::test]
async fn any_method_passes() {
    let (a, plane) = one().await;
    for method in ["OPTIONS", "DELETE", "PUT", "PATCH", "GET", "MKCOL"] {
        let answer = plane.request(method, "/v1/files/1", &[], b"").await;
        assert_eq!(answer.status, 200, "{method}");
        let got = a.last();
        assert_eq!((got.method.as_str(), got.body.len()), (method, 0));
        assert!(!got.has("transfer-encoding"), "{method}");
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let (a, plane) = one().await;
    let mut client = plane.client().await;
    let body = chat("m").to_string();
    let length = body.len().to_string();
    let headers = [("expect", "100-continue"), ("content-length", &length)];
    client
        .send("POST", "/v1/chat/completions", &headers, b"")
        .await;
    let first = client.line().await;
    assert_eq!(first, "HTTP/1.1 100 Continue");
    client.write(&body).await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(a.last().body, body.as_bytes());
    assert!(!a.last().has("expect"));
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() {
    let (a, plane) = one().await;
    a.answer_with(|request| Reply::whole(200, &[], &request.target));
    let mut client = plane.client().await;
    for number in 0..20 {
        client.send("GET", &format!("/v1/{number}"), &[], b"").await;
    }
    for number in 0..20 {
        assert_eq!(client.answer().await.text(), format!("/v1/{number}"));
    }
}

#[tokio::test]
async fn many_requests_at_once_each_get_their_own_answer() {
    let a = Backend::start("a", &["m"]).await;
    a.answer_with(|request| Reply::whole(200, &[], &request.body));
    let settings = Settings {
        workers: 2,
        ..Plane::settings()
    };
    let plane = Plane::with(settings, &Yaml::tiers(&[("a", &a)]).text()).await;
    let clients = (0..20).map(async |client| {
        let mut connection = plane.client().await;
        for number in 0..20 {
            let body = format!("{client}/{number} {}", "x".repeat(client * number * 50));
            let answer = connection
                .request("POST", "/v1/x", &[], body.as_bytes())
                .await;
            assert!(
                answer.text() == body,
                "{client}/{number}: {}",
                answer.text()
            );
        }
    });
    join_all(clients).await;
    assert_eq!(a.count(), 400);
}

#[tokio::test]
async fn a_connection_to_a_backend_is_used_again() {
    let (a, plane) = one().await;
    let before = a.accepted();
    let mut client = plane.client().await;
    for _ in 0..20 {
        client.request("GET", "/v1/x", &[], b"").await;
        let (mut stream, _) = plane.stream("m").await;
        stream.rest().await;
    }
    // Probes come on connections of their own.
    let probes = a.looks().len();
    assert!(a.accepted() - before <= probes + 2, "{}", a.accepted());
}

#[tokio::test]
async fn a_backend_that_closes_idle_connections_costs_no_request() {
    for close in [Reply::close, Reply::reset] {
        let (a, plane) = one().await;
        a.answer(close(Reply::chat("a")));
        for _ in 0..50 {
            assert_eq!(plane.chat("m").await.status, 200);
        }
        let instance = plane.instance("a").await;
        assert_eq!(instance["failures"], 0);
        assert_eq!(instance["requests"], 50);
    }
}

#[tokio::test]
async fn a_backend_that_asks_for_a_close_gets_it() {
    let (a, plane) = one().await;
    a.answer(Reply::whole(200, &[("connection", "close")], "ok").close());
    let mut client = plane.client().await;
    for _ in 0..5 {
        let answer = client.request("GET", "/v1/x", &[], b"").await;
        assert_eq!((answer.text().as_str(), answer.whole), ("ok", true));
        assert!(!answer.has("connection"), "the client's stays open");
    }
}

#[tokio::test]
async fn an_http_1_0_backend_is_understood() {
    let (a, plane) = one().await;
    let old = "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"old\":1}";
    a.answer(Reply::default().raw(old).close());
    for _ in 0..3 {
        let answer = plane.chat("m").await;
        assert_eq!(
            (answer.text().as_str(), answer.whole),
            ("{\"old\":1}", true)
        );
    }
}

#[tokio::test]
async fn an_http_1_0_client_is_answered() {
    let (a, plane) = one().await;
    a.answer(
        Reply::sse()
            .chunks(&["data: 1\n\n", "data: [DONE]\n\n"])
            .end(),
    );
    let mut client = plane.client().await;
    client.write("GET /v1/x HTTP/1.0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.text(), "data: 1\n\ndata: [DONE]\n\n");
    assert!(!answer.has("transfer-encoding"));
}

#[tokio::test]
async fn a_client_that_leaves_inside_its_body_costs_the_backend_nothing() {
    let (a, plane) = one().await;
    let mut client = plane.client().await;
    let length = [("content-length", "1000")];
    client.send("POST", "/v1/x", &length, b"").await;
    client.write("{\"model\":\"m\"").await;
    drop(client);
    let open = async || plane.metric("olla_connections", &[]).await;
    wait_for("its connection is gone", async || open().await <= 1.0).await;
    assert_eq!(a.count(), 0);
    assert_eq!(plane.metric("olla_kept_bodies_bytes", &[]).await, 0.0);
}

/// A plane whose bodies over 1 KiB are passed on while they come.
async fn passing_on(route: &str) -> (Backend, Plane) {
    let a = Backend::start("a", &["m"]).await;
    let mut settings = Plane::settings();
    settings.replay_bytes = 1024;
    let yaml = Yaml::tiers(&[("a", &a)]).route(route).text();
    (a, Plane::with(settings, &yaml).await)
}

/// Begins an upload of 100 KB and sends the first 8.
async fn begin_upload(plane: &Plane) -> Client {
    let mut client = plane.client().await;
    let length = [("content-length", "100000")];
    client.send("POST", "/v1/x", &length, b"").await;
    client.write(vec![b'x'; 8192]).await;
    client
}

#[tokio::test]
async fn clients_that_leave_inside_a_body_that_is_passed_on_open_no_breaker() {
    let (_a, plane) = passing_on("circuitBreaker: { consecutiveFailures: 2 }").await;
    let in_flight = async |count: u32| plane.instance("a").await["in_flight"] == count;
    for _ in 0..4 {
        let client = begin_upload(&plane).await;
        wait_for("it is passed on", async || in_flight(1).await).await;
        drop(client);
        wait_for("it is let go", async || in_flight(0).await).await;
    }
    let instance = plane.instance("a").await;
    assert_eq!(instance["failures"], 0);
    assert_eq!(instance["breaker"], "Closed");
}

#[tokio::test]
async fn a_slow_upload_is_not_the_backends_silence() {
    let (a, plane) = passing_on("timeouts: { firstToken: 300ms }").await;
    a.answer(Reply::chat("a"));
    let mut client = begin_upload(&plane).await;
    let mut left = 100_000 - 8192;
    let begun = tokio::time::Instant::now();
    while left > 0 {
        let part = left.min(8192);
        // Three times the limit in all.
        let due = begun + Duration::from_millis(900) * (100_000 - left) / 100_000;
        tokio::time::sleep_until(due).await;
        client.write(vec![b'x'; part as usize]).await;
        left -= part;
    }
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(plane.instance("a").await["failures"], 0);
}

#[tokio::test]
async fn a_body_in_tiny_chunks_arrives_as_it_was_sent() {
    let (a, plane) = one().await;
    let body = chat("m").to_string();
    let mut client = plane.client().await;
    let chunked = [("transfer-encoding", "chunked")];
    client
        .send("POST", "/v1/chat/completions", &chunked, b"")
        .await;
    for byte in body.as_bytes() {
        client.write(format!("1\r\n{}\r\n", *byte as char)).await;
    }
    client.write("0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(a.last().body, body.as_bytes());
}

/// A client that reads only once it has sent all: were the connection just closed, the kernel
/// would take the answer away from it.
#[tokio::test]
async fn a_refused_upload_is_answered_and_its_connection_serves_on() {
    let (a, plane) = one().await;
    let filler = "x".repeat(8 << 20);
    for (target, body, status) in [
        (
            "/v1/chat/completions",
            format!("{{\"model\":\"m\",\"model\":\"m\",\"x\":\"{filler}\"}}"),
            400,
        ),
        ("/api/create", filler.clone(), 501),
        ("/nowhere", filler.clone(), 404),
    ] {
        let mut client = plane.client().await;
        let answer = client.request("POST", target, &[], body.as_bytes()).await;
        assert_eq!((answer.status, answer.whole), (status, true), "{target}");
        let chat = chat("m").to_string();
        let target = "/v1/chat/completions";
        let next = client.request("POST", target, &[], chat.as_bytes()).await;
        assert_eq!(next.status, 200, "{target}");
    }
    assert_eq!(a.count(), 3, "none of the uploads");
}

#[tokio::test]
async fn a_refused_upload_that_does_not_end_is_cut() {
    let (_a, plane) = one().await;
    let mut client = plane.client().await;
    let length = [("content-length", "1000000000")];
    client.send("POST", "/api/create", &length, b"").await;
    client.write([b'x'; 4096]).await;
    assert_eq!(client.answer().await.status, 501);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_document_that_is_not_utf8_is_refused() {
    let (a, plane) = one().await;
    let text = chat("m").to_string();
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let target = "/v1/chat/completions";
    let answer = plane.request("POST", target, &[], &wide).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["code"], "invalid_encoding");
    assert_eq!(a.count(), 0);
}

#[tokio::test]
async fn the_connection_of_a_refusal_that_is_answered_elsewhere_is_kept() {
    let a = Backend::start("a", &["m"]).await;
    let b = Backend::start("b", &["m"]).await;
    // Neither probed nor listed: those have connections of their own.
    let quiet = [
        "priority: 0",
        "health: { mode: Disabled }",
        "models: { static: [m], discovery: { enabled: false } }",
    ];
    let plane = Yaml::default()
        .endpoint("a", &a.url(), &quiet)
        .endpoint("b", &b.url(), &["priority: 1"])
        .start()
        .await;
    a.answer_next(Reply::status(503));
    assert_eq!(plane.chat("m").await.endpoint(), "b");
    assert_eq!(plane.chat("m").await.endpoint(), "a");
    assert_eq!((a.count(), a.accepted()), (2, 1));
}
