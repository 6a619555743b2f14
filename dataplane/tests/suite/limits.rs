//! How long clients and backends are waited for that make nothing happen.

use std::{net::SocketAddr, time::Duration};

use dataplane::config::Settings;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    backend::{Backend, Ear},
    client::Client,
    plane::{Plane, Yaml, chat},
    reply::{Gate, Reply},
    wait_for,
};

const SHORT: Duration = Duration::from_millis(300);

/// Clients are waited for no longer than [`SHORT`]; bodies over 1 KiB are passed on.
fn impatient() -> Settings {
    Settings {
        replay_bytes: 1024,
        client_idle: SHORT,
        client_stall: SHORT,
        body_idle: SHORT,
        look_every: Duration::from_millis(50),
        ..Plane::settings()
    }
}

async fn one(route: &str) -> (Backend, Plane) {
    let a = Backend::start("a", &["m"]).await;
    let yaml = Yaml::tiers(&[("a", &a)]).route(route).text();
    (a, Plane::with(impatient(), &yaml).await)
}

#[tokio::test]
async fn a_client_that_asks_for_nothing_is_closed_and_one_that_waits_is_not() {
    let (a, plane) = one("engine: olla").await;
    let gate = Gate::new();
    a.answer_next(
        Reply::sse()
            .chunk("data: 1\n\n")
            .wait(&gate)
            .chunk("data: [DONE]\n\n")
            .end(),
    );
    let (mut waiting, _) = plane.stream("m").await;
    assert_eq!(waiting.chunk().await.unwrap(), "data: 1\n\n");

    let mut silent = plane.client().await;
    let mut half = plane.client().await;
    half.write("POST /v1/x HTTP/1.1\r\nhost: olla.test\r\n")
        .await;
    let mut half_preface = plane.client().await;
    half_preface.write("PRI * HTTP/2.0\r\n\r\nSM").await;
    let mut answered = plane.client().await;
    assert_eq!(
        answered.request("GET", "/v1/models", &[], b"").await.status,
        200
    );
    for client in [&mut silent, &mut half, &mut half_preface, &mut answered] {
        assert!(client.is_closed().await);
    }
    // All that time, and more, the stream was silent too.
    gate.cancel();
    assert_eq!(waiting.rest().await, (b"data: [DONE]\n\n".to_vec(), true));
}

#[tokio::test]
async fn a_preface_that_does_not_end_holds_up_no_drain() {
    let (_a, plane) = one("engine: olla").await;
    let mut client = plane.client().await;
    client.write("PRI ").await;
    let open = async || plane.metric("olla_connections", &[]).await >= 2.0;
    wait_for("it is there", open).await;
    assert!(plane.running.drain().await, "all ended by themselves");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_client_that_stops_inside_its_body_is_answered_408() {
    // Kept for a retry, and passed on while it comes.
    for sent in [100, 8192] {
        let (_a, plane) = one("engine: olla").await;
        let mut client = plane.client().await;
        let length = [("content-length", "100000")];
        client.send("POST", "/v1/x", &length, b"").await;
        client.write(vec![b'x'; sent]).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 408, "{sent}");
        assert_eq!(answer.header("x-olla-routing-reason"), Some("body_timeout"));
        assert_eq!(plane.instance("a").await["failures"], 0, "{sent}");
    }
}

#[tokio::test]
async fn a_client_that_sends_its_body_byte_by_byte_is_answered_408() {
    let (_a, plane) = one("engine: olla").await;
    let mut client = plane.client().await;
    let length = [("content-length", "1000")];
    client.send("POST", "/v1/x", &length, b"").await;
    ends_byte_by_byte(client).await;
}

/// Goes on with an upload so slowly, though never silent for as long as a client may be, that it is
/// answered 408.
async fn ends_byte_by_byte(client: Client) {
    let (mut reader, mut writer) = client.into_split();
    // Never silent for as long as a client may be.
    let mut often = tokio::time::interval(SHORT / 10);
    let writing = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            often.tick().await;
        }
    });
    let mut answer = [0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    writing.abort();
}

/// What is over the bound is passed on while it comes, and held to the same pace.
#[tokio::test]
async fn an_upload_that_is_passed_on_byte_by_byte_is_ended_and_keeps_no_memory() {
    let (a, plane) = one("engine: olla").await;
    a.reads(Ear::Head);
    a.answer(Reply::default().hang());
    let mut client = plane.client().await;
    let length = [("content-length", "100000")];
    client.send("POST", "/v1/x", &length, b"").await;
    client.write(vec![b'x'; 8192]).await;
    wait_for("it is passed on", async || a.answering() == 1).await;
    let kept = async || plane.metric("olla_kept_bodies_bytes", &[]).await;
    wait_for("nothing of it is kept", async || kept().await == 0.0).await;
    ends_byte_by_byte(client).await;
    wait_for("its backend is let go", async || a.left() == 1).await;
    assert_eq!(plane.instance("a").await["failures"], 0);
}

#[tokio::test]
async fn a_client_that_breaks_off_its_upload_after_the_answer_began_is_no_failure() {
    let (a, plane) = one("circuitBreaker: { consecutiveFailures: 1 }").await;
    a.reads(Ear::Head);
    a.answer(Reply::sse().chunk("data: 1\n\n").hang());
    for leaves in [true, false] {
        let mut client = plane.client().await;
        let length = [("content-length", "100000")];
        client.send("POST", "/v1/x", &length, b"").await;
        client.write(vec![b'x'; 8192]).await;
        assert_eq!(client.head().await.unwrap().status, 200);
        assert_eq!(client.chunk().await.unwrap(), "data: 1\n\n");
        if leaves {
            drop(client);
        } else {
            // It only stops, for longer than a client may.
            let (rest, whole) = client.rest().await;
            let rest = String::from_utf8_lossy(&rest);
            assert!(rest.contains("body_timeout") && !whole, "{rest}");
        }
        plane.wait_instance("a", "in_flight", 0).await;
    }
    let instance = plane.instance("a").await;
    assert_eq!(
        (&instance["failures"], &instance["breaker"]),
        (&0.into(), &"Closed".into())
    );
}

/// The client takes most of the limit for its upload, the backend most of it for its answer.
#[tokio::test]
async fn the_time_to_the_first_token_begins_with_the_end_of_the_upload() {
    let a = Backend::start("a", &["m"]).await;
    let settings = Settings {
        replay_bytes: 1024,
        ..Plane::settings()
    };
    let yaml = Yaml::tiers(&[("a", &a)]).route("timeouts: { firstToken: 800ms }");
    let plane = Plane::with(settings, &yaml.text()).await;
    a.answer_with(|_| Reply::default().pause(Duration::from_millis(500)).raw(OK));
    let mut client = plane.client().await;
    let length = [("content-length", "16384")];
    client.send("POST", "/v1/x", &length, b"").await;
    let stream = br#"{"stream":true,"filler":""#;
    client
        .write([&stream[..], &vec![b'x'; 8192 - stream.len()]].concat())
        .await;
    wait_for("the backend has it", async || a.open() == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.write(vec![b'x'; 8192]).await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(plane.instance("a").await["failures"], 0);
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn a_backend_that_takes_no_more_of_an_upload_is_timed_out() {
    let (a, plane) = one("timeouts: { firstToken: 300ms }").await;
    a.reads(Ear::HeadOnly);
    a.answer(Reply::default().hang());
    let (mut reader, mut writer) = plane.client().await.into_split();
    let head = "POST /v1/x HTTP/1.1\r\nhost: olla.test\r\ncontent-length: 100000000\r\n\r\n";
    writer.write_all(head.as_bytes()).await.unwrap();
    // More than all buffers on the way hold; the client never is the one who is waited for.
    let writing =
        tokio::spawn(async move { while writer.write_all(&[b'x'; 4096]).await.is_ok() {} });
    let mut answer = [0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 504");
    assert_eq!(plane.instance("a").await["failures"], 1);
    writing.abort();
}

#[tokio::test]
async fn an_http2_client_that_takes_nothing_frees_its_backend() {
    let (a, plane) = one("engine: olla").await;
    a.answer(Reply::sse().chunk("data: 1\n\n").hang());
    let stream = TcpStream::connect(plane.addr).await.unwrap();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://olla.test/v1/x").body(Empty::<bytes::Bytes>::new());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    wait_for("the backend sees it", async || a.left() == 1).await;
    plane.wait_instance("a", "in_flight", 0).await;
    assert_eq!(plane.instance("a").await["failures"], 0);
    // Until here the client was there and asked for nothing.
    drop(answer);
}

#[tokio::test]
async fn a_request_over_its_routes_time_ends_also_while_data_flows() {
    let (a, plane) = one("timeouts: { request: 300ms }").await;
    let large = "x".repeat(64 * 1024);
    let flood = (0..20_000).fold(Reply::sse(), |reply, number| {
        // Backends that are always ahead, for far longer than the limit.
        if number % 100 == 0 {
            reply.pause(Duration::from_millis(1))
        } else {
            reply.chunk("data: 1\n\n")
        }
    });
    a.answer(flood.chunk(&large).hang());
    let (mut client, _) = plane.stream("m").await;
    let (body, whole) = client.rest().await;
    let end = String::from_utf8_lossy(&body[body.len().saturating_sub(400)..]).into_owned();
    assert!(end.contains("request_timeout") && !whole, "{end}");
    assert_eq!(plane.instance("a").await["failures"], 0);
}

/// An address that takes no connection and refuses none: the queue of its listener is full.
async fn black_hole() -> (SocketAddr, Vec<TcpStream>, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(SHORT, TcpStream::connect(addr)).await {
        queued.push(stream);
    }
    (addr, queued, socket)
}

#[tokio::test]
async fn a_backend_that_takes_no_connection_is_given_up_after_the_routes_time() {
    let (addr, _queued, _socket) = black_hole().await;
    let b = Backend::start("b", &["m"]).await;
    let hole = [
        "priority: 0",
        "health: { mode: Disabled }",
        "models: { static: [m], discovery: { enabled: false } }",
    ];
    let plane = Yaml::default()
        .endpoint("a", &format!("http://{addr}"), &hole)
        .endpoint("b", &b.url(), &["priority: 1"])
        .route("timeouts: { connect: 200ms }")
        .start()
        .await;
    let answer = plane.chat("m").await;
    assert_eq!((answer.status, answer.endpoint()), (200, "b"));
    let label = ["reason=\"connect_timeout\""];
    assert_eq!(plane.metric("olla_failovers_total", &label).await, 1.0);
}

#[tokio::test]
async fn ipv6_works_to_both_sides() {
    let mut a = Backend::start("a", &["m"]).await;
    a.addr = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0));
    a.restart().await;
    let settings = Settings {
        listen: SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0)),
        ..Plane::settings()
    };
    let plane = Plane::with(settings, &Yaml::tiers(&[("a", &a)]).text()).await;
    let mut client = Client::connect(plane.addr).await;
    let body = chat("m").to_string();
    let answer = client
        .request("POST", "/v1/chat/completions", &[], body.as_bytes())
        .await;
    assert_eq!(answer.status, 200);
    let got = a.last();
    assert_eq!(
        got.header("host"),
        Some(&*format!("[::1]:{}", a.addr.port()))
    );
    assert_eq!(got.header("x-forwarded-for"), Some("::1"));
}
