//! A request that one endpoint fails is answered by another, until its first byte is out.

use std::time::Duration;

use dataplane::config::Settings;
use futures::future::{join, join_all};
use serde_json::json;

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml, chat},
    reply::{Gate, Reply},
    wait_for,
};

/// `a` is preferred to `b`; both serve `m`.
async fn pair() -> (Backend, Backend) {
    let a = Backend::start("a", &["m"]).await;
    let b = Backend::start("b", &["m"]).await;
    (a, b)
}

async fn plane(a: &Backend, b: &Backend) -> Plane {
    Yaml::tiers(&[("a", a), ("b", b)]).start().await
}

/// Both endpoints were asked, the client got the answer of the second.
async fn fails_over(reply: Reply, reason: &str) {
    let (a, b) = pair().await;
    let plane = plane(&a, &b).await;
    a.answer(reply);
    let answer = plane.chat("m").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.endpoint(), "b");
    assert_eq!(answer.header("x-olla-attempts"), Some("2"));
    assert_eq!(answer.header("x-olla-tier"), Some("1"));
    assert_eq!(a.count(), 1);
    let label = format!("reason=\"{reason}\"");
    assert_eq!(plane.metric("olla_failovers_total", &[&label]).await, 1.0);
}

#[tokio::test]
async fn a_429_is_answered_elsewhere() {
    fails_over(Reply::busy(429, "7"), "status").await;
}

#[tokio::test]
async fn a_502_is_answered_elsewhere() {
    fails_over(Reply::status(502), "status").await;
}

#[tokio::test]
async fn a_503_is_answered_elsewhere() {
    fails_over(Reply::status(503), "status").await;
}

#[tokio::test]
async fn a_504_is_answered_elsewhere() {
    fails_over(Reply::status(504), "status").await;
}

#[tokio::test]
async fn a_clean_close_before_the_answer_is_answered_elsewhere() {
    fails_over(Reply::default().close(), "reset").await;
}

#[tokio::test]
async fn a_reset_before_the_answer_is_answered_elsewhere() {
    fails_over(Reply::default().reset(), "reset").await;
}

#[tokio::test]
async fn a_reset_after_the_head_is_answered_elsewhere() {
    fails_over(Reply::sse().reset(), "reset").await;
}

#[tokio::test]
async fn a_close_inside_the_head_is_answered_elsewhere() {
    fails_over(
        Reply::default().raw("HTTP/1.1 200 OK\r\ncont").close(),
        "reset",
    )
    .await;
}

#[tokio::test]
async fn what_is_not_http_is_answered_elsewhere() {
    let hello = Reply::default().raw("SSH-2.0-hello\r\n\r\n").close();
    fails_over(hello, "malformed").await;
}

#[tokio::test]
async fn a_stream_that_does_not_begin_in_time_is_answered_elsewhere() {
    for silent in [Reply::default().hang(), Reply::sse().hang()] {
        let (a, b) = pair().await;
        let yaml = Yaml::tiers(&[("a", &a), ("b", &b)]);
        let plane = yaml.route("timeouts: { firstToken: 1s }").start().await;
        a.answer(silent);
        let done = Reply::sse().chunks(&["data: x\n\n", "data: [DONE]\n\n"]);
        b.answer(done.end());
        let (mut client, head) = plane.stream("m").await;
        assert_eq!((head.status, head.endpoint()), (200, "b"));
        assert!(client.rest().await.1, "it ends well");
        let label = ["reason=\"first_token_timeout\""];
        assert_eq!(plane.metric("olla_failovers_total", &label).await, 1.0);
        wait_for("the silent one is let go", async || a.left() == 1).await;
    }
}

#[tokio::test]
async fn two_dead_tiers_in_a_row_are_passed_in_one_request() {
    let (mut a, mut b) = pair().await;
    let c = Backend::start("c", &["m"]).await;
    let passive = "health: { mode: Passive }";
    let plane = Yaml::default()
        .endpoint("a", &a.url(), &[passive, "priority: 1"])
        .endpoint("b", &b.url(), &[passive, "priority: 2"])
        .endpoint("c", &c.url(), &[passive, "priority: 3"])
        .start()
        .await;
    a.stop().await;
    b.stop().await;
    let answer = plane.chat("m").await;
    assert_eq!((answer.status, answer.endpoint()), (200, "c"));
    assert_eq!(answer.header("x-olla-attempts"), Some("3"));
    assert_eq!(answer.header("x-olla-tier"), Some("2"));
}

#[tokio::test]
async fn a_500_is_the_clients_to_see_unless_the_route_says_otherwise() {
    let (a, b) = pair().await;
    a.answer(Reply::whole(500, &[("x-mine", "1")], "out of paper"));
    let plane = plane(&a, &b).await;
    let answer = plane.chat("m").await;
    assert_eq!((answer.status, answer.endpoint()), (500, "a"));
    assert_eq!(answer.text(), "out of paper");
    assert_eq!(answer.header("x-mine"), Some("1"));
    assert_eq!(b.count(), 0);

    let yaml = Yaml::tiers(&[("a", &a), ("b", &b)]);
    let plane = yaml.route("failover: { causes: [\"500\"] }").start().await;
    assert_eq!(plane.chat("m").await.endpoint(), "b");
}

#[tokio::test]
async fn a_route_may_fail_over_on_any_status_or_class() {
    let (a, b) = pair().await;
    for (status, causes, expected) in [
        (408, "[408]", "b"),
        (408, "[5xx]", "a"),
        (404, "[4xx]", "b"),
        (520, "[Reset, 5xx]", "b"),
    ] {
        a.answer(Reply::status(status));
        let yaml = Yaml::tiers(&[("a", &a), ("b", &b)]);
        let yaml = yaml.route(&format!("failover: {{ causes: {causes} }}"));
        let plane = yaml.start().await;
        let answer = plane.chat("m").await;
        assert_eq!(answer.endpoint(), expected, "{status} with {causes}");
    }
}

#[tokio::test]
async fn no_more_attempts_are_made_than_the_route_allows() {
    let (a, b) = pair().await;
    let c = Backend::start("c", &["m"]).await;
    let yaml = Yaml::tiers(&[("a", &a), ("b", &b), ("c", &c)]);
    let plane = yaml.route("failover: { attempts: 2 }").start().await;
    a.answer(Reply::status(502));
    b.answer(Reply::whole(502, &[], "the last word"));
    let answer = plane.chat("m").await;
    assert_eq!((answer.status, answer.endpoint()), (502, "b"));
    assert_eq!(answer.text(), "the last word");
    assert_eq!(c.count(), 0);
}

#[tokio::test]
async fn a_request_never_goes_to_the_same_endpoint_twice() {
    let (a, b) = pair().await;
    let plane = plane(&a, &b).await;
    a.answer(Reply::default().reset());
    b.answer(Reply::default().reset());
    let answer = plane.chat("m").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["error"]["code"], "upstream_reset");
    assert_eq!(answer.header("x-olla-attempts"), Some("2"));
    assert_eq!((a.count(), b.count()), (1, 1));
}

#[tokio::test]
async fn nothing_is_tried_again_after_the_first_byte() {
    let (a, b) = pair().await;
    let plane = plane(&a, &b).await;
    a.answer(Reply::sse().chunk("data: 1\n\n").close());
    let (mut client, head) = plane.stream("m").await;
    assert_eq!(head.endpoint(), "a");
    let (body, whole) = client.rest().await;
    assert!(!whole);
    assert!(body.starts_with(b"data: 1\n\n"));
    assert_eq!(b.count(), 0);
}

#[tokio::test]
async fn the_answer_of_a_get_is_never_mended_with_that_of_another_endpoint() {
    let (a, b) = pair().await;
    let plane = plane(&a, &b).await;
    let cut = Reply::head(200, &[("content-length", "10")]).raw("from");
    a.answer(cut.close());
    b.answer(Reply::whole(200, &[], "from b"));
    let answer = plane.get("/olla/proxy/v1/files/1").await;
    assert_eq!(answer.endpoint(), "a");
    assert_eq!(answer.text(), "from");
    assert!(!answer.whole);
    assert_eq!(b.count(), 0);
}

#[tokio::test]
async fn engine_sherpa_tries_elsewhere_only_when_nobody_was_reached() {
    let (mut a, b) = pair().await;
    let plane = Yaml::default()
        .endpoint(
            "a",
            &a.url(),
            &["priority: 1", "health: { mode: Disabled }"],
        )
        .endpoint("b", &b.url(), &["priority: 2"])
        .route("engine: sherpa")
        .start()
        .await;
    a.answer(Reply::status(503));
    assert_eq!(plane.chat("m").await.status, 503);
    a.answer(Reply::default().reset());
    assert_eq!(plane.chat("m").await.status, 502);
    assert_eq!(b.count(), 0);
    a.stop().await;
    let answer = plane.chat("m").await;
    assert_eq!((answer.status, answer.endpoint()), (200, "b"));
}

#[tokio::test]
async fn the_second_endpoint_gets_the_very_same_body() {
    let (a, b) = pair().await;
    let plane = plane(&a, &b).await;
    a.answer(Reply::status(503));
    let body = b"{ \"model\" : \"m\",\n\t\"unknown\": [1.50, 1e3, \"\\u00e9\"] }\n";
    let mut client = plane.client().await;
    client
        .write("POST /v1/chat/completions?a=b HTTP/1.1\r\nhost: x\r\n")
        .await;
    client.write("transfer-encoding: chunked\r\n\r\n").await;
    for part in body.chunks(7) {
        client.write(format!("{:x}\r\n", part.len())).await;
        client.write([part, b"\r\n"].concat()).await;
    }
    client.write("0\r\n\r\n").await;
    assert_eq!(client.answer().await.endpoint(), "b");
    for backend in [&a, &b] {
        let request = backend.last();
        assert_eq!(request.body, body);
        assert_eq!(request.target, "/v1/chat/completions?a=b");
        let length = body.len().to_string();
        assert_eq!(request.header("content-length"), Some(&*length));
        assert!(!request.has("transfer-encoding"));
    }
}

#[tokio::test]
async fn a_body_over_the_bound_is_sent_once() {
    let (a, b) = pair().await;
    let yaml = Yaml::tiers(&[("a", &a), ("b", &b)]).text();
    let settings = Settings {
        replay_bytes: 1000,
        ..Plane::settings()
    };
    let plane = Plane::with(settings, &yaml).await;
    a.answer_next(Reply::whole(503, &[], "mine"));
    let mut document = chat("m");
    document["filler"] = "x".repeat(300_000).into();
    let answer = plane.post("/v1/chat/completions", &document).await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "mine"));
    assert_eq!(a.last().body, document.to_string().as_bytes());
    assert_eq!((a.count(), b.count()), (1, 0));
    assert_eq!(plane.metric("olla_unkept_bodies_total", &[]).await, 1.0);

    a.answer_next(Reply::status(503));
    assert_eq!(plane.chat("m").await.endpoint(), "b", "small ones do");
}

#[tokio::test]
async fn kept_bodies_of_all_requests_together_are_bounded() {
    let (a, b) = pair().await;
    let settings = Settings {
        replay_total_bytes: 1000,
        ..Plane::settings()
    };
    let yaml = Yaml::tiers(&[("a", &a), ("b", &b)]).text();
    let plane = Plane::with(settings, &yaml).await;
    let gate = Gate::new();
    a.answer_next(Reply::default().wait(&gate).raw(OK));
    let mut document = chat("m");
    document["filler"] = "x".repeat(800).into();
    let body = document.to_string();
    let mut first = plane.client().await;
    let target = "/v1/chat/completions";
    first.send("POST", target, &[], body.as_bytes()).await;
    wait_for("the first holds its body", async || a.answering() == 1).await;
    let kept = async || plane.metric("olla_kept_bodies_bytes", &[]).await;
    assert_eq!(kept().await, body.len() as f64);

    a.answer_next(Reply::status(503));
    assert_eq!(plane.post(target, &document).await.status, 503, "not kept");
    gate.cancel();
    assert_eq!(first.answer().await.status, 200);
    wait_for("nothing is kept any more", async || kept().await == 0.0).await;
    a.answer_next(Reply::status(503));
    assert_eq!(plane.post(target, &document).await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_not_kept_goes_elsewhere_when_nobody_was_reached() {
    let (mut a, b) = pair().await;
    let passive = "health: { mode: Disabled }";
    let yaml = Yaml::default()
        .endpoint("a", &a.url(), &["priority: 1", passive])
        .endpoint("b", &b.url(), &["priority: 2"]);
    let settings = Settings {
        replay_bytes: 1000,
        ..Plane::settings()
    };
    let plane = Plane::with(settings, &yaml.text()).await;
    a.stop().await;
    let mut document = chat("m");
    document["filler"] = "x".repeat(300_000).into();
    let answer = plane.post("/v1/chat/completions", &document).await;
    assert_eq!((answer.status, answer.endpoint()), (200, "b"));
    assert_eq!(b.last().body, document.to_string().as_bytes());
}

#[tokio::test]
async fn a_request_that_creates_something_runs_once() {
    let (mut a, b) = pair().await;
    let plane = Yaml::default()
        .endpoint(
            "a",
            &a.url(),
            &["priority: 1", "health: { mode: Disabled }"],
        )
        .endpoint("b", &b.url(), &["priority: 2"])
        .start()
        .await;
    let create = async || {
        let job = json!({ "model": "m", "training_file": "f" });
        plane.post("/v1/fine_tuning/jobs", &job).await
    };
    for reply in [
        Reply::default().reset(),
        Reply::status(502),
        Reply::status(503),
    ] {
        a.answer_next(reply);
        let answer = create().await;
        assert!(answer.status >= 502, "{}", answer.status);
    }
    assert_eq!((a.count(), b.count()), (3, 0));

    // Where it cannot have run, it goes elsewhere as any other.
    a.answer_next(Reply::busy(429, "0"));
    assert_eq!(create().await.endpoint(), "b");
    a.stop().await;
    assert_eq!(create().await.endpoint(), "b");
}

#[tokio::test]
async fn a_request_that_creates_something_meets_no_stale_connection() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    assert_eq!(plane.chat("m").await.status, 200, "its connection is kept");
    let before = a.accepted();
    let create = json!({ "model": "m" });
    let answer = plane.post("/v1/fine_tuning/jobs", &create).await;
    assert_eq!(answer.status, 200);
    assert!(a.accepted() > before, "it came on a connection of its own");
}

#[tokio::test]
async fn a_kept_connection_that_breaks_after_a_while_is_a_failure_and_nothing_runs_twice() {
    let a = Backend::start("a", &["m"]).await;
    let yaml = Yaml::tiers(&[("a", &a)]).route("failover: { attempts: 1 }");
    let plane = yaml.start().await;
    assert_eq!(plane.chat("m").await.status, 200, "its connection is kept");
    let dies = Reply::default().pause(Duration::from_millis(1500)).close();
    a.answer_next(dies);
    let answer = plane.chat("m").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["error"]["code"], "upstream_reset");
    assert_eq!(a.count(), 2);
    assert_eq!(plane.instance("a").await["failures"], 1);
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn an_endpoint_killed_under_fifty_requests_costs_no_client_an_error() {
    let (mut a, b) = pair().await;
    let plane = Yaml::tiers(&[("a", &a), ("b", &b)]).start().await;
    a.answer(Reply::default().hang());
    let chats = join_all((0..50).map(|_| plane.chat("m")));
    let kill = async {
        wait_for("fifty wait", async || a.answering() == 50).await;
        a.stop().await;
    };
    let (answers, ()) = join(chats, kill).await;
    for answer in answers {
        assert_eq!((answer.status, answer.endpoint()), (200, "b"));
    }
}

#[tokio::test]
async fn retries_in_an_outage_are_bounded_by_the_budget() {
    let (a, b) = pair().await;
    let yaml = Yaml::tiers(&[("a", &a), ("b", &b)]);
    let breaker = "circuitBreaker: { consecutiveFailures: 1000 }";
    let plane = yaml.route(breaker).start().await;
    for backend in [&a, &b] {
        backend.answer(Reply::status(502));
    }
    for _ in 0..40 {
        assert_eq!(plane.chat("m").await.status, 502);
    }
    assert_eq!(a.count(), 40);
    assert_eq!(b.count(), 10, "ten retries in ten seconds, or 20 %");
}
