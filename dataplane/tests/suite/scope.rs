//! Which endpoints a request may go to for what it asks.

use crate::support::{
    backend::Backend,
    plane::{Yaml, chat},
    reply::Reply,
};

const AUTH: &str = "auth: { bearer: { valueFrom: { secretKeyRef: { name: keys, key: token } } } }";

#[tokio::test]
async fn what_a_credential_is_not_for_goes_to_the_endpoints_without_one() {
    let (guarded, open) = (
        Backend::start("guarded", &["m"]).await,
        Backend::start("open", &["m"]).await,
    );
    let plane = Yaml::default()
        .secret("keys", "token", "sk-1")
        .endpoint("guarded", &guarded.url(), &[AUTH])
        .endpoint("open", &open.url(), &[])
        .start()
        .await;
    for _ in 0..20 {
        let answer = plane.get("/olla/proxy/v1/files").await;
        assert_eq!((answer.status, answer.endpoint()), (200, "open"));
    }
    open.answer(Reply::status(503));
    let refused = plane.get("/olla/proxy/v1/files").await;
    assert_eq!(refused.status, 503, "its own answer, and no 403 of ours");
    assert_eq!(guarded.count(), 0);
    let chats = [plane.chat("m").await, plane.chat("m").await];
    assert!(chats.iter().any(|chat| chat.endpoint() == "guarded"));
}

#[tokio::test]
async fn a_store_is_changed_by_no_path_below_an_endpoints_own() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::default()
        .endpoint("a", &format!("{}/api", a.url()), &["type: ollama"])
        .start()
        .await;
    for (method, target) in [
        ("DELETE", "/olla/proxy/delete"),
        ("POST", "/olla/ollama/pull"),
        ("POST", "/olla/proxy/%70ush"),
        ("POST", "/olla/proxy/blobs/sha256:1"),
    ] {
        let answer = plane.request(method, target, &[], b"{}").await;
        // The backend itself would say 200.
        assert_eq!(answer.status, 501, "{target}");
        assert_eq!(
            answer.header("x-olla-routing-reason"),
            Some("not_implemented")
        );
    }
    let answer = plane.post("/olla/proxy/chat", &chat("m")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_path_over_8_kib_is_refused_before_anybody_is_asked() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    let long = |length: usize| format!("/olla/proxy/{}", "a".repeat(length));
    let answer = plane.get(&long(9000)).await;
    assert_eq!(answer.status, 414);
    assert_eq!(answer.json()["error"]["code"], "path_too_long");
    assert_eq!(a.count(), 0);
    assert_eq!(plane.get(&long(8000)).await.status, 200);
}

#[tokio::test]
async fn what_a_path_asks_for_is_judged_with_the_path_of_the_endpoints_url() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::default()
        .secret("keys", "token", "sk-1")
        .endpoint("a", &format!("{}/key", a.url()), &[AUTH])
        .start()
        .await;
    let answer = plane.post("/olla/proxy/generate", &chat("m")).await;
    assert_eq!(answer.status, 403, "it would make a key");
    assert_eq!(a.count(), 0);
    let explained = plane
        .get("/internal/explain?path=/olla/proxy/generate&model=m")
        .await;
    assert_eq!(explained.json()["refusal"], "administration_path");
    assert_eq!(plane.chat("m").await.status, 200);
}
