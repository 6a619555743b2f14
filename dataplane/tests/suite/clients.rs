//! One client that takes all it can get, and the others.
#![cfg(target_os = "linux")] // where any address of 127.0.0.0/8 is this machine's

use dataplane::config::Settings;

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml, chat},
    wait_for,
};

#[tokio::test]
async fn a_client_with_all_the_connections_it_may_have_is_refused_more_and_others_are_served() {
    let a = Backend::start("a", &["m"]).await;
    let settings = Settings {
        client_connections: 3,
        ..Plane::settings()
    };
    let plane = Plane::with(settings, &Yaml::tiers(&[("a", &a)]).text()).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = plane.stranger().await;
        assert_eq!(
            client.request("GET", "/v1/models", &[], b"").await.status,
            200
        );
        held.push(client);
    }
    assert!(plane.stranger().await.is_closed().await);
    assert_eq!(plane.chat("m").await.status, 200);
    assert_eq!(
        plane.metric("olla_refused_connections_total", &[]).await,
        1.0
    );
    // Those that it has still work, and one that ends makes room for another.
    let again = held[0].request("GET", "/v1/models", &[], b"").await;
    assert_eq!(again.status, 200);
    held.pop();
    wait_for("there is room again", async || {
        let mut client = plane.stranger().await;
        client.send("GET", "/v1/models", &[], b"").await;
        client
            .head()
            .await
            .is_some_and(|answer| answer.status == 200)
    })
    .await;
}

#[tokio::test]
async fn one_clients_unfinished_uploads_take_nothing_from_the_failover_of_others() {
    let (a, b) = (
        Backend::start("a", &["m"]).await,
        Backend::start("b", &["m"]).await,
    );
    let settings = Settings {
        replay_total_bytes: 4000,
        replay_client_bytes: 1000,
        ..Plane::settings()
    };
    let yaml = Yaml::tiers(&[("a", &a), ("b", &b)]);
    let plane = Plane::with(settings, &yaml.text()).await;
    let mut uploads = Vec::new();
    for _ in 0..8 {
        let mut client = plane.stranger().await;
        client
            .send("POST", "/v1/x", &[("content-length", "100000")], b"")
            .await;
        client.write(vec![b'x'; 900]).await;
        uploads.push(client);
    }
    let kept = async || plane.metric("olla_kept_bodies_bytes", &[]).await >= 900.0;
    wait_for("the first is kept", kept).await;
    let unkept = async || plane.metric("olla_unkept_bodies_total", &[]).await == 7.0;
    wait_for("the others are not", unkept).await;
    a.answer(crate::support::reply::Reply::default().close());
    let answer = plane.post("/v1/chat/completions", &chat("m")).await;
    assert_eq!((answer.status, answer.endpoint()), (200, "b"));
}
