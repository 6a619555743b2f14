//! Streams: whole ones pass untouched, broken ones say so, and whoever leaves is let go.

use serde_json::Value;

use crate::support::{
    backend::Backend,
    client::Client,
    plane::{Plane, Yaml, streamed},
    reply::{Gate, Reply},
    wait_for,
};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const OLLAMA: &str = "/api/chat";

/// One endpoint that speaks all dialects.
async fn one() -> (Backend, Plane) {
    one_with("engine: olla").await
}

async fn one_with(route: &str) -> (Backend, Plane) {
    let a = Backend::ollama("a", &["m"]).await;
    let yaml = Yaml::default().endpoint("a", &a.url(), &["type: ollama"]);
    let plane = yaml.route(route).start().await;
    (a, plane)
}

/// The rest of a stream that broke: what came before its last event, and that event.
async fn broken(client: &mut Client, before: &str) -> String {
    let (body, whole) = client.rest().await;
    let text = String::from_utf8(body).unwrap();
    assert!(!whole, "it must not look finished: {text}");
    let event = text.strip_prefix(before);
    event.unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn openai_error(event: &str) -> Value {
    let data = event.strip_prefix("data: ").unwrap();
    let data = data.strip_suffix("\n\n").expect("one whole event");
    serde_json::from_str(data).unwrap()
}

#[tokio::test]
async fn a_whole_stream_is_byte_identical() {
    let (a, plane) = one().await;
    let events = [
        ": a comment\n\n",
        "data: {\"a\":1}\n\ndata: {\"b\":",
        "2}\r\n\r\n",
        "event: x\nid: 7\nretry: 10\ndata: two\ndata: lines\n",
        "\n",
        "data: [DONE]\n\n",
        "unfinished tail",
    ];
    a.answer(Reply::sse().chunks(&events).end());
    let (mut client, head) = plane.stream("m").await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    let (body, whole) = client.rest().await;
    assert_eq!(String::from_utf8(body).unwrap(), events.concat());
    assert!(whole);
    let labels = ["llm_endpoint=\"a\"", "result=\"answered\""];
    assert_eq!(plane.metric("olla_attempts_total", &labels).await, 1.0);
}

#[tokio::test]
async fn each_event_passes_when_it_comes() {
    let (a, plane) = one().await;
    let gates = [Gate::new(), Gate::new()];
    a.answer(
        Reply::ndjson()
            .chunk("{\"n\":1}\n")
            .wait(&gates[0])
            .chunk("{\"n\":2}\n")
            .wait(&gates[1])
            .chunk("{\"done\":true}\n")
            .end(),
    );
    let (mut client, _) = plane.stream_at(OLLAMA, "m").await;
    assert_eq!(client.chunk().await.unwrap(), "{\"n\":1}\n");
    gates[0].cancel();
    assert_eq!(client.chunk().await.unwrap(), "{\"n\":2}\n");
    gates[1].cancel();
    assert_eq!(client.rest().await, (b"{\"done\":true}\n".to_vec(), true));
}

#[tokio::test]
async fn a_cut_openai_stream_ends_with_an_error_event_and_an_unclean_close() {
    for cut in [Reply::close, Reply::reset] {
        let (a, plane) = one().await;
        let gate = Gate::new();
        a.answer(cut(Reply::sse().chunk("data: 1\n\n").wait(&gate)));
        let (mut client, _) = plane.stream("m").await;
        assert_eq!(client.chunk().await.unwrap(), "data: 1\n\n");
        gate.cancel();
        let error = openai_error(&broken(&mut client, "").await);
        assert_eq!(error["error"]["code"], "truncated");
        assert_eq!(error["error"]["type"], "server_error");
        let labels = ["reason=\"truncated\""];
        assert_eq!(
            plane.metric("olla_broken_streams_total", &labels).await,
            1.0
        );
        assert_eq!(plane.instance("a").await["failures"], 1);
    }
}

#[tokio::test]
async fn a_cut_anthropic_stream_ends_with_an_error_event_and_an_unclean_close() {
    let (a, plane) = one().await;
    let before = "event: message_start\ndata: {}\n\n";
    a.answer(Reply::sse().chunk(before).close());
    let (mut client, _) = plane.stream_at(MESSAGES, "m").await;
    let event = broken(&mut client, before).await;
    let data = event.strip_prefix("event: error\ndata: ").unwrap();
    let error: Value = serde_json::from_str(data.trim_end()).unwrap();
    assert_eq!(
        (&error["type"], &error["error"]["type"]),
        (&"error".into(), &"api_error".into())
    );
    assert!(event.ends_with("\n\n"));
}

#[tokio::test]
async fn a_cut_ollama_stream_ends_with_an_error_line_and_an_unclean_close() {
    let (a, plane) = one().await;
    let before = "{\"message\":{},\"done\":false}\n";
    a.answer(Reply::ndjson().chunk(before).close());
    let (mut client, _) = plane.stream_at(OLLAMA, "m").await;
    let event = broken(&mut client, before).await;
    let error: Value = serde_json::from_str(&event).unwrap();
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .contains("closed the connection")
    );
    assert!(event.ends_with('\n'));
}

#[tokio::test]
async fn half_an_event_is_not_passed_on_before_the_error() {
    let (a, plane) = one().await;
    let half = Reply::sse().chunks(&["data: 1\n\n", "data: {\"half"]);
    a.answer(half.close());
    let (mut client, _) = plane.stream("m").await;
    openai_error(&broken(&mut client, "data: 1\n\n").await);
}

#[tokio::test]
async fn a_cut_body_that_is_no_stream_is_not_mended() {
    let (a, plane) = one().await;
    let headers = [
        ("content-type", "application/json"),
        ("content-length", "100"),
    ];
    a.answer(Reply::head(200, &headers).raw("{\"choices\":").close());
    let answer = plane.chat("m").await;
    assert_eq!((answer.status, answer.whole), (200, false));
    assert_eq!(answer.text(), "{\"choices\":");
    assert_eq!(plane.instance("a").await["failures"], 1);
}

#[tokio::test]
async fn a_stream_ended_by_closing_is_whole_only_with_its_dialects_last_word() {
    let sse = "data: 1\n\n";
    let line = "{\"done\":false}\n";
    for (path, kind, before, last) in [
        (CHAT, "text/event-stream", sse, "data: [DONE]\n\n"),
        (
            MESSAGES,
            "text/event-stream",
            sse,
            "event: message_stop\ndata: {}\n\n",
        ),
        (OLLAMA, "application/x-ndjson", line, "{\"done\":true}\n"),
    ] {
        let (a, plane) = one().await;
        let head = Reply::head(200, &[("content-type", kind)]).raw(before);
        a.answer_next(head.clone().raw(last).close());
        a.answer_next(head.close());
        let (mut client, _) = plane.stream_at(path, "m").await;
        let (body, whole) = client.rest().await;
        assert_eq!(String::from_utf8(body).unwrap(), format!("{before}{last}"));
        assert!(whole, "{path}");
        assert_eq!(plane.instance("a").await["failures"], 0);

        let (mut client, _) = plane.stream_at(path, "m").await;
        let event = broken(&mut client, before).await;
        assert!(event.contains("error"), "{event}");
        assert_eq!(plane.instance("a").await["failures"], 1);
    }
}

#[tokio::test]
async fn a_document_ended_by_closing_passes() {
    let (a, plane) = one().await;
    let kind = [("content-type", "application/json")];
    a.answer(Reply::head(200, &kind).raw("{\"a\":1}").close());
    let answer = plane.chat("m").await;
    assert_eq!((answer.text().as_str(), answer.whole), ("{\"a\":1}", true));
}

#[tokio::test]
async fn a_silent_stream_is_ended_with_an_error_event() {
    let (a, plane) = one_with("timeouts: { streamIdle: 200ms }").await;
    a.answer(Reply::sse().chunk("data: 1\n\n").hang());
    let (mut client, _) = plane.stream("m").await;
    let error = openai_error(&broken(&mut client, "data: 1\n\n").await);
    assert_eq!(error["error"]["code"], "stream_idle_timeout");
    wait_for("the backend is let go", async || a.left() == 1).await;
    assert_eq!(plane.instance("a").await["failures"], 1);
}

#[tokio::test]
async fn a_stream_that_keeps_talking_is_never_too_long() {
    let (a, plane) = one_with("timeouts: { streamIdle: 1s, firstToken: 1s }").await;
    let pause = std::time::Duration::from_millis(250);
    let talk = (0..8).fold(Reply::sse(), |reply, _| {
        reply.chunk("data: x\n\n").pause(pause)
    });
    a.answer(talk.chunk("data: [DONE]\n\n").end());
    let (mut client, _) = plane.stream("m").await;
    assert!(client.rest().await.1, "two seconds are not too long");
}

#[tokio::test]
async fn a_request_over_its_routes_time_is_answered_504() {
    let (a, plane) = one_with("timeouts: { request: 300ms }").await;
    a.answer(Reply::default().hang());
    let answer = plane.chat("m").await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["error"]["code"], "request_timeout");
    wait_for("the backend is let go", async || a.left() == 1).await;
}

#[tokio::test]
async fn a_stream_over_its_routes_time_ends_with_an_error_event() {
    let (a, plane) = one_with("timeouts: { request: 1s }").await;
    a.answer(Reply::sse().chunk("data: 1\n\n").hang());
    let (mut client, _) = plane.stream("m").await;
    let error = openai_error(&broken(&mut client, "data: 1\n\n").await);
    assert_eq!(error["error"]["code"], "request_timeout");
    // The limit is the route's: it must not open the breaker of a backend that works.
    assert_eq!(plane.instance("a").await["failures"], 0);
}

#[tokio::test]
async fn a_late_first_token_with_nobody_else_to_ask_is_answered_504() {
    let (a, plane) = one_with("timeouts: { firstToken: 200ms }").await;
    a.answer(Reply::sse().hang());
    let (mut client, mut head) = plane.stream_at(MESSAGES, "m").await;
    assert_eq!(head.status, 504);
    head.body = client.rest().await.0;
    assert_eq!(head.json()["error"]["type"], "timeout_error");
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_frees_its_backend() {
    let (a, plane) = one().await;
    a.answer(Reply::sse().chunk("data: 1\n\n").hang());
    let (mut client, _) = plane.stream("m").await;
    client.chunk().await.unwrap();
    drop(client);
    wait_for("the backend sees it", async || a.left() == 1).await;
    plane.wait_instance("a", "in_flight", 0).await;
    assert_eq!(plane.instance("a").await["failures"], 0);
    assert_eq!(
        plane.metric("olla_requests_total", &["code=\"499\""]).await,
        1.0
    );
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_frees_its_backend() {
    let (a, plane) = one().await;
    a.answer(Reply::default().hang());
    let client = plane.send_stream(CHAT, "m").await;
    wait_for("it waits", async || a.answering() == 1).await;
    drop(client);
    wait_for("the backend sees it", async || a.left() == 1).await;
    plane.wait_instance("a", "in_flight", 0).await;
    assert_eq!(plane.instance("a").await["failures"], 0);
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte_and_is_waited_for() {
    let (a, plane) = one().await;
    let event = format!("data: {}\n\n", "x".repeat(60_000));
    let events: Vec<&str> = std::iter::repeat_n(event.as_str(), 400).collect();
    a.answer(Reply::sse().chunks(&events).end());
    let (mut client, _) = plane.stream("m").await;
    // 24 MB cannot lie in buffers: the backend is still writing while nobody reads.
    assert_eq!(a.answering(), 1);
    let (body, whole) = client.rest().await;
    assert!(whole);
    assert_eq!(body.len(), event.len() * 400);
    assert!(body == event.repeat(400).into_bytes());
}

#[tokio::test]
async fn a_slow_reader_of_a_cut_stream_gets_all_that_came_and_the_error() {
    const COUNT: usize = 70;
    let (a, plane) = one().await;
    let event = format!("data: {}\n\n", "x".repeat(60_000));
    let events: Vec<&str> = std::iter::repeat_n(event.as_str(), COUNT).collect();
    a.answer(Reply::sse().chunks(&events).close());
    let mut client = Client::connect_narrow(plane.addr).await;
    let body = streamed("m").to_string();
    client.send("POST", CHAT, &[], body.as_bytes()).await;
    // The backend has said all it will, and most of it still waits in buffers.
    wait_for("the backend is gone", async || {
        a.count() == 1 && a.answering() == 0
    })
    .await;
    client.head().await.expect("an answer");
    let error = openai_error(&broken(&mut client, &event.repeat(COUNT)).await);
    assert_eq!(error["error"]["code"], "truncated");
}

#[tokio::test]
async fn two_hundred_streams_of_one_endpoint_live_at_once() {
    let (a, plane) = one().await;
    let gate = Gate::new();
    let reply = Reply::sse().chunk("data: 1\n\n").wait(&gate);
    a.answer(reply.chunk("data: [DONE]\n\n").end());
    let mut clients = Vec::new();
    for _ in 0..200 {
        let (mut client, head) = plane.stream("m").await;
        assert_eq!(head.status, 200);
        assert_eq!(client.chunk().await.unwrap(), "data: 1\n\n");
        clients.push(client);
    }
    assert_eq!(a.answering(), 200);
    assert_eq!(plane.instance("a").await["in_flight"], 200);
    gate.cancel();
    for mut client in clients {
        assert_eq!(client.rest().await, (b"data: [DONE]\n\n".to_vec(), true));
    }
    assert_eq!(plane.instance("a").await["in_flight"], 0);
}

#[tokio::test]
async fn a_compressed_stream_passes_untouched() {
    let (a, plane) = one().await;
    let headers = [
        ("content-type", "text/event-stream"),
        ("content-encoding", "gzip"),
        ("transfer-encoding", "chunked"),
    ];
    let bytes = [0x1f, 0x8b, 0x08, 0x00, b'\n', b'\n', 0xff, 0x00];
    a.answer(Reply::head(200, &headers).chunk(bytes).end());
    let (mut client, head) = plane.stream("m").await;
    assert_eq!(head.header("content-encoding"), Some("gzip"));
    assert_eq!(client.rest().await, (bytes.to_vec(), true));
}

#[tokio::test]
async fn a_cut_stream_with_a_length_does_not_look_finished() {
    let (a, plane) = one().await;
    let headers = [
        ("content-type", "text/event-stream"),
        ("content-length", "150"),
    ];
    a.answer(Reply::head(200, &headers).raw("data: 1\n\n").close());
    let (mut client, head) = plane.stream("m").await;
    assert!(!head.has("content-length"));
    let event = broken(&mut client, "data: 1\n\n").await;
    assert_eq!(openai_error(&event)["error"]["code"], "truncated");
}

#[tokio::test]
async fn close_delimited_streams_that_said_their_last_word_are_whole() {
    let (a, plane) = one().await;
    let numbers = "1,".repeat(4000);
    for (kind, last) in [
        (
            "text/event-stream",
            "event: response.completed\ndata: {}\n\n".to_owned(),
        ),
        (
            "text/event-stream",
            "data: {\"type\":\"response.incomplete\"}\n\n".to_owned(),
        ),
        (
            "application/x-ndjson",
            format!("{{\"done\":true,\"context\":[{numbers}1]}}\n"),
        ),
    ] {
        let head = format!("HTTP/1.0 200 OK\r\ncontent-type: {kind}\r\n\r\n");
        a.answer(Reply::default().raw(head).raw(&last).close());
        let (mut client, _) = plane.stream("m").await;
        let (body, whole) = client.rest().await;
        assert_eq!((String::from_utf8(body).unwrap(), whole), (last, true));
    }
    assert_eq!(plane.instance("a").await["failures"], 0);
}

#[tokio::test]
async fn close_delimited_events_that_are_no_models_answer_are_whole_when_the_last_one_is() {
    let (a, plane) = one().await;
    let head = "HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    for (events, expected) in [("data: 1\n\n", true), ("data: 1\n\ndata: ", false)] {
        a.answer_next(Reply::default().raw(head).raw(events).close());
        let answer = plane.get("/olla/proxy/v1/jobs/1/events").await;
        assert_eq!(answer.whole, expected, "{events:?}");
        assert!(answer.text().starts_with("data: 1\n\n"));
    }
    // An error is what it is, whatever it ends with.
    let head = "HTTP/1.0 400 Bad Request\r\ncontent-type: text/event-stream\r\n\r\n";
    a.answer_next(Reply::default().raw(head).raw("data: {}\n\n").close());
    let answer = plane.chat("m").await;
    assert_eq!((answer.status, answer.whole), (400, true));
}
