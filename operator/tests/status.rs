//! Which statuses are written, and when: the API server is played by the test, the clock stands
//! still unless everybody waits.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use compile::{Kind, Verdict, Verdicts};
use dataplane_protocol::resource::ResourceSet;
use http_body_util::BodyExt as _;
use hyper::{Request, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::{Client, client::Body};
use operator::{
    events::{Events, ObjectEvent},
    metrics::Metrics,
    routing::{
        hub::Hub,
        sessions::{Session, Sessions},
        snapshot::{Content, Snapshot},
        status::ObjectStatus,
        status_cache::{CachedStatus, StatusCache},
        writer::{StatusPatcher, Writer},
    },
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tower_test::mock;

struct World {
    hub: Arc<Hub>,
    status_cache: Arc<StatusCache>,
    sessions: Arc<Sessions>,
    /// Path and body of each patch.
    patches: Arc<Mutex<Vec<(String, Value)>>>,
    /// Code that patches are refused with; 0 takes them.
    refusing: Arc<AtomicU16>,
    /// How long the API server takes for an answer, milliseconds.
    slow: Arc<AtomicU64>,
    /// Most patches that it had before it at a time.
    most: Arc<AtomicUsize>,
    happenings: mpsc::Receiver<ObjectEvent>,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    fn start(settle: Duration) -> Self {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let patches = Arc::new(Mutex::new(Vec::new()));
        let log = patches.clone();
        let refusing = Arc::<AtomicU16>::default();
        let code = refusing.clone();
        let (slow, most) = (Arc::<AtomicU64>::default(), Arc::<AtomicUsize>::default());
        let (delay, seen) = (slow.clone(), most.clone());
        tokio::spawn(async move {
            let now = Arc::<AtomicUsize>::default();
            while let Some((request, answer)) = handle.next_request().await {
                let path = request.uri().to_string();
                if path.contains("/namespaces/hanging") {
                    // Not dropped, which would be an answer.
                    tokio::spawn(async move {
                        std::future::pending::<()>().await;
                        drop(answer);
                    });
                    continue;
                }
                let apply = request.headers()["content-type"] == "application/apply-patch+yaml";
                let body = request.into_body().collect().await.unwrap().to_bytes();
                log.lock()
                    .unwrap()
                    .push((path, serde_json::from_slice(&body).unwrap()));
                let response = match code.load(Ordering::Relaxed) {
                    0 => Response::new(Body::from(body.to_vec())),
                    // An object that the schema has no place for.
                    500 if !apply => Response::new(Body::from(body.to_vec())),
                    code => refusal(code),
                };
                match delay.load(Ordering::Relaxed) {
                    0 => answer.send_response(response),
                    delay => {
                        let now = now.clone();
                        let under_way = now.fetch_add(1, Ordering::Relaxed) + 1;
                        seen.fetch_max(under_way, Ordering::Relaxed);
                        tokio::spawn(async move {
                            pass(delay).await;
                            now.fetch_sub(1, Ordering::Relaxed);
                            answer.send_response(response);
                        });
                    }
                }
            }
        });
        let (hub, status_cache) = (Arc::<Hub>::default(), Arc::<StatusCache>::default());
        let sessions = Arc::<Sessions>::default();
        let stop = CancellationToken::new();
        let metrics = Arc::<Metrics>::default();
        let (events, happenings) = Events::channel(metrics.clone());
        let writer = Writer {
            patcher: StatusPatcher::by_client(Client::new(service, "default")),
            hub: hub.clone(),
            sessions: sessions.clone(),
            status_cache: status_cache.clone(),
            events,
            metrics,
            settle,
        };
        tokio::spawn(writer.run(stop.clone()));
        Self {
            hub,
            status_cache,
            sessions,
            patches,
            refusing,
            slow,
            most,
            happenings,
            stop,
        }
    }

    /// Route `r` at this generation, as its watch shows it and as its table is published.
    fn route(&self, generation: i64, status: ObjectStatus) {
        self.route_of("u", generation, status);
    }

    fn route_of(&self, uid: &str, generation: i64, status: ObjectStatus) {
        self.route_in("a", uid, generation, status);
    }

    fn route_in(&self, namespace: &str, uid: &str, generation: i64, status: ObjectStatus) {
        let uid = uid.to_owned();
        let entry = CachedStatus { uid, status };
        self.status_cache
            .observe(namespace, Kind::OllaRoute, "r", entry);
        let metadata = ObjectMeta {
            generation: Some(generation),
            ..ObjectMeta::default()
        };
        let verdict = Verdict::good(Kind::OllaRoute, "r", &metadata);
        let mut verdicts = Verdicts::default();
        verdicts.insert_mut((verdict.kind, verdict.name.clone()), verdict);
        let before = self.hub.current(namespace);
        let content = Content::after(before.as_deref(), ResourceSet::default(), verdicts);
        // Another object may have the same spec.
        if let Some(next) = Snapshot::next(before.as_deref(), namespace, content) {
            self.hub.publish(next);
        }
        self.status_cache.mark_all_dirty(namespace);
    }

    fn data_plane(&self, name: &str) -> Session {
        let session = self.sessions.open("a", name, 99, Instant::now()).unwrap();
        session.ack(1, Instant::now());
        self.status_cache.mark_all_dirty("a");
        session
    }

    fn count(&self) -> usize {
        self.patches.lock().unwrap().len()
    }

    /// Reasons of the Events since the last look.
    fn events(&mut self) -> Vec<String> {
        let next = std::iter::from_fn(|| self.happenings.try_recv().ok());
        next.map(|happening| happening.reason).collect()
    }

    /// As a data plane's reports do, over this many seconds.
    async fn reports(&self, seconds: u64) {
        for _ in 0..seconds {
            self.status_cache.mark_all_dirty("a");
            pass(1000).await;
        }
    }

    fn last(&self) -> (String, Value) {
        self.patches.lock().unwrap().last().unwrap().clone()
    }

    fn programmed(&self) -> String {
        let conditions = self.last().1["status"]["conditions"].clone();
        let list = conditions.as_array().unwrap();
        let programmed = list.iter().find(|c| c["type"] == "Programmed").unwrap();
        programmed["message"].as_str().unwrap().to_owned()
    }
}

fn refusal(code: u16) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": "not typed", "reason": "Refused",
    });
    let mut response = Response::new(Body::from(status.to_string().into_bytes()));
    *response.status_mut() = code.try_into().unwrap();
    response
}

async fn pass(millis: u64) {
    sleep(Duration::from_millis(millis)).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_and_its_ack_are_one_write_by_server_side_apply() {
    let world = World::start(Duration::ZERO);
    let _plane = world.data_plane("one");
    world.route(1, ObjectStatus::default());
    pass(1000).await;
    assert_eq!(world.count(), 1);
    let (path, body) = world.last();
    assert!(
        path.starts_with("/apis/olla.dev/v1alpha1/namespaces/a/ollaroutes/r/status?"),
        "{path}"
    );
    assert!(path.contains("fieldManager=olla-operator") && path.contains("force=true"));
    assert_eq!(body["status"]["observedGeneration"], 1);
    assert_eq!(world.programmed(), "in use by all connected data planes");
}

#[tokio::test(start_paused = true)]
async fn the_echo_of_our_own_write_is_not_answered() {
    let world = World::start(Duration::ZERO);
    world.route(1, ObjectStatus::default());
    pass(1000).await;
    let written: ObjectStatus = serde_json::from_value(world.last().1["status"].clone()).unwrap();
    let uid = "u".to_owned();
    let status = written;
    let echo = CachedStatus { uid, status };
    world.status_cache.observe("a", Kind::OllaRoute, "r", echo);
    world.status_cache.mark_all_dirty("a");
    pass(5000).await;
    assert_eq!(world.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_somebody_else_changed_is_put_right() {
    let world = World::start(Duration::ZERO);
    world.route(1, ObjectStatus::default());
    pass(1000).await;
    let uid = "u".to_owned();
    let status = ObjectStatus::default();
    let changed = CachedStatus { uid, status };
    world
        .status_cache
        .observe("a", Kind::OllaRoute, "r", changed);
    pass(3000).await;
    assert_eq!(world.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn conditions_of_others_outlive_two_merges_in_a_row() {
    let world = World::start(Duration::ZERO);
    world.refusing.store(500, Ordering::Relaxed);
    let foreign: Condition = serde_json::from_value(json!({
        "type": "Audited", "status": "True", "reason": "Audited", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    let status = ObjectStatus {
        conditions: vec![foreign],
        ..ObjectStatus::default()
    };
    world.route(1, status);
    pass(1000).await;
    let before = world.count();
    let _plane = world.data_plane("one");
    pass(3000).await;
    assert!(world.count() > before, "written twice");
    let conditions = world.last().1["status"]["conditions"].clone();
    let conditions = conditions.as_array().unwrap();
    assert!(conditions.iter().any(|it| it["type"] == "Audited"));
}

#[tokio::test(start_paused = true)]
async fn data_planes_that_come_one_by_one_do_not_cause_a_write_each() {
    let world = World::start(Duration::ZERO);
    let mut planes = vec![world.data_plane("0")];
    world.route(1, ObjectStatus::default());
    for n in 1..20 {
        pass(250).await;
        planes.push(world.data_plane(&n.to_string()));
    }
    pass(3000).await;
    assert_eq!(world.programmed(), "in use by all connected data planes");
    assert!(world.count() <= 5, "{} writes", world.count());
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_not_seen_in_a_status_unless_data_planes_stay_away() {
    let world = World::start(Duration::from_secs(15));
    let plane = world.data_plane("one");
    world.route(1, ObjectStatus::default());
    pass(1000).await;
    let before = serde_json::from_value(world.last().1["status"].clone()).unwrap();
    drop(plane);

    let restarted = World::start(Duration::from_secs(15));
    restarted.route(1, before);
    pass(14_000).await;
    assert_eq!(restarted.count(), 0);
    pass(2000).await;
    assert_eq!(restarted.programmed(), "no data plane is connected");
    // And one that comes back is told at once, not at the end of some wait.
    let _plane = restarted.data_plane("one");
    pass(500).await;
    assert_eq!(
        restarted.programmed(),
        "in use by all connected data planes"
    );
}

#[tokio::test(start_paused = true)]
async fn a_data_plane_that_connects_while_others_are_awaited_is_told_at_once() {
    let world = World::start(Duration::from_secs(15));
    world.route(1, ObjectStatus::default());
    pass(1000).await;
    assert_eq!(world.programmed(), "no data plane is connected");
    let _plane = world.data_plane("one");
    pass(500).await;
    assert_eq!(world.programmed(), "in use by all connected data planes");
}

#[tokio::test(start_paused = true)]
async fn a_refused_status_is_not_offered_again_on_each_report() {
    for (code, patience) in [(404, 60), (422, 600)] {
        let mut world = World::start(Duration::ZERO);
        world.refusing.store(code, Ordering::Relaxed);
        world.route(1, ObjectStatus::default());
        world.reports(patience).await;
        assert_eq!(world.count(), 1, "{code}");
        // Of an object that is not there, nobody is told anything.
        let told: &[&str] = if code == 404 { &[] } else { &["Accepted"] };
        assert_eq!(world.events(), told, "{code}");
        // It may be permitted by now.
        world.reports(10).await;
        assert_eq!((world.count(), world.events().len()), (2, 0), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_permission_that_comes_a_moment_later_is_used_soon() {
    let mut world = World::start(Duration::ZERO);
    world.refusing.store(403, Ordering::Relaxed);
    world.route(1, ObjectStatus::default());
    world.reports(2).await;
    world.refusing.store(0, Ordering::Relaxed);
    world.reports(2).await;
    assert_eq!(world.count(), 2);
    assert_eq!(world.events(), ["Accepted"], "told once");
    // One that does not come is not asked for on each report.
    world.refusing.store(403, Ordering::Relaxed);
    world.route(2, ObjectStatus::default());
    world.reports(600).await;
    let tries = world.count() - 2;
    assert!((10..=16).contains(&tries), "{tries} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_a_change_of_object_generation_or_status_is_offered_at_once() {
    let mut world = World::start(Duration::ZERO);
    world.refusing.store(422, Ordering::Relaxed);
    world.route(1, ObjectStatus::default());
    world.reports(5).await;
    world.route(2, ObjectStatus::default());
    world.reports(5).await;
    assert_eq!(world.count(), 2, "the generation");
    let plane = world.data_plane("one");
    plane.ack(2, Instant::now());
    world.reports(5).await;
    assert_eq!(world.count(), 3, "the status");
    assert_eq!(world.events(), ["Accepted"], "told once for all of them");
    world.route_of("another", 2, ObjectStatus::default());
    world.reports(5).await;
    assert_eq!(world.count(), 4, "the object");
    assert_eq!(world.events(), ["Accepted"], "told of another object");
    world.refusing.store(0, Ordering::Relaxed);
    world.route_of("another", 3, ObjectStatus::default());
    world.reports(5).await;
    assert_eq!(world.count(), 5);
    assert_eq!(world.events(), [""; 0], "told when it was refused");
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_a_change_is_told_once_when_it_is_written() {
    let mut world = World::start(Duration::ZERO);
    world.refusing.store(503, Ordering::Relaxed);
    world.route(1, ObjectStatus::default());
    pass(30_000).await;
    assert!(world.count() >= 10, "{} tries", world.count());
    assert_eq!(world.events(), [""; 0]);
    world.refusing.store(0, Ordering::Relaxed);
    pass(3000).await;
    assert_eq!(world.events(), ["Accepted"]);
}

#[tokio::test(start_paused = true)]
async fn a_data_plane_that_joins_turns_no_route_to_pending() {
    let world = World::start(Duration::ZERO);
    let _one = world.data_plane("one");
    world.route(1, ObjectStatus::default());
    pass(3000).await;
    let two = world.sessions.open("a", "two", 99, Instant::now()).unwrap();
    world.status_cache.mark_all_dirty("a");
    pass(5000).await;
    assert_eq!(world.count(), 1);
    pass(6000).await;
    assert_eq!(world.programmed(), "in use by 1 of 2 connected data planes");
    two.ack(1, Instant::now());
    world.status_cache.mark_all_dirty("a");
    pass(3000).await;
    assert_eq!(world.programmed(), "in use by all connected data planes");
}

#[tokio::test(start_paused = true)]
async fn many_namespaces_at_once_do_not_flood_the_api_server() {
    let world = World::start(Duration::ZERO);
    world.slow.store(100, Ordering::Relaxed);
    for n in 0..200 {
        world.route_in(&format!("n{n}"), "u", 1, ObjectStatus::default());
    }
    pass(5000).await;
    assert_eq!(world.count(), 200);
    assert_eq!(world.most.load(Ordering::Relaxed), 32);
}

#[tokio::test(start_paused = true)]
async fn namespaces_whose_patches_hang_do_not_hold_up_the_others() {
    let world = World::start(Duration::ZERO);
    for n in 0..100 {
        world.route_in(&format!("hanging-{n}"), "u", 1, ObjectStatus::default());
    }
    // Until each is known to hang.
    pass(60_000).await;
    for generation in 1..=30 {
        world.route(generation, ObjectStatus::default());
        pass(3000).await;
        assert_eq!(world.count(), generation as usize);
    }
}
