//! Which statuses are written, and when: the API server is played by the test, the clock stands
//! still unless everybody waits.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use compile::{Compiled, Kind, Verdict};
use dataplane_protocol::{Revision, RoutingTable};
use http_body_util::BodyExt as _;
use hyper::{Request, Response};
use kube::{Client, client::Body};
use operator::{
    events::Events,
    metrics::Metrics,
    routing::{
        ledger::{Entry, Ledger},
        publish::{Hub, Snapshot},
        sessions::{Session, Sessions},
        status::ObjectStatus,
        writer::{Writer, Writes},
    },
};
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower_test::mock;

struct World {
    hub: Arc<Hub>,
    ledger: Arc<Ledger>,
    sessions: Arc<Sessions>,
    /// Path and body of each patch.
    patches: Arc<Mutex<Vec<(String, Value)>>>,
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
        tokio::spawn(async move {
            while let Some((request, answer)) = handle.next_request().await {
                let path = request.uri().to_string();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                log.lock()
                    .unwrap()
                    .push((path, serde_json::from_slice(&body).unwrap()));
                answer.send_response(Response::new(Body::from(body.to_vec())));
            }
        });
        let (hub, ledger) = (Arc::<Hub>::default(), Arc::<Ledger>::default());
        let sessions = Arc::<Sessions>::default();
        let stop = CancellationToken::new();
        let writer = Writer {
            writes: Writes::by_client(Client::new(service, "default")),
            hub: hub.clone(),
            sessions: sessions.clone(),
            ledger: ledger.clone(),
            events: Events::channel().0,
            metrics: Arc::<Metrics>::default(),
            settle,
        };
        tokio::spawn(writer.run(stop.clone()));
        Self {
            hub,
            ledger,
            sessions,
            patches,
            stop,
        }
    }

    /// Route `r` at this generation, as its watch shows it and as its table is published.
    fn route(&self, generation: i64, status: ObjectStatus) {
        let uid = "u".to_owned();
        let entry = Entry { uid, status };
        self.ledger.saw("a", Kind::OllaRoute, "r", entry);
        let compiled = Compiled {
            table: RoutingTable {
                namespace: "a".into(),
                ..RoutingTable::default()
            },
            verdicts: vec![Verdict {
                kind: Kind::OllaRoute,
                name: "r".into(),
                generation,
                accepted: Ok(()),
                resolved_refs: Ok(()),
                instances: 0,
            }],
        };
        let before = self.hub.current("a");
        let next = Snapshot::next(before.as_deref(), "a", compiled).unwrap();
        self.hub.publish(next);
        self.ledger.mark("a");
    }

    fn data_plane(&self, name: &str) -> Session {
        let session = self.sessions.open("a", name, 99).unwrap();
        session.ack(Revision(1));
        self.ledger.mark("a");
        session
    }

    fn count(&self) -> usize {
        self.patches.lock().unwrap().len()
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
    assert_eq!(world.programmed(), "1 of 1 data planes at revision 1");
}

#[tokio::test(start_paused = true)]
async fn the_echo_of_our_own_write_is_not_answered() {
    let world = World::start(Duration::ZERO);
    world.route(1, ObjectStatus::default());
    pass(1000).await;
    let written: ObjectStatus = serde_json::from_value(world.last().1["status"].clone()).unwrap();
    let uid = "u".to_owned();
    let status = written;
    let echo = Entry { uid, status };
    world.ledger.saw("a", Kind::OllaRoute, "r", echo);
    world.ledger.mark("a");
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
    let changed = Entry { uid, status };
    world.ledger.saw("a", Kind::OllaRoute, "r", changed);
    pass(3000).await;
    assert_eq!(world.count(), 2);
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
    assert_eq!(world.programmed(), "20 of 20 data planes at revision 1");
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
    assert_eq!(restarted.programmed(), "1 of 1 data planes at revision 1");
}

#[tokio::test(start_paused = true)]
async fn a_data_plane_that_connects_while_others_are_awaited_is_told_at_once() {
    let world = World::start(Duration::from_secs(15));
    world.route(1, ObjectStatus::default());
    pass(1000).await;
    assert_eq!(world.programmed(), "no data plane is connected");
    let _plane = world.data_plane("one");
    pass(500).await;
    assert_eq!(world.programmed(), "1 of 1 data planes at revision 1");
}
