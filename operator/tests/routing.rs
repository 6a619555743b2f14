//! Watches → published tables, with the watches played by the test and the clock standing still.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dataplane_protocol::ResourceKey;
use operator::{
    metrics::Metrics,
    routing::{
        Routing, decode,
        hub::Hub,
        index::Source,
        snapshot::Snapshot,
        status_cache::StatusCache,
        watch::{Change, ChangeKind, DecodedObject},
    },
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// Watches that were started, in order.
type Started = Arc<Mutex<Vec<(Source, u64, mpsc::Sender<Change>)>>>;

struct World {
    hub: Arc<Hub>,
    status_cache: Arc<StatusCache>,
    ready: Arc<AtomicBool>,
    occupied: watch::Receiver<BTreeSet<String>>,
    started: Started,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    fn start() -> Self {
        let started = Started::default();
        let log = started.clone();
        let starter = Box::new(move |source, watch, tx| {
            log.lock().unwrap().push((source, watch, tx));
            tokio::spawn(std::future::pending())
        });
        let (hub, ready) = (Arc::<Hub>::default(), Arc::<AtomicBool>::default());
        let status_cache = Arc::<StatusCache>::default();
        let (occupied_tx, occupied) = watch::channel(BTreeSet::new());
        let stop = CancellationToken::new();
        let routing = Routing::new(
            starter,
            hub.clone(),
            status_cache.clone(),
            occupied_tx,
            ready.clone(),
            Arc::<Metrics>::default(),
        );
        tokio::spawn(routing.run(stop.clone()));
        Self {
            hub,
            status_cache,
            ready,
            occupied,
            started,
            stop,
        }
    }

    /// What the newest watch of this source says.
    async fn says(&self, source: &Source, what: ChangeKind) {
        let started = self.started.lock().unwrap().clone();
        let (source, watch, tx) = started
            .into_iter()
            .rev()
            .find(|(of, ..)| of == source)
            .unwrap();
        tx.send(Change {
            source,
            watch,
            what,
        })
        .await
        .unwrap();
    }

    /// Longer than any debounce, shorter than any patience.
    async fn settle(&self) {
        sleep(Duration::from_millis(200)).await;
    }

    async fn started(&self, source: &Source) -> usize {
        self.settle().await;
        let started = self.started.lock().unwrap();
        started.iter().filter(|(of, ..)| of == source).count()
    }

    fn table(&self, namespace: &str) -> Option<Arc<Snapshot>> {
        self.hub.current(namespace)
    }
}

fn endpoint(namespace: &str, name: &str, spec: Value) -> DecodedObject {
    let object = serde_json::from_value(json!({
        "apiVersion": "olla.dev/v1alpha1", "kind": "LlmEndpoint",
        "metadata": { "namespace": namespace, "name": name, "generation": 1 },
        "spec": spec,
    }));
    let (object, status) = decode::endpoint(object.unwrap());
    let status = Some(status);
    DecodedObject { object, status }
}

fn pod(namespace: &str, name: &str, ready: &str) -> DecodedObject {
    let pod = serde_json::from_value(json!({
        "metadata": { "namespace": namespace, "name": name, "labels": { "app": "x" } },
        "status": { "podIP": "10.0.0.1", "conditions": [{ "type": "Ready", "status": ready }] },
    }));
    let object = decode::pod(pod.unwrap());
    DecodedObject {
        object,
        status: None,
    }
}

fn url() -> Value {
    json!({ "url": "http://10.0.0.1" })
}

fn selector() -> Value {
    json!({ "podSelector": { "matchLabels": { "app": "x" }, "port": 80 } })
}

fn keyed(secret: &str) -> Value {
    json!({ "url": "http://10.0.0.1", "auth": { "bearer": { "valueFrom": { "secretKeyRef": { "name": secret, "key": "token" } } } } })
}

fn instances(snapshot: &Snapshot) -> usize {
    snapshot
        .set
        .to_table("")
        .instances
        .values()
        .map(|list| list.len())
        .sum()
}

#[tokio::test(start_paused = true)]
async fn a_restarted_operator_never_publishes_half_a_table() {
    let world = World::start();
    let pods = Source::Pods("a".into());
    let list = vec![
        endpoint("a", "pods", selector()),
        endpoint("b", "url", url()),
    ];
    world.settle().await;
    world
        .says(&Source::Endpoints, ChangeKind::Reset(list))
        .await;
    world.settle().await;
    assert!(world.table("b").is_none(), "the routes are not listed yet");
    world.says(&Source::Routes, ChangeKind::Reset(vec![])).await;
    world.settle().await;
    assert!(world.table("a").is_none(), "its pods are not listed yet");
    assert_eq!(instances(&world.table("b").unwrap()), 1);
    assert!(!world.ready.load(Ordering::Acquire));
    let list = vec![pod("a", "p", "True")];
    world.says(&pods, ChangeKind::Reset(list)).await;
    world.settle().await;
    assert_eq!(instances(&world.table("a").unwrap()), 1);
    assert!(world.ready.load(Ordering::Acquire));
    assert_eq!(
        *world.occupied.borrow(),
        ["a".to_owned(), "b".to_owned()].into()
    );
}

async fn listed(endpoints: Vec<DecodedObject>) -> World {
    let world = World::start();
    world.settle().await;
    world
        .says(&Source::Endpoints, ChangeKind::Reset(endpoints))
        .await;
    world.says(&Source::Routes, ChangeKind::Reset(vec![])).await;
    world.settle().await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_turns_unready_leaves_the_table_of_its_namespace_only() {
    let (a, b) = (Source::Pods("a".into()), Source::Pods("b".into()));
    let list = vec![
        endpoint("a", "e", selector()),
        endpoint("b", "e", selector()),
    ];
    let world = listed(list).await;
    for (source, namespace) in [(&a, "a"), (&b, "b")] {
        let list = vec![pod(namespace, "p", "True")];
        world.says(source, ChangeKind::Reset(list)).await;
    }
    world.settle().await;
    let other = world.table("b").unwrap();
    world
        .says(&a, ChangeKind::Apply(pod("a", "p", "False")))
        .await;
    world.settle().await;
    let table = world.table("a").unwrap();
    assert_eq!((table.number, instances(&table)), (2, 0));
    assert!(Arc::ptr_eq(&other, &world.table("b").unwrap()));
}

#[tokio::test(start_paused = true)]
async fn pods_are_watched_only_while_an_endpoint_selects_some() {
    let pods = Source::Pods("a".into());
    let world = listed(vec![endpoint("a", "e", url())]).await;
    assert_eq!(world.started(&pods).await, 0);
    let applied = ChangeKind::Apply(endpoint("a", "e", selector()));
    world.says(&Source::Endpoints, applied).await;
    assert_eq!(world.started(&pods).await, 1);
    let list = vec![pod("a", "p", "True")];
    world.says(&pods, ChangeKind::Reset(list)).await;
    world.settle().await;
    // Stopped, and what its last messages say counts no more.
    let applied = ChangeKind::Apply(endpoint("a", "e", url()));
    world.says(&Source::Endpoints, applied).await;
    world.settle().await;
    world
        .says(&pods, ChangeKind::Apply(pod("a", "p2", "True")))
        .await;
    let applied = ChangeKind::Apply(endpoint("a", "e", selector()));
    world.says(&Source::Endpoints, applied).await;
    assert_eq!(world.started(&pods).await, 2);
    world.says(&pods, ChangeKind::Reset(vec![])).await;
    world.settle().await;
    assert_eq!(instances(&world.table("a").unwrap()), 0);
}

fn secret(namespace: &str, name: &str) -> Source {
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    Source::Secret { namespace, name }
}

fn keeps(table: &Snapshot) -> Vec<ResourceKey> {
    table.set.keeps().cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn a_list_that_does_not_come_holds_up_nobody_and_takes_nothing_away() {
    let list = vec![
        endpoint("a", "pods", selector()),
        endpoint("a", "keyed", keyed("key")),
        endpoint("a", "url", url()),
    ];
    let world = listed(list).await;
    assert!(world.table("a").is_none());
    assert!(!world.ready.load(Ordering::Acquire));
    sleep(Duration::from_secs(6)).await;
    assert!(world.ready.load(Ordering::Acquire));
    let table = world.table("a").unwrap();
    let expected = [
        ResourceKey::Endpoint("keyed".into()),
        ResourceKey::Endpoint("pods".into()),
        ResourceKey::Instances("keyed".into()),
        ResourceKey::Instances("pods".into()),
    ];
    assert_eq!(keeps(&table), expected);
    assert_eq!(instances(&table), 1, "of the url");
    for verdict in table.verdicts.values().take(2) {
        let problem = verdict.resolved_refs.clone().unwrap_err();
        assert_eq!(problem.reason, crds::Reason::Pending, "{problem}");
    }
    // No time makes nothing of what is not known.
    sleep(Duration::from_hours(1)).await;
    assert_eq!(keeps(&world.table("a").unwrap()), expected);
    world
        .says(&Source::Pods("a".into()), ChangeKind::Reset(vec![]))
        .await;
    world.settle().await;
    let [keyed, _, its_instances, _] = expected;
    assert_eq!(keeps(&world.table("a").unwrap()), [keyed, its_instances]);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_has_a_table_waits_for_no_list() {
    let world = listed(vec![endpoint("a", "old", url())]).await;
    let applied = ChangeKind::Apply(endpoint("a", "new", keyed("key")));
    world.says(&Source::Endpoints, applied).await;
    world.settle().await;
    assert_eq!(world.table("a").unwrap().verdicts.size(), 2);
    let applied = ChangeKind::Apply(endpoint("a", "newest", url()));
    world.says(&Source::Endpoints, applied).await;
    world.settle().await;
    assert_eq!(world.table("a").unwrap().verdicts.size(), 3);
    // And it is taken up when it comes.
    let found = decode::secret(
        serde_json::from_value(json!({
            "metadata": { "namespace": "a", "name": "key" }, "data": { "token": "eA==" },
        }))
        .unwrap(),
    );
    let found = DecodedObject {
        object: found,
        status: None,
    };
    world
        .says(&secret("a", "key"), ChangeKind::Reset(vec![found]))
        .await;
    world.settle().await;
    assert_eq!(instances(&world.table("a").unwrap()), 3);
}

#[tokio::test(start_paused = true)]
async fn a_late_list_in_one_namespace_does_not_hold_up_a_busy_one() {
    let list = vec![endpoint("a", "old", url()), endpoint("b", "e", selector())];
    let world = listed(list).await;
    let pods = Source::Pods("b".into());
    world.says(&pods, ChangeKind::Reset(vec![])).await;
    let applied = ChangeKind::Apply(endpoint("a", "new", keyed("key")));
    world.says(&Source::Endpoints, applied).await;
    world.settle().await;
    let before = world.table("b").unwrap().number;
    for turn in 0..60 {
        let change = pod("b", &format!("p{turn}"), "True");
        world.says(&pods, ChangeKind::Apply(change)).await;
        sleep(Duration::from_millis(5)).await;
    }
    let published = world.table("b").unwrap().number - before;
    assert!(published >= 4, "{published} tables in 300ms");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_loses_its_last_object_gets_an_empty_table() {
    let world = listed(vec![endpoint("a", "e", url())]).await;
    let reader = world.hub.subscribe("a");
    let (namespace, name) = ("a".to_owned(), "e".to_owned());
    let deleted = ChangeKind::Delete { namespace, name };
    world.says(&Source::Endpoints, deleted).await;
    world.settle().await;
    let table = reader.newest().unwrap();
    assert_eq!(table.number, 2);
    assert!(table.set.is_empty());
    assert!(world.occupied.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_a_namespace_that_is_forgotten() {
    let world = listed(vec![endpoint("a", "e", url())]).await;
    let (namespace, name) = ("a".to_owned(), "e".to_owned());
    let deleted = ChangeKind::Delete { namespace, name };
    world.says(&Source::Endpoints, deleted).await;
    world.settle().await;
    world.status_cache.next_dirty().await;
    let other = ChangeKind::Apply(endpoint("b", "e", url()));
    world.says(&Source::Endpoints, other).await;
    world.settle().await;
    assert!(world.table("a").is_none());
    let marked = world.status_cache.next_dirty().await;
    assert!(marked["a"].all, "so that the writer forgets it, too");
}

#[tokio::test(start_paused = true)]
async fn an_object_of_another_shape_is_a_verdict_and_the_rest_goes_on() {
    let list = vec![
        endpoint("a", "e", url()),
        endpoint("a", "odd", json!({ "url": 7 })),
    ];
    let world = listed(list).await;
    let table = world.table("a").unwrap();
    assert_eq!(instances(&table), 1);
    let odd = table.verdicts.values().find(|v| v.name == "odd").unwrap();
    let problem = odd.accepted.clone().unwrap_err();
    assert_eq!(problem.reason, crds::Reason::Undecodable);
    // Another process may have accepted an older form of it: data planes know.
    let expected = [
        ResourceKey::Endpoint("odd".into()),
        ResourceKey::Instances("odd".into()),
    ];
    assert_eq!(keeps(&table), expected);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_deleted_and_made_anew_takes_its_endpoint_out_at_no_time() {
    let world = listed(vec![endpoint("a", "e", keyed("key"))]).await;
    let key = |value: &str| {
        let object = json!({
            "metadata": { "namespace": "a", "name": "key" }, "data": { "token": value },
        });
        DecodedObject {
            object: decode::secret(serde_json::from_value(object).unwrap()),
            status: None,
        }
    };
    let source = secret("a", "key");
    let deleted = || {
        let (namespace, name) = ("a".to_owned(), "key".to_owned());
        ChangeKind::Delete { namespace, name }
    };
    world
        .says(&source, ChangeKind::Reset(vec![key("eA==")]))
        .await;
    world.settle().await;
    assert_eq!(instances(&world.table("a").unwrap()), 1);
    let before = world.table("a").unwrap().number;
    world.says(&source, deleted()).await;
    sleep(Duration::from_secs(4)).await;
    world.says(&source, ChangeKind::Apply(key("eQ=="))).await;
    sleep(Duration::from_secs(9)).await;
    let table = world.table("a").unwrap();
    assert_eq!((table.number, instances(&table)), (before + 1, 1));
    // Its watch breaks meanwhile, and what it sees is a list without the Secret.
    for pause in [1, 3] {
        world.says(&source, ChangeKind::Reset(vec![])).await;
        sleep(Duration::from_secs(pause)).await;
        assert_eq!(instances(&world.table("a").unwrap()), 1);
    }
    world
        .says(&source, ChangeKind::Reset(vec![key("eQ==")]))
        .await;
    sleep(Duration::from_secs(9)).await;
    assert_eq!(instances(&world.table("a").unwrap()), 1);
    world.says(&source, deleted()).await;
    sleep(Duration::from_secs(6)).await;
    let table = world.table("a").unwrap();
    assert_eq!(instances(&table), 0);
    let verdict = table.verdicts.values().next().unwrap();
    assert_eq!(verdict.instances, 1, "there is an address, but no key");
}

#[tokio::test(start_paused = true)]
async fn the_last_route_of_a_namespace_is_removed_from_tables_by_a_step() {
    let world = listed(vec![endpoint("a", "e", url())]).await;
    let object = json!({
        "apiVersion": "olla.dev/v1alpha1", "kind": "OllaRoute",
        "metadata": { "namespace": "a", "name": "r" },
        "spec": { "endpoints": { "refs": [{ "name": "e" }] } },
    });
    let (object, status) = decode::route(serde_json::from_value(object).unwrap());
    let status = Some(status);
    let applied = ChangeKind::Apply(DecodedObject { object, status });
    world.says(&Source::Routes, applied).await;
    world.settle().await;
    let deleted = |name: &str| {
        let (namespace, name) = ("a".to_owned(), name.to_owned());
        ChangeKind::Delete { namespace, name }
    };
    world.says(&Source::Endpoints, deleted("e")).await;
    world.settle().await;
    let reader = world.hub.subscribe("a");
    let before = reader.newest().unwrap();
    world.says(&Source::Routes, deleted("r")).await;
    world.settle().await;
    let after = reader.newest().unwrap();
    assert!(after.set.is_empty());
    let lines = after.step_from(&before).unwrap();
    let text = String::from_utf8(lines.to_vec()).unwrap();
    assert!(text.contains("remove"), "{text}");
}
