//! The admin listener, and what it tells whom.

use std::{net::SocketAddr, time::Duration};

use dataplane::config::Settings;
use tokio::{io::AsyncWriteExt as _, net::TcpSocket, time::timeout};

use crate::support::{
    backend::Backend,
    client::Client,
    plane::{Plane, Yaml, text},
    wait_for,
};

fn with_admin_listener() -> Settings {
    Settings {
        admin: Some(([127, 0, 0, 1], 0).into()),
        ..Plane::settings()
    }
}

/// With an admin listener, the clients' port says no more than that it is alive and ready.
#[tokio::test]
async fn what_is_for_operators_is_told_at_the_admin_listener() {
    let a = Backend::start("a", &["m"]).await;
    let yaml = Yaml::tiers(&[("a", &a)]).text();
    let plane = Plane::at_once(with_admin_listener(), text(&yaml)).await;
    let mut client = Client::connect(plane.running.admin.unwrap()).await;
    wait_for("it is ready", async || {
        plane.get("/internal/ready").await.status == 200
    })
    .await;
    for (path, status) in [
        ("/internal/health", 200),
        ("/version", 200),
        ("/internal/status", 404),
        ("/internal/status/endpoints", 404),
        ("/internal/metrics", 404),
        ("/internal/explain?model=m", 404),
        ("/internal/%73tatus", 404),
    ] {
        assert_eq!(plane.get(path).await.status, status, "{path}");
        let path = path.replace("%73", "s");
        let answer = client.request("GET", &path, &[], b"").await;
        assert_eq!(answer.status, 200, "{path} at the admin listener");
    }
    let status = client.request("GET", "/internal/status", &[], b"").await;
    assert!(status.text().contains(&a.addr.to_string()));
}

#[cfg(target_os = "linux")] // where any address of 127.0.0.0/8 is this machine's
#[tokio::test]
async fn readers_that_take_nothing_leave_room_for_others() {
    let a = Backend::start("a", &["m"]).await;
    let yaml = Yaml::tiers(&[("a", &a)]).text();
    let plane = Plane::at_once(with_admin_listener(), text(&yaml)).await;
    let admin = plane.running.admin.unwrap();
    let mut deaf = Vec::new();
    // Ten of each of ten clients.
    for n in 0..100 {
        let socket = TcpSocket::new_v4().unwrap();
        let from = [127, 0, 0, 2 + n % 10];
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        let mut stream = socket.connect(admin).await.unwrap();
        let ask = "GET /internal/metrics HTTP/1.1\r\nhost: a\r\n\r\n".repeat(50);
        // Those over the bound are closed at once.
        let _ = stream.write_all(ask.as_bytes()).await;
        deaf.push(stream);
    }
    let mut client = Client::connect(admin).await;
    let answer = client.request("GET", "/internal/health", &[], b"");
    // Not only when the first of them are given up: there are always new ones.
    let answer = timeout(Duration::from_secs(5), answer).await.unwrap();
    assert_eq!(answer.status, 200);
}
