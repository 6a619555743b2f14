//! What opens a breaker, what does not, and what an open one does to traffic.

use dataplane::config::Settings;
use futures::future::join_all;

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml, chat},
    reply::Reply,
    wait_for,
};

/// `a` is preferred to `b`; two failures in a row open a breaker for long.
async fn pair() -> (Backend, Backend, Plane) {
    let a = Backend::start("a", &["m"]).await;
    let b = Backend::start("b", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a), ("b", &b)])
        .route("circuitBreaker: { consecutiveFailures: 2, openFor: 10m }")
        .start()
        .await;
    (a, b, plane)
}

/// A status that no request provokes and that is tried nowhere else, so each is one of `a`'s.
async fn open_by_two_failures(a: &Backend, plane: &Plane) {
    a.answer(Reply::status(507));
    for _ in 0..2 {
        assert_eq!(plane.chat("m").await.status, 507);
    }
    plane.wait_instance("a", "breaker", "Open").await;
}

#[tokio::test]
async fn an_open_breaker_is_not_chosen_and_traffic_goes_elsewhere_at_once() {
    let (a, b, plane) = pair().await;
    open_by_two_failures(&a, &plane).await;
    for _ in 0..10 {
        let answer = plane.chat("m").await;
        assert_eq!((answer.status, answer.endpoint()), (200, "b"));
        assert_eq!(answer.header("x-olla-attempts"), Some("1"));
    }
    assert_eq!((a.count(), b.count()), (2, 10));
}

#[tokio::test]
async fn an_open_breaker_is_visible_in_status_metrics_and_explain() {
    let (a, _b, plane) = pair().await;
    open_by_two_failures(&a, &plane).await;
    let instance = plane.instance("a").await;
    assert_eq!(instance["usable"], false);
    assert!(
        instance["why_not"]
            .as_str()
            .unwrap()
            .contains("breaker open")
    );
    assert!(instance["breaker_reopens_in_ms"].as_u64().unwrap() > 500_000);
    assert_eq!(plane.status().await["system"]["status"], "degraded");
    let labels = ["llm_endpoint=\"a\""];
    assert_eq!(plane.metric("olla_breaker_state", &labels).await, 2.0);
    assert_eq!(plane.metric("olla_breaker_opened_total", &[]).await, 1.0);
    let explained = plane.get("/internal/explain?model=m").await.json();
    assert_eq!(explained["candidates"][0]["endpoint"], "a");
    assert_eq!(explained["candidates"][0]["selectable"], false);
    assert_eq!(explained["candidates"][1]["chosen"], true);
}

#[tokio::test]
async fn answers_of_5xx_count_as_failures() {
    let (a, _b, plane) = pair().await;
    a.answer(Reply::status(500));
    plane.chat("m").await;
    let instance = plane.instance("a").await;
    assert_eq!(
        (&instance["requests"], &instance["failures"]),
        (&1.into(), &1.into())
    );
    assert_eq!(plane.status().await["system"]["total_failures"], 1);
}

#[tokio::test]
async fn what_a_backend_does_not_implement_opens_no_breaker() {
    for status in [501, 505, 508] {
        let (a, _b, plane) = pair().await;
        a.answer(Reply::status(status));
        for _ in 0..10 {
            assert_eq!(plane.chat("m").await.status, status);
        }
        let instance = plane.instance("a").await;
        assert_eq!(
            (&instance["breaker"], &instance["failures"]),
            (&"Closed".into(), &0.into()),
            "{status}"
        );
    }
}

/// Two in a row open it; one client's wrong request must not, and a dead backend of one client
/// must in the end.
#[tokio::test]
async fn five_hundreds_of_one_client_open_a_breaker_late() {
    let (a, _b, plane) = pair().await;
    a.answer(Reply::status(500));
    for _ in 0..7 {
        assert_eq!(plane.chat("m").await.status, 500);
    }
    assert_eq!(plane.instance("a").await["breaker"], "Closed");
    assert_eq!(plane.chat("m").await.status, 500);
    plane.wait_instance("a", "breaker", "Open").await;
}

#[cfg(target_os = "linux")] // where any address of 127.0.0.0/8 is this machine's
#[tokio::test]
async fn five_hundreds_of_two_clients_open_a_breaker_as_any_failure() {
    let (a, _b, plane) = pair().await;
    a.answer(Reply::status(500));
    assert_eq!(plane.chat("m").await.status, 500);
    let mut other = plane.stranger().await;
    let body = chat("m").to_string();
    let target = "/v1/chat/completions";
    let answer = other.request("POST", target, &[], body.as_bytes()).await;
    assert_eq!(answer.status, 500);
    plane.wait_instance("a", "breaker", "Open").await;
}

#[tokio::test]
async fn answers_of_4xx_count_as_successes() {
    let (a, _b, plane) = pair().await;
    a.answer(Reply::status(400));
    for _ in 0..5 {
        assert_eq!(plane.chat("m").await.status, 400);
    }
    let instance = plane.instance("a").await;
    assert_eq!(instance["breaker"], "Closed");
    assert_eq!(
        (&instance["requests"], &instance["failures"]),
        (&5.into(), &0.into())
    );
}

#[tokio::test]
async fn impatient_clients_do_not_open_a_breaker_nor_count_as_failures() {
    let (a, b, plane) = pair().await;
    a.answer(Reply::default().hang());
    let clients = join_all((0..5).map(|_| plane.send_stream("/v1/chat/completions", "m"))).await;
    wait_for("five wait", async || a.answering() == 5).await;
    drop(clients);
    wait_for("the backend sees them leave", async || a.left() == 5).await;
    plane.wait_instance("a", "in_flight", 0).await;
    let instance = plane.instance("a").await;
    assert_eq!(
        (&instance["breaker"], &instance["failures"]),
        (&"Closed".into(), &0.into())
    );
    let labels = ["llm_endpoint=\"a\"", "code=\"499\""];
    assert_eq!(plane.metric("olla_requests_total", &labels).await, 5.0);

    a.answer(Reply::chat("a"));
    assert_eq!(plane.chat("m").await.endpoint(), "a");
    assert_eq!(b.count(), 0);
}

#[tokio::test]
async fn a_stream_that_breaks_off_counts_as_a_failure() {
    let (a, _b, plane) = pair().await;
    a.answer(Reply::sse().chunk("data: 1\n\n").close());
    for _ in 0..2 {
        let (mut client, _) = plane.stream("m").await;
        assert!(!client.rest().await.1);
    }
    plane.wait_instance("a", "breaker", "Open").await;
    assert_eq!(plane.instance("a").await["failures"], 2);
}

#[tokio::test]
async fn a_success_between_two_failures_keeps_it_closed() {
    let (a, _b, plane) = pair().await;
    for _ in 0..4 {
        a.answer_next(Reply::status(507));
        assert_eq!(plane.chat("m").await.status, 507);
        assert_eq!(plane.chat("m").await.endpoint(), "a");
    }
    assert_eq!(plane.instance("a").await["breaker"], "Closed");
}

#[tokio::test]
async fn a_busy_endpoint_is_left_alone_for_as_long_as_it_asks_without_being_blamed() {
    for status in [429, 503] {
        let (a, b, plane) = pair().await;
        a.answer(Reply::busy(status, "40"));
        for _ in 0..6 {
            assert_eq!(plane.chat("m").await.endpoint(), "b");
        }
        assert_eq!((a.count(), b.count()), (1, 6));
        let instance = plane.instance("a").await;
        assert_eq!(
            (&instance["breaker"], &instance["failures"]),
            (&"Closed".into(), &0.into())
        );
        let rest = instance["saturated_for_ms"].as_u64().unwrap();
        assert!((10_000..=40_000).contains(&rest), "{rest}");
    }
}

#[tokio::test]
async fn one_good_trial_closes_it() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)])
        .route("circuitBreaker: { consecutiveFailures: 2, openFor: 300ms, whenAllOpen: Fail }")
        .start()
        .await;
    open_by_two_failures(&a, &plane).await;
    a.answer(Reply::chat("a"));
    wait_for("a trial is let through", async || {
        let answer = plane.chat("m").await;
        let refused = answer.status == 503 && answer.has("retry-after");
        assert!(answer.status == 200 || refused, "{}", answer.status);
        answer.status == 200
    })
    .await;
    assert_eq!(plane.instance("a").await["breaker"], "Closed");
}

#[tokio::test]
async fn with_nothing_but_open_breakers_left_the_route_chooses_between_a_chance_and_an_error() {
    let a = Backend::start("a", &["m"]).await;
    for (when, status) in [("TryBest", 200), ("Fail", 503)] {
        let breaker = format!(
            "circuitBreaker: {{ consecutiveFailures: 2, openFor: 10m, whenAllOpen: {when} }}"
        );
        let plane = Yaml::tiers(&[("a", &a)]).route(&breaker).start().await;
        open_by_two_failures(&a, &plane).await;
        a.answer(Reply::chat("a"));
        let answer = plane.chat("m").await;
        assert_eq!(answer.status, status, "{when}");
        if when == "Fail" {
            assert_eq!(answer.json()["error"]["code"], "model_unavailable");
        } else {
            assert_eq!(answer.header("x-olla-routing-reason"), Some("last_resort"));
        }
    }
}

#[tokio::test]
async fn engine_sherpa_has_no_breaker() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)])
        .route("engine: sherpa")
        .start()
        .await;
    a.answer(Reply::status(507));
    for _ in 0..10 {
        assert_eq!(plane.chat("m").await.status, 507);
    }
    assert_eq!(a.count(), 10);
    assert_eq!(plane.instance("a").await["breaker"], "Closed");
}

#[tokio::test]
async fn all_workers_share_one_breaker() {
    let a = Backend::start("a", &["m"]).await;
    let b = Backend::start("b", &["m"]).await;
    let yaml = Yaml::tiers(&[("a", &a), ("b", &b)])
        .route("circuitBreaker: { consecutiveFailures: 2, openFor: 10m }");
    let settings = Settings {
        workers: 2,
        ..Plane::settings()
    };
    let plane = Plane::with(settings, &yaml.text()).await;
    open_by_two_failures(&a, &plane).await;
    let answers = join_all((0..20).map(|_| plane.chat("m"))).await;
    assert!(answers.iter().all(|answer| answer.endpoint() == "b"));
    assert_eq!(a.count(), 2);
}

/// Servers repeat a request's target in redirects, so a client may choose how long an answer's head
/// is.
#[tokio::test]
async fn heads_that_one_client_makes_too_long_move_nobody_else() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)])
        .route("circuitBreaker: { consecutiveFailures: 2 }")
        .start()
        .await;
    let long = |length: usize| {
        let location = format!("/x?{}", "a".repeat(length));
        Reply::head(307, &[("content-length", "0"), ("location", &location)])
    };
    a.answer(long(30_000));
    assert_eq!(
        plane.chat("m").await.status,
        307,
        "as long as a request's may be"
    );
    a.answer(long(70_000));
    for _ in 0..6 {
        let answer = plane.chat("m").await;
        assert_eq!(answer.status, 502);
        assert_eq!(answer.json()["error"]["code"], "upstream_malformed");
    }
    assert_eq!(plane.instance("a").await["breaker"], "Closed");
}
