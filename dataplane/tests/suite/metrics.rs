//! Numbers after known traffic.

use dataplane::config::Settings;
use futures::future::join_all;

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml},
    reply::Reply,
};

async fn pair() -> (Backend, Backend, Plane) {
    let a = Backend::start("a", &["m"]).await;
    let b = Backend::start("b", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a), ("b", &b)]).start().await;
    (a, b, plane)
}

#[tokio::test]
async fn each_request_is_counted_once_with_its_route_endpoint_and_status() {
    let (a, _b, plane) = pair().await;
    for _ in 0..3 {
        plane.chat("m").await;
    }
    a.answer_next(Reply::status(418));
    plane.chat("m").await;
    plane.chat("unknown").await;
    for (labels, count) in [
        (
            [r#"route="chats""#, r#"llm_endpoint="a""#, r#"code="200""#],
            3.0,
        ),
        (
            [r#"route="chats""#, r#"llm_endpoint="a""#, r#"code="418""#],
            1.0,
        ),
        ([r#"route="""#, r#"llm_endpoint="""#, r#"code="404""#], 1.0),
    ] {
        let seen = plane.metric("olla_requests_total", &labels).await;
        assert_eq!(seen, count, "{labels:?}\n{}", plane.metrics().await);
    }
    assert_eq!(plane.metric("olla_requests_total", &[]).await, 5.0);
    let refused = [r#"reason="model_not_found""#];
    assert_eq!(plane.metric("olla_refusals_total", &refused).await, 1.0);
}

#[tokio::test]
async fn attempts_are_counted_by_their_result() {
    let (a, _b, plane) = pair().await;
    a.answer_next(Reply::default().reset());
    a.answer_next(Reply::status(502));
    a.answer_next(Reply::chat("a"));
    a.answer_next(Reply::sse().chunk("data: 1\n\n").close());
    a.answer_next(Reply::busy(429, "60"));
    for _ in 0..5 {
        plane.chat("m").await;
    }
    for (endpoint, result, count) in [
        ("a", "reset", 1.0),
        ("a", "status", 1.0),
        ("a", "answered", 1.0),
        ("a", "truncated", 1.0),
        ("a", "saturated", 1.0),
        ("b", "answered", 3.0),
    ] {
        let labels = [
            &*format!("llm_endpoint=\"{endpoint}\""),
            &*format!("result=\"{result}\""),
        ];
        let seen = plane.metric("olla_attempts_total", &labels).await;
        assert_eq!(seen, count, "{labels:?}\n{}", plane.metrics().await);
    }
    for (reason, count) in [("reset", 1.0), ("status", 2.0)] {
        let label = format!("reason=\"{reason}\"");
        assert_eq!(plane.metric("olla_failovers_total", &[&label]).await, count);
    }
}

#[tokio::test]
async fn gauges_show_what_is_now() {
    let (mut a, _b, plane) = pair().await;
    a.answer(Reply::sse().chunk("data: 1\n\n").hang());
    let (mut client, _) = plane.stream("m").await;
    client.chunk().await.unwrap();
    let of_a = [r#"llm_endpoint="a""#];
    assert_eq!(plane.metric("olla_in_flight_requests", &of_a).await, 1.0);
    assert_eq!(plane.metric("olla_instance_healthy", &of_a).await, 1.0);
    assert_eq!(plane.metric("olla_instance_models", &of_a).await, 1.0);
    assert_eq!(plane.metric("olla_breaker_state", &of_a).await, 0.0);
    drop(client);
    plane.wait_instance("a", "in_flight", 0).await;
    assert_eq!(plane.metric("olla_in_flight_requests", &[]).await, 0.0);
    a.stop().await;
    plane.wait_instance("a", "health", "Unhealthy").await;
    assert_eq!(plane.metric("olla_instance_healthy", &of_a).await, 0.0);
}

#[tokio::test]
async fn times_are_measured_per_endpoint() {
    let (_a, _b, plane) = pair().await;
    for _ in 0..4 {
        plane.chat("m").await;
    }
    for family in [
        "olla_request_duration_seconds_count",
        "olla_time_to_first_token_seconds_count",
    ] {
        assert_eq!(
            plane.metric(family, &[r#"llm_endpoint="a""#]).await,
            4.0,
            "{family}"
        );
    }
}

#[tokio::test]
async fn metrics_are_openmetrics_text_with_help_for_each_family() {
    let (_a, _b, plane) = pair().await;
    plane.chat("m").await;
    let answer = plane.get("/internal/metrics").await;
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text"));
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"));
    let types = text.lines().filter(|line| line.starts_with("# TYPE "));
    for line in types {
        let family = line.split(' ').nth(2).unwrap();
        assert!(family.starts_with("olla_"), "{family}");
        assert!(text.contains(&format!("# HELP {family} ")), "{family}");
    }
}

#[tokio::test]
async fn two_scrapes_at_once_both_see_every_instance() {
    let a = Backend::start("a", &["m"]).await;
    let names: Vec<String> = (0..20).map(|number| format!("a{number}")).collect();
    let yaml = names.iter().fold(Yaml::default(), |yaml, name| {
        yaml.endpoint(name, &a.url(), &[])
    });
    let settings = Settings {
        workers: 4,
        ..Plane::settings()
    };
    let plane = Plane::with(settings, &yaml.text()).await;
    let scrape = async || {
        let mut client = plane.client().await;
        for _ in 0..50 {
            let answer = client.request("GET", "/internal/metrics", &[], b"").await;
            let text = answer.text();
            let healthy = text.matches("\nolla_instance_healthy{").count();
            assert_eq!(healthy, 20, "{text}");
        }
    };
    join_all((0..8).map(|_| scrape())).await;
}

#[tokio::test]
async fn a_model_nobody_has_makes_no_series() {
    let (_a, _b, plane) = pair().await;
    for number in 0..20 {
        plane.chat(&format!("made-up-{number}")).await;
        plane.get(&format!("/made/up/{number}")).await;
    }
    let text = plane.metrics().await;
    assert!(!text.contains("made"), "{text}");
}

#[tokio::test]
async fn status_agrees_with_metrics() {
    let (a, _b, plane) = pair().await;
    a.answer_next(Reply::status(500));
    for _ in 0..6 {
        plane.chat("m").await;
    }
    let status = plane.status().await;
    let system = &status["system"];
    assert_eq!(
        (&system["total_requests"], &system["total_failures"]),
        (&6.into(), &1.into())
    );
    assert_eq!(system["endpoints_up"], "2/2");
    assert_eq!(system["active_connections"], 0);
    assert_eq!(plane.metric("olla_attempts_total", &[]).await, 6.0);
}

#[tokio::test]
async fn only_reading_is_allowed_on_internal_pages() {
    let (_a, _b, plane) = pair().await;
    for page in ["/internal/status", "/internal/metrics", "/version"] {
        let answer = plane.request("POST", page, &[], b"{}").await;
        assert_eq!(answer.status, 405, "{page}");
    }
    let version = plane.get("/version").await.json();
    assert_eq!(version["name"], "olla-dataplane");
}
