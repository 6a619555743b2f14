//! Requests as strangers send them: odd paths, upgrades, loops.

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml, chat},
};

async fn one() -> (Backend, Plane) {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    (a, plane)
}

/// Status, and the reason of a refusal.
async fn sent(plane: &Plane, head: &str) -> (u16, String) {
    let mut client = plane.client().await;
    client.write(format!("{head}\r\n\r\n")).await;
    let answer = client.answer().await;
    let reason = answer.header("x-olla-routing-reason").unwrap_or_default();
    (answer.status, reason.to_owned())
}

#[tokio::test]
async fn doubled_slashes_of_a_base_url_are_folded_for_routes_and_backends() {
    let (a, plane) = one().await;
    for (target, asked) in [
        ("//v1/chat/completions", "/v1/chat/completions"),
        (
            "/olla/openai//v1/chat/completions?a=//b",
            "/v1/chat/completions?a=//b",
        ),
        ("/olla//proxy/v1///%78", "/v1/%78"),
    ] {
        let answer = plane.post(target, &chat("m")).await;
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(a.last().target, asked, "{target}");
    }
    assert_eq!(plane.get("/v1//models").await.status, 200);
    let pull = plane.post("/olla/proxy//api//pull", &chat("m")).await;
    assert_eq!(pull.status, 501);
}

#[tokio::test]
async fn the_root_answers_as_ollamas_does() {
    let (_a, plane) = one().await;
    let answer = plane.get("/").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "Ollama is running")
    );
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    let mut client = plane.client().await;
    client.send("HEAD", "/", &[], b"").await;
    assert_eq!(client.head().await.unwrap().status, 200);
}

#[tokio::test]
async fn an_upgrade_is_refused_and_not_answered_as_if_it_were_none() {
    let (a, plane) = one().await;
    let before = a.count();
    let head = "GET /v1/realtime HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket";
    assert_eq!(
        sent(&plane, head).await,
        (501, "upgrade_unsupported".to_owned())
    );
    assert_eq!(a.count(), before);
    // An offer of HTTP/2 may be left.
    let head = "GET /v1/x HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\n\
                upgrade: h2c\r\nhttp2-settings: AAMAAABk";
    assert_eq!(sent(&plane, head).await.0, 200);
}

#[tokio::test]
async fn a_request_has_one_host() {
    let (_a, plane) = one().await;
    for head in [
        "GET /v1/x HTTP/1.1",
        "GET /v1/x HTTP/1.1\r\nhost: a\r\nhost: b",
        "GET /internal/status HTTP/1.1",
    ] {
        assert_eq!(
            sent(&plane, head).await,
            (400, "invalid_host".to_owned()),
            "{head}"
        );
    }
    assert_eq!(sent(&plane, "GET /v1/x HTTP/1.0").await.0, 200);
}

#[tokio::test]
async fn a_request_that_goes_in_circles_is_ended_after_four_rounds() {
    let (a, plane) = one().await;
    let before = a.count();
    let via = |value: &str| format!("GET /v1/x HTTP/1.1\r\nhost: a\r\nvia: {value}");
    for round in [
        "1.1 olla, 1.1 edge, 2.0 olla\r\nvia: 1.1 olla,1.1 OLLA",
        "1.1 olla,1.1 olla,1.1 olla,1.1 olla",
    ] {
        assert_eq!(
            sent(&plane, &via(round)).await,
            (508, "loop_detected".to_owned())
        );
    }
    assert_eq!(a.count(), before);
    assert_eq!(
        sent(&plane, &via("1.1 olla, 1.1 olla, 1.1 olla, 1.1 ollama"))
            .await
            .0,
        200
    );
}
