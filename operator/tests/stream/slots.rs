//! Which connections the data planes' port keeps, with real sockets, TLS and HTTP/2.

use std::time::Duration;

use dataplane_protocol::sync::STREAM_PATH;
use operator::routing::serve::Limits;
use serving::slots::SlotLimits;
use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::support::{connect_over, ended, instance, request_over, serve_with, until};

fn impatient() -> Limits {
    Limits {
        idle: Duration::from_millis(500),
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_connection_that_proves_nothing_loses_its_place_and_one_that_does_keeps_it() {
    let served = serve_with(impatient()).await;
    served.publish("a", &[]);
    let (mut good, _good_connection) = served.dial(None).await;
    let mut plane = connect_over(&mut good, "a").await;
    plane.hello(None).await;
    plane.transaction().await;
    // Only answers pings.
    let (_silent, connection) = served.dial(None).await;
    ended(connection).await;
    let (mut stranger, connection) = served.dial(None).await;
    let token = Some("other-audience");
    let (response, _tx) = request_over(&mut stranger, STREAM_PATH, token).await;
    assert_eq!(response.status(), 401);
    ended(connection).await;
    let newer = served.publish("a", &[instance("1", "10.0.0.1")]);
    assert_eq!(plane.transaction().await.revision, newer.revision);
}

#[tokio::test]
async fn silent_connections_of_many_clients_keep_no_data_plane_out() {
    let served = serve_with(Limits {
        connections: SlotLimits {
            total: 9,
            unauthenticated: 4,
            per_address: 4,
            unauthenticated_per_address: 2,
        },
        ..Limits::default()
    })
    .await;
    served.publish("a", &[]);
    let mut silent = Vec::new();
    for n in 0..4 {
        silent.push(served.tcp_from(2 + n % 2).await);
    }
    let mut plane = served.plane("a", None).await;
    plane.transaction().await;
    let end = timeout(Duration::from_secs(5), silent[0].read(&mut [0])).await;
    assert_eq!(end.unwrap().unwrap_or(0), 0, "the oldest makes room");
    // One that has authenticated stays, whoever comes.
    for n in 4..20 {
        silent.push(served.tcp_from(n).await);
    }
    let newer = served.publish("a", &[instance("1", "10.0.0.1")]);
    assert_eq!(plane.transaction().await.revision, newer.revision);
}

#[tokio::test]
async fn a_good_token_alone_keeps_no_data_plane_out() {
    let served = serve_with(Limits {
        connections: SlotLimits {
            total: 4,
            unauthenticated: 4,
            per_address: 4,
            unauthenticated_per_address: 4,
        },
        ..Limits::default()
    })
    .await;
    served.publish("a", &[]);
    // A conversation that has begun keeps its slot, one that has ended does not.
    let mut plane = served.plane("a", None).await;
    plane.transaction().await;
    let (mut sender, ended_one) = served.dial(None).await;
    let mut last = connect_over(&mut sender, "a").await;
    last.hello(None).await;
    last.transaction().await;
    drop(last);
    until("it has ended", || served.sessions.connected("a") == 1).await;
    let mut silent = vec![(sender, ended_one)];
    for _ in 0..2 {
        let (mut sender, connection) = served.dial(None).await;
        let without_hello = connect_over(&mut sender, "a").await;
        std::mem::forget(without_hello);
        silent.push((sender, connection));
    }
    let newcomers = [served.tcp_from(9).await, served.tcp_from(10).await];
    for (_, connection) in silent.drain(..2) {
        ended(connection).await;
    }
    let newer = served.publish("a", &[instance("1", "10.0.0.1")]);
    assert_eq!(plane.transaction().await.revision, newer.revision);
    drop(newcomers);
}

#[tokio::test]
async fn a_connection_whose_last_stream_ended_is_closed_soon() {
    let served = serve_with(impatient()).await;
    served.publish("a", &[]);
    let (mut sender, connection) = served.dial(None).await;
    let mut plane = connect_over(&mut sender, "a").await;
    plane.hello(None).await;
    plane.transaction().await;
    drop(plane);
    ended(connection).await;
    assert_eq!(served.sessions.connected("a"), 0);
}
