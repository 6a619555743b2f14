//! What goes over the wire between operator and data plane, with real sockets, TLS and HTTP/2.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

mod slots;
#[path = "../support/mod.rs"]
mod support;

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use dataplane_protocol::{
    Revision,
    sync::{
        Breaker, Health, Hello, InstanceReport, MAX_REPORT_LINE, Report, STREAM_PATH, ToDataPlane,
        ToOperator,
    },
    table::Instance,
};
use http_body_util::BodyExt as _;
use operator::routing::{
    serve::Limits,
    status::{DataPlaneReports, ObjectStatus, desired_status},
    status_cache::CachedStatus,
};
use support::{Plane, Served, instance, serve, serve_with, until};
use tokio::time::timeout;

#[tokio::test]
async fn a_data_plane_gets_the_whole_table_and_then_only_what_changed() {
    let served = serve().await;
    let first = served.publish("a", &[instance("1", "10.0.0.1")]);
    let mut plane = served.plane("a", None).await;
    let full = plane.transaction().await;
    assert_eq!(
        (full.full, full.upserts, full.revision),
        (true, 1, first.revision)
    );
    let second = served.publish("a", &[]);
    let step = plane.transaction().await;
    assert_eq!(
        (step.full, step.upserts, step.removes, step.revision),
        (false, 0, 1, second.revision)
    );
}

#[tokio::test]
async fn a_data_plane_that_holds_the_table_already_is_only_told_its_revision() {
    let served = serve().await;
    let snapshot = served.publish("a", &[instance("1", "10.0.0.1")]);
    let mut plane = served.plane("a", Some(snapshot.revision)).await;
    let told = plane.transaction().await;
    assert_eq!((told.full, told.upserts, told.removes), (false, 0, 0));
    served.publish("a", &[]);
    assert_eq!(plane.transaction().await.removes, 1);
}

/// Has a data plane of `a` refuse a table, and waits until that is known.
async fn refuse(served: &Served, plane: &mut Plane, revision: Revision) {
    let reason = "no memory".to_owned();
    plane.say(&ToOperator::Nack { revision, reason }).await;
    until("the Nack is in", || !served.view("a").refusals.is_empty()).await;
}

#[tokio::test]
async fn after_a_refusal_the_next_step_starts_from_what_the_data_plane_has() {
    let served = serve().await;
    let first = served.publish("a", &[instance("1", "10.0.0.1")]);
    let mut plane = served.plane("a", None).await;
    let revision = plane.transaction().await.revision;
    plane.say(&ToOperator::Ack { revision }).await;
    served.publish("a", &[instance("1", "10.0.0.2")]);
    let revision = plane.transaction().await.revision;
    refuse(&served, &mut plane, revision).await;
    // As it was at first: nothing is to be changed in what the data plane has.
    let third = served.publish("a", &[instance("1", "10.0.0.1")]);
    assert_eq!(third.revision, first.revision);
    let step = plane.transaction().await;
    assert_eq!((step.full, step.upserts, step.removes), (false, 0, 0));
    assert_eq!(step.revision, first.revision);
}

#[tokio::test]
async fn who_refuses_its_first_table_gets_the_next_one_whole() {
    let served = serve().await;
    let held = served.publish("a", &[instance("1", "10.0.0.1")]).revision;
    let mut plane = served.plane("a", Some(held)).await;
    let revision = plane.transaction().await.revision;
    refuse(&served, &mut plane, revision).await;
    served.publish("a", &[instance("1", "10.0.0.2")]);
    let next = plane.transaction().await;
    assert_eq!((next.full, next.upserts), (true, 1));
}

#[tokio::test]
async fn another_namespace_s_table_is_never_sent() {
    let served = serve().await;
    served.publish("a", &[]);
    let mut plane = served.plane("a", None).await;
    assert_eq!(plane.transaction().await.namespace, "a");
    served.publish("b", &[instance("1", "10.0.0.9")]);
    let newer = served.publish("a", &[instance("1", "10.0.0.1")]);
    let next = plane.transaction().await;
    assert_eq!((&*next.namespace, next.revision), ("a", newer.revision));
}

#[tokio::test]
async fn nothing_is_sent_before_the_lists_are_in_and_then_an_empty_namespace_gets_an_empty_table() {
    let served = serve().await;
    let mut plane = served.plane("nobody", None).await;
    until("it is connected", || {
        served.sessions.connected("nobody") == 1
    })
    .await;
    assert!(served.hub.current("nobody").is_none());
    served.hub.set_occupied(BTreeSet::new());
    let table = plane.transaction().await;
    assert_eq!((table.full, table.upserts), (true, 0));
}

/// A table of a megabyte and a half, more than all buffers on the way together.
fn large(turn: u32) -> Vec<Instance> {
    let host = format!("{turn}-{}", "x".repeat(1000));
    (0..1500)
        .map(|n| instance(&format!("{n:04}"), &host))
        .collect()
}

#[tokio::test]
async fn slow_readers_that_each_hold_another_table_are_ended_before_they_fill_the_memory() {
    let served = serve_with(Limits::default()).await;
    let mut planes = Vec::new();
    for turn in 0..30 {
        served.publish("a", &large(turn));
        let mut plane = served.connect("a", Some(16 << 10)).await;
        plane.hello(None).await;
        plane.line().await.unwrap();
        // It has begun to read, and goes no further.
        plane.line().await.unwrap();
        planes.push(plane);
    }
    // 32 MiB of older tables, the newest and the one before.
    until("the first are ended", || {
        served.sessions.connected("a") <= 22
    })
    .await;
    assert!(served.sessions.connected("a") > 10, "no more than needed");
    let revision = served.hub.current("a").unwrap().revision;
    let last = planes.last_mut().unwrap();
    loop {
        if let ToDataPlane::Commit { revision: got } = last.line().await.unwrap() {
            assert_eq!(got, revision);
            break;
        }
    }
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_table_and_none_in_between() {
    let served = serve().await;
    served.publish("a", &large(1));
    let mut plane = served.connect("a", Some(16 << 10)).await;
    plane.hello(None).await;
    assert!(matches!(
        plane.line().await,
        Some(ToDataPlane::Welcome { .. })
    ));
    assert!(matches!(
        plane.line().await,
        Some(ToDataPlane::Begin { full: true, .. })
    ));
    for turn in 2..=20 {
        let mut instances = large(1);
        instances.push(instance("another", &format!("10.0.0.{turn}")));
        served.publish("a", &instances);
    }
    while !matches!(plane.line().await, Some(ToDataPlane::Commit { .. })) {}
    let next = plane.transaction().await;
    let newest = served.hub.current("a").unwrap();
    assert_eq!((next.revision, next.full), (newest.revision, false));
    assert_eq!(next.upserts, 1);
}

#[tokio::test]
async fn who_cannot_prove_a_namespace_is_told_why_and_gets_nothing() {
    let served = serve().await;
    for (path, token, status, reason) in [
        (STREAM_PATH, None, 401, "unauthenticated"),
        (STREAM_PATH, Some("other-audience"), 401, "unauthenticated"),
        (STREAM_PATH, Some("person"), 403, "no_service_account"),
        (
            STREAM_PATH,
            Some("api-server-away"),
            503,
            "token_not_checked",
        ),
        ("/v1/other", Some("a"), 404, "not_found"),
    ] {
        let (response, _tx) = served.request(path, token, None).await;
        assert_eq!(response.status(), status, "{reason}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["reason"], reason);
    }
}

#[tokio::test]
async fn a_namespace_s_streams_are_limited() {
    let served = serve().await;
    served.publish("a", &[]);
    let mut planes = vec![served.plane("a", None).await, served.plane("a", None).await];
    for plane in &mut planes {
        plane.transaction().await;
    }
    let (response, _tx) = served.request(STREAM_PATH, Some("a"), None).await;
    assert_eq!(response.status(), 503);
    served.publish("b", &[]);
    served.plane("b", None).await.transaction().await;
}

#[tokio::test]
async fn a_release_too_far_away_is_refused_with_what_to_do() {
    let served = serve().await;
    let mut plane = served.connect("a", None).await;
    plane
        .say(&ToOperator::Hello(Hello {
            formats: vec![98, 99],
            data_plane: "gateway-0".into(),
            version: "9.9.9".into(),
            revision: None,
        }))
        .await;
    let Some(ToDataPlane::Refused { reason }) = plane.line().await else {
        panic!("not refused");
    };
    assert!(reason.contains("99"), "{reason}");
    assert_eq!(plane.line().await, None);
}

#[tokio::test]
async fn a_line_that_is_too_long_closes_the_stream() {
    let served = serve().await;
    served.publish("a", &[]);
    let mut plane = served.plane("a", None).await;
    plane.transaction().await;
    let chunk = Bytes::from(vec![b'x'; 64 << 10]);
    for _ in 0..=(MAX_REPORT_LINE / chunk.len()) {
        if plane.tx.send_data(chunk.clone()).await.is_err() {
            break;
        }
    }
    assert_eq!(plane.line().await, None);
    until("it is out of the count", || {
        served.sessions.connected("a") == 0
    })
    .await;
}

#[tokio::test]
async fn a_refused_table_is_told_in_the_route_s_status_and_an_ack_clears_it() {
    let served = serve().await;
    let snapshot = served.publish("a", &[instance("1", "10.0.0.1")]);
    let mut plane = served.plane("a", None).await;
    let revision = plane.transaction().await.revision;
    let programmed = || {
        let view = served.view("a");
        let said = DataPlaneReports {
            view: &view,
            seen: &std::collections::BTreeMap::new(),
            number: snapshot.route_numbers["r"],
            settled: true,
        };
        let before = ObjectStatus::default();
        let verdict = snapshot.verdicts.values().next().unwrap();
        let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
        let status = desired_status(verdict, said, &before, now).unwrap();
        let condition = status.condition("Programmed").unwrap();
        format!("{}: {}", condition.reason, condition.message)
    };
    let reason = "no memory".to_owned();
    plane.say(&ToOperator::Nack { revision, reason }).await;
    until("the Nack is in", || {
        programmed() == "Refused: data plane gateway-0 rejected the routing table and keeps serving the previous one: no memory"
    })
    .await;
    served.publish("a", &[instance("1", "10.0.0.2")]);
    let revision = plane.transaction().await.revision;
    plane.say(&ToOperator::Ack { revision }).await;
    until("the Ack is in", || {
        programmed() == "Programmed: in use by all connected data planes"
    })
    .await;
}

#[tokio::test]
async fn a_breaker_that_opens_becomes_an_event_on_its_endpoint() {
    let mut served = serve().await;
    served.publish("a", &[instance("pod-1", "10.0.0.1")]);
    let entry = CachedStatus {
        uid: "uid-1".into(),
        status: ObjectStatus::default(),
    };
    served
        .status_cache
        .observe("a", compile::Kind::LlmEndpoint, "e", entry);
    let mut plane = served.plane("a", None).await;
    plane.transaction().await;
    for breaker in [Breaker::Closed, Breaker::Open, Breaker::Closed] {
        let report = Report {
            instances: vec![InstanceReport {
                endpoint: "e".into(),
                instance: "e/pod-1".into(),
                health: Health::Healthy,
                breaker,
                reason: String::new(),
            }],
        };
        plane.say(&ToOperator::Report(report)).await;
    }
    let opened = served.happenings.recv().await.unwrap();
    assert_eq!((&*opened.reason, &*opened.uid), ("BreakerOpened", "uid-1"));
    assert_eq!(opened.pod.as_deref(), Some("pod-1"));
    let closed = served.happenings.recv().await.unwrap();
    assert_eq!(closed.reason, "BreakerClosed");
}

#[tokio::test]
async fn who_has_not_said_hello_gets_no_room_for_a_long_line() {
    let served = serve().await;
    served.publish("a", &[]);
    let long = vec![b' '; 17 << 10];
    let mut stranger = served.connect("a", None).await;
    stranger.tx.send_data(long.clone().into()).await.unwrap();
    // Long before it had to say hello.
    let ended = timeout(Duration::from_secs(5), stranger.line()).await;
    assert_eq!(ended.unwrap(), None);
    let mut plane = served.plane("a", None).await;
    let revision = plane.transaction().await.revision;
    plane.tx.send_data(long.into()).await.unwrap();
    plane.say(&ToOperator::Ack { revision }).await;
    until("its Ack is in", || served.view("a").acked == [1]).await;
}

#[tokio::test]
async fn a_stopping_operator_ends_its_streams_cleanly() {
    let served = serve().await;
    served.publish("a", &[]);
    let mut plane = served.plane("a", None).await;
    plane.transaction().await;
    served.stop.cancel();
    assert_eq!(plane.line().await, None);
    served.task.await.unwrap();
    assert_eq!(served.sessions.connected("a"), 0);
}

#[tokio::test]
async fn an_answer_to_what_was_not_sent_counts_for_nothing() {
    let served = serve().await;
    served.publish("a", &[instance("1", "10.0.0.1")]);
    let mut plane = served.plane("a", None).await;
    let sent = plane.transaction().await.revision;
    let revision = Revision(u128::MAX);
    plane.say(&ToOperator::Ack { revision }).await;
    let reason = "made up".to_owned();
    plane.say(&ToOperator::Nack { revision, reason }).await;
    plane.say(&ToOperator::Ack { revision: sent }).await;
    until("its Ack is in", || served.view("a").connected == 1).await;
    let view = served.view("a");
    assert!(view.refusals.is_empty());
    // What it holds was in doubt, so the next one comes whole.
    served.publish("a", &[instance("1", "10.0.0.2")]);
    assert!(plane.transaction().await.full);
}

#[tokio::test]
async fn a_line_without_an_end_ends_the_stream() {
    let served = serve_with(Limits {
        line: Duration::from_millis(200),
        ..Limits::default()
    })
    .await;
    served.publish("a", &[]);
    let mut plane = served.plane("a", None).await;
    plane.transaction().await;
    plane.tx.send_data("{\"report\":".into()).await.unwrap();
    assert_eq!(plane.line().await, None);
}

#[tokio::test]
async fn a_stream_ends_in_time_and_the_next_one_goes_on_from_where_it_was() {
    let served = serve_with(Limits {
        lifetime: Duration::from_millis(500),
        ..Limits::default()
    })
    .await;
    let snapshot = served.publish("a", &[instance("1", "10.0.0.1")]);
    let mut plane = served.plane("a", None).await;
    let revision = plane.transaction().await.revision;
    plane.say(&ToOperator::Ack { revision }).await;
    assert_eq!(plane.line().await, None, "a clean end");
    until("it takes no place", || served.sessions.connected("a") == 0).await;
    let view = served.view("a");
    assert_eq!((view.connected, view.acked), (1, vec![1]));
    let mut plane = served.plane("a", Some(snapshot.revision)).await;
    let told = plane.transaction().await;
    assert_eq!(
        (told.full, told.upserts, told.revision),
        (false, 0, revision)
    );
    let view = served.view("a");
    assert_eq!((view.connected, view.acked), (1, vec![1]));
}
