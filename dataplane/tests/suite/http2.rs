//! Clients that speak HTTP/2 without TLS.

use bytes::Bytes;
use dataplane::config::Settings;
use futures::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::{
    backend::{Backend, Ear},
    plane::{Plane, Yaml, chat, streamed},
    reply::{Gate, Reply},
    wait_for,
};

async fn one() -> (Backend, Plane, SendRequest<Full<Bytes>>) {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    let stream = TcpStream::connect(plane.addr).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    (a, plane, sender)
}

async fn post(sender: &SendRequest<Full<Bytes>>, body: String) -> Response<Incoming> {
    let mut sender = sender.clone();
    let request = Request::post("http://olla.test/v1/chat/completions")
        .header("authorization", "Bearer clients-own")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    sender.send_request(request).await.unwrap()
}

/// The next data; frames without any are passed over.
async fn next(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    loop {
        let frame = match body.frame().await? {
            Ok(frame) => frame,
            Err(error) => return Some(Err(error)),
        };
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Some(Ok(data));
        }
    }
}

#[tokio::test]
async fn a_chat_over_http2_is_answered() {
    let (a, _plane, sender) = one().await;
    let rsp = post(&sender, chat("m").to_string()).await;
    assert_eq!(rsp.status(), StatusCode::OK);
    assert_eq!(rsp.headers()["x-olla-endpoint"], "a");
    let body = rsp.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("choices"));
    let got = a.last();
    assert_eq!(got.body, chat("m").to_string().as_bytes());
    assert_eq!(got.header("host"), Some(a.addr.to_string().as_str()));
    assert!(!got.has("authorization"));
}

#[tokio::test]
async fn head_over_http2_gets_the_length_and_no_body() {
    let (_a, _plane, mut sender) = one().await;
    for path in ["/v1/models", "/internal/health", "/nowhere"] {
        let request = Request::head(format!("http://olla.test{path}"));
        let request = request.body(Full::default()).unwrap();
        let rsp = sender.send_request(request).await.unwrap();
        let length = rsp.headers()["content-length"].to_str().unwrap();
        assert!(length.parse::<u32>().unwrap() > 0, "{path}");
        let body = rsp.into_body().collect().await.unwrap().to_bytes();
        assert!(body.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn the_backend_learns_the_host_that_an_http2_client_asked_for() {
    let (a, _plane, sender) = one().await;
    post(&sender, chat("m").to_string()).await;
    assert_eq!(a.last().header("x-forwarded-host"), Some("olla.test"));
}

#[tokio::test]
async fn streams_pass_event_by_event_over_http2() {
    let (a, _plane, sender) = one().await;
    let gate = Gate::new();
    let reply = Reply::sse().chunk("data: 1\n\n").wait(&gate);
    a.answer(reply.chunk("data: [DONE]\n\n").end());
    let mut body = post(&sender, streamed("m").to_string()).await.into_body();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "data: 1\n\n");
    gate.cancel();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "data: [DONE]\n\n");
    assert!(next(&mut body).await.is_none());
}

#[tokio::test]
async fn a_cut_stream_ends_with_an_error_event_and_a_reset_over_http2() {
    let (a, _plane, sender) = one().await;
    a.answer(Reply::sse().chunk("data: 1\n\n").close());
    let mut body = post(&sender, streamed("m").to_string()).await.into_body();
    let mut text = Vec::new();
    let error = loop {
        match next(&mut body).await {
            Some(Ok(data)) => text.extend(data),
            Some(Err(error)) => break error,
            None => panic!("it looks finished: {}", String::from_utf8_lossy(&text)),
        }
    };
    assert!(
        String::from_utf8_lossy(&text).contains("\"truncated\""),
        "{error}"
    );
}

#[tokio::test]
async fn a_hundred_streams_live_on_one_http2_connection() {
    let (a, plane, sender) = one().await;
    let gate = Gate::new();
    let reply = Reply::sse().chunk("data: 1\n\n").wait(&gate);
    a.answer(reply.chunk("data: [DONE]\n\n").end());
    let bodies = join_all((0..100).map(|_| post(&sender, streamed("m").to_string()))).await;
    wait_for("all are at the backend", async || a.answering() == 100).await;
    gate.cancel();
    for rsp in bodies {
        let body = rsp.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "data: 1\n\ndata: [DONE]\n\n");
    }
    plane.wait_instance("a", "in_flight", 0).await;
}

#[tokio::test]
async fn one_http2_client_that_leaves_one_stream_frees_that_backend_only() {
    let (a, plane, sender) = one().await;
    let gate = Gate::new();
    let reply = Reply::sse().chunk("data: 1\n\n").wait(&gate);
    a.answer(reply.chunk("data: [DONE]\n\n").end());
    let mut stays = post(&sender, streamed("m").to_string()).await.into_body();
    let leaves = post(&sender, streamed("m").to_string()).await;
    drop(leaves);
    wait_for("the backend sees it", async || a.left() == 1).await;
    gate.cancel();
    let mut text = Vec::new();
    while let Some(data) = next(&mut stays).await {
        text.extend(data.unwrap());
    }
    assert_eq!(text, b"data: 1\n\ndata: [DONE]\n\n");
    assert_eq!(plane.instance("a").await["failures"], 0);
}

#[tokio::test]
async fn an_upload_that_its_backend_does_not_take_leaves_room_to_others_of_its_connection() {
    let a = Backend::start("a", &["m"]).await;
    let b = Backend::start("b", &["n"]).await;
    a.reads(Ear::HeadOnly);
    a.answer(Reply::default().hang());
    let settings = Settings {
        // Longer bodies are passed on while they come.
        replay_bytes: 1024,
        ..Plane::settings()
    };
    let plane = Plane::with(settings, &Yaml::tiers(&[("a", &a), ("b", &b)]).text()).await;
    let stream = TcpStream::connect(plane.addr).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let long = |model: &str, length: usize| {
        format!("{{\"model\":\"{model}\",\"x\":\"{}\"}}", "x".repeat(length))
    };
    let stuck = sender.clone();
    let upload = long("m", 40 << 20);
    let stuck = tokio::spawn(async move { post(&stuck, upload).await });
    wait_for("it is passed on", async || {
        plane.instance("a").await["in_flight"] == 1
    })
    .await;
    for _ in 0..3 {
        let rsp = post(&sender, long("n", 50_000)).await;
        assert_eq!(rsp.status(), StatusCode::OK);
    }
    stuck.abort();
}
