//! A data plane and its operator: tables come, are judged, and outlive whoever sent them.

use std::{fs, os::unix::fs::PermissionsExt as _};

use dataplane_protocol::{
    ResourceKey, Revision,
    resource::ResourceSet,
    sync::{FORMATS, Health, ToDataPlane},
};
use http::StatusCode;
use tempfile::TempDir;

use crate::support::{
    backend::Backend,
    operator::{Operator, Stream, from, keeping, table},
    plane::{Plane, Yaml},
    reply::Reply,
    wait_for,
};

/// A data plane that has just said hello.
struct Scene {
    operator: Operator,
    plane: Plane,
    folder: TempDir,
}

async fn scene() -> (Scene, Stream) {
    let mut operator = Operator::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = operator.config(folder.path(), "token-1\n");
    let plane = Plane::at_once(Plane::settings(), from(&config)).await;
    let stream = operator.stream().await;
    let scene = Scene {
        operator,
        plane,
        folder,
    };
    (scene, stream)
}

async fn problem(plane: &Plane) -> String {
    let status = plane.status().await;
    status["config"]["problem"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_data_plane_says_who_it_is_and_what_it_holds() {
    let (_scene, mut stream) = scene().await;
    assert_eq!(stream.path, "/v1/stream");
    assert_eq!(stream.bearer, "Bearer token-1");
    let hello = stream.hello().await;
    assert_eq!(
        (hello.formats, hello.data_plane),
        (FORMATS.to_vec(), "pod-1".into())
    );
    assert_eq!(hello.revision, None);
}

#[tokio::test]
async fn before_its_first_table_it_is_not_ready_and_asks_clients_to_come_back() {
    let (scene, _stream) = scene().await;
    let ready = scene.plane.get("/internal/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("no routing table"));
    let answer = scene.plane.chat("m").await;
    assert_eq!(answer.status, 503);
    assert!(answer.has("retry-after"));
}

#[tokio::test]
async fn a_table_is_used_and_acknowledged() {
    let (scene, mut stream) = scene().await;
    let a = Backend::start("a", &["m"]).await;
    let sent = stream.table(&table(&Yaml::tiers(&[("a", &a)]))).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    scene.plane.settled().await;
    assert_eq!(scene.plane.chat("m").await.endpoint(), "a");
    let status = scene.plane.status().await;
    assert_eq!(status["config"]["origin"], "operator");
    assert_eq!(status["config"]["revision"], sent.to_string());
    assert_eq!(status["config"]["problem"], "");
}

#[tokio::test]
async fn a_change_is_applied_to_what_is_held() {
    let (scene, mut stream) = scene().await;
    let (a, b) = (
        Backend::start("a", &["m"]).await,
        Backend::start("b", &["n"]).await,
    );
    let old = table(&Yaml::tiers(&[("a", &a)]));
    let sent = stream.table(&old).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    scene.plane.settled().await;
    scene.plane.chat("m").await;
    let new = table(&Yaml::tiers(&[("a", &a), ("b", &b)]));
    let difference = ResourceSet::of(&old).difference(&ResourceSet::of(&new));
    assert_eq!(
        difference.upserts.len(),
        3,
        "endpoint, its instance, the set of all"
    );
    let sent = stream.change(&ResourceSet::of(&old), &new, false).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    scene.plane.settled().await;
    assert_eq!(scene.plane.chat("n").await.endpoint(), "b");
    assert_eq!(
        scene.plane.instance("a").await["requests"],
        1,
        "it is still the same"
    );
    let sent = stream.change(&ResourceSet::of(&new), &old, false).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    assert_eq!(scene.plane.chat("n").await.status, 404);
}

#[tokio::test]
async fn what_the_operator_does_not_know_serves_on() {
    let (mut scene, mut stream) = scene().await;
    let (a, b) = (
        Backend::start("a", &["m"]).await,
        Backend::start("b", &["n"]).await,
    );
    let good = table(&Yaml::tiers(&[("a", &a), ("b", &b)]));
    let sent = stream.table(&good).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    scene.plane.settled().await;
    // An operator that has just started and could not list the pods of `a`, nor read `b`.
    let mut unknown = good.clone();
    unknown.instances.remove("a");
    unknown.endpoints.remove("b");
    unknown.instances.remove("b");
    unknown.keep = [
        ResourceKey::Instances("a".into()),
        ResourceKey::Endpoint("b".into()),
        ResourceKey::Instances("b".into()),
    ]
    .into();
    drop(stream);
    let mut stream = scene.operator.stream().await;
    let sent = stream.table(&unknown).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    assert_eq!(scene.plane.chat("m").await.endpoint(), "a");
    assert_eq!(scene.plane.chat("n").await.endpoint(), "b");
    // It knows at last: `b` is gone.
    let known = table(&Yaml::tiers(&[("a", &a)]));
    stream
        .change(&ResourceSet::of(&unknown), &known, false)
        .await;
    assert_eq!(stream.verdict().await, Ok(known.revision()));
    assert_eq!(scene.plane.chat("m").await.endpoint(), "a");
    assert_eq!(scene.plane.chat("n").await.status, 404);
}

#[tokio::test]
async fn what_is_not_committed_has_no_effect() {
    let (mut scene, mut stream) = scene().await;
    let a = Backend::start("a", &["m"]).await;
    let good = table(&Yaml::tiers(&[("a", &a)]));
    let sent = stream.table(&good).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    scene.plane.settled().await;
    let begin = ToDataPlane::Begin {
        namespace: "default".into(),
        full: true,
    };
    stream.say(&begin).await;
    drop(stream);
    let mut next = scene.operator.stream().await;
    assert_eq!(next.hello().await.revision, Some(good.revision()));
    assert_eq!(scene.plane.chat("m").await.endpoint(), "a");
}

#[tokio::test]
async fn a_table_that_comes_out_different_is_asked_for_in_full() {
    let (mut scene, mut stream) = scene().await;
    let a = Backend::start("a", &["m"]).await;
    let good = table(&Yaml::tiers(&[("a", &a)]));
    let sent = stream.table(&good).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    scene.plane.settled().await;
    let begin = ToDataPlane::Begin {
        namespace: "default".into(),
        full: false,
    };
    stream.say(&begin).await;
    let revision = Revision(12345);
    stream.say(&ToDataPlane::Commit { revision }).await;
    let mut next = scene.operator.stream().await;
    assert_eq!(
        next.hello().await.revision,
        None,
        "it holds nothing it could trust"
    );
    assert_eq!(scene.plane.chat("m").await.endpoint(), "a", "and serves on");
    let sent = next.table(&good).await;
    assert_eq!(next.verdict().await, Ok(sent));
}

#[tokio::test]
async fn a_table_that_does_not_fit_together_is_refused_and_the_old_one_serves() {
    let (scene, mut stream) = scene().await;
    let a = Backend::start("a", &["m"]).await;
    let good = table(&Yaml::tiers(&[("a", &a)]));
    let sent = stream.table(&good).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    scene.plane.settled().await;
    let mut torn = good.clone();
    torn.profiles.clear();
    let refused = stream.table(&torn).await;
    let (revision, reason) = stream.verdict().await.unwrap_err();
    assert_eq!(revision, refused);
    assert!(reason.contains("endpoint a"), "{reason}");
    assert_eq!(scene.plane.chat("m").await.endpoint(), "a");
    assert_eq!(
        scene.plane.status().await["config"]["revision"],
        sent.to_string()
    );
}

#[tokio::test]
async fn without_its_operator_it_serves_on_and_comes_back_with_what_it_holds() {
    let (mut scene, mut stream) = scene().await;
    let a = Backend::start("a", &["m"]).await;
    let good = table(&Yaml::tiers(&[("a", &a)]));
    let sent = stream.table(&good).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    scene.plane.settled().await;
    scene.operator.stop().await;
    let told = async || !problem(&scene.plane).await.is_empty();
    wait_for("the loss is told", told).await;
    for _ in 0..5 {
        assert_eq!(scene.plane.chat("m").await.status, 200);
    }
    fs::write(scene.folder.path().join("token"), "token-2").unwrap();
    scene.operator.restart().await;
    let mut stream = scene.operator.stream().await;
    assert_eq!(stream.bearer, "Bearer token-2", "read anew");
    let held = ResourceSet::of(&good);
    assert_eq!(stream.hello().await.revision, Some(held.revision()));
    let sent = stream.change(&held, &good, false).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    assert_eq!(problem(&scene.plane).await, "");
}

#[tokio::test]
async fn why_an_operator_refuses_is_told_in_the_status() {
    let (mut scene, mut stream) = scene().await;
    let reason = "too many data planes".to_owned();
    stream.say(&ToDataPlane::Refused { reason }).await;
    let told = async |words: &str| problem(&scene.plane).await.contains(words);
    wait_for("the refusal is told", async || {
        told("too many data planes").await
    })
    .await;
    scene.operator.stream().await;
    scene
        .operator
        .refuse(Some((StatusCode::FORBIDDEN, "not your namespace")));
    drop(stream);
    scene.operator.restart().await;
    wait_for("the status is told", async || {
        told("not your namespace").await
    })
    .await;
}

#[tokio::test]
async fn an_operator_that_another_ca_vouches_for_gets_no_token() {
    let (operator, mut impostor) = (Operator::start().await, Operator::start().await);
    let folder = tempfile::tempdir().unwrap();
    let url = impostor.config(folder.path(), "token").url;
    let mut config = operator.config(folder.path(), "token");
    config.url = url;
    let plane = Plane::at_once(Plane::settings(), from(&config)).await;
    let told = async || problem(&plane).await.contains("certificate");
    wait_for("the problem is told", told).await;
    // With the CA that it has read anew, the same data plane comes in.
    impostor.config(folder.path(), "token");
    assert_eq!(impostor.stream().await.bearer, "Bearer token");
}

#[tokio::test]
async fn reports_say_how_the_instances_are() {
    let (_scene, mut stream) = scene().await;
    let mut a = Backend::start("a", &["m", "n"]).await;
    stream.table(&table(&Yaml::tiers(&[("a", &a)]))).await;
    let healthy = loop {
        let report = stream.report().await;
        if let Some(instance) = report.instances.first()
            && instance.health == Health::Healthy
        {
            break instance.clone();
        }
    };
    assert_eq!(
        (healthy.endpoint.as_str(), healthy.reason.as_str()),
        ("a", "")
    );
    a.stop().await;
    let ill = loop {
        let instance = stream.report().await.instances[0].clone();
        if instance.health == Health::Unhealthy {
            break instance;
        }
    };
    assert!(!ill.reason.is_empty());
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_neither_tables_nor_clients() {
    let mut operator = Operator::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (config, file) = keeping(operator.config(folder.path(), "token"), folder.path());
    // Whoever writes to a pipe that nobody reads waits.
    let pipe = file.with_extension("tmp");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let a = Backend::start("a", &["m"]).await;
    let table = table(&Yaml::tiers(&[("a", &a)]));
    let plane = Plane::at_once(Plane::settings(), from(&config)).await;
    let mut stream = operator.stream().await;
    for _ in 1..4 {
        let sent = stream.table(&table).await;
        assert_eq!(stream.verdict().await, Ok(sent));
    }
    plane.settled().await;
    assert_eq!(plane.chat("m").await.status, 200);
    // Lets the writers go, until the folder is gone.
    std::thread::spawn(move || while fs::read(&pipe).is_ok() {});
    plane.running.drain().await;
}

#[tokio::test]
async fn a_restart_serves_from_disk_before_the_operator_speaks() {
    let mut operator = Operator::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (config, file) = keeping(operator.config(folder.path(), "token"), folder.path());
    let open = Backend::start("open", &["m"]).await;
    let guarded = Backend::start("guarded", &["n"]).await;
    let secret = "sk-not-for-the-disk";
    let yaml = Yaml::default()
        .secret("keys", "token", secret)
        .endpoint("open", &open.url(), &[])
        .endpoint(
            "guarded",
            &guarded.url(),
            &["auth: { bearer: {valueFrom: {secretKeyRef: {name: keys, key: token}}} }"],
        );
    let table = table(&yaml);
    let plane = Plane::at_once(Plane::settings(), from(&config)).await;
    let mut stream = operator.stream().await;
    let sent = stream.table(&table).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    plane.settled().await;
    assert_eq!(plane.chat("n").await.endpoint(), "guarded");
    wait_for("it is on disk", async || file.exists()).await;
    let kept = fs::read_to_string(&file).unwrap();
    assert!(!kept.contains(secret), "{kept}");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    operator.stop().await;
    plane.running.drain().await;
    let plane = Plane::at_once(Plane::settings(), from(&config)).await;
    let usable = async || plane.chat("m").await.status == 200;
    wait_for("the open endpoint serves", usable).await;
    let status = plane.status().await;
    assert_eq!(status["config"]["origin"], "disk");
    assert_eq!(status["config"]["revision"], sent.to_string());
    let before = guarded.looks().len() + guarded.count();
    let answer = plane.chat("n").await;
    assert!(matches!(answer.status, 404 | 503), "{}", answer.status);
    let why = plane.instance("guarded").await["why_not"].clone();
    assert!(why.as_str().unwrap().contains("credential"), "{why}");
    assert_eq!(
        guarded.looks().len() + guarded.count(),
        before,
        "nothing without it"
    );

    operator.restart().await;
    let mut stream = operator.stream().await;
    let held = stream.hello().await.revision;
    assert_ne!(held, Some(sent), "a table without credentials is another");
    let sent = stream.table(&table).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    let usable = async || plane.chat("n").await.status == 200;
    wait_for("the guarded endpoint serves again", usable).await;
}

#[tokio::test]
async fn a_damaged_file_on_disk_is_as_good_as_none() {
    let mut operator = Operator::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (config, file) = keeping(operator.config(folder.path(), "token"), folder.path());
    for damage in [
        "",
        "{",
        "{\"format\":999,\"revision\":\"0\",\"table\":{}}",
        "\0\0\0",
    ] {
        fs::write(&file, damage).unwrap();
        let plane = Plane::at_once(Plane::settings(), from(&config)).await;
        let mut stream = operator.stream().await;
        let a = Backend::start("a", &["m"]).await;
        let sent = stream.table(&table(&Yaml::tiers(&[("a", &a)]))).await;
        assert_eq!(stream.verdict().await, Ok(sent));
        plane.settled().await;
        assert_eq!(plane.chat("m").await.status, 200);
    }
}

#[tokio::test]
async fn lines_cut_anywhere_are_understood() {
    let (scene, stream) = scene().await;
    let a = Backend::start("a", &["m"]).await;
    let mut stream = stream.in_pieces(3);
    let sent = stream.table(&table(&Yaml::tiers(&[("a", &a)]))).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    scene.plane.settled().await;
    a.answer(Reply::chat("a"));
    assert_eq!(scene.plane.chat("m").await.status, 200);
}

#[tokio::test]
async fn a_line_that_is_none_ends_the_stream_and_nothing_else() {
    let (mut scene, mut stream) = scene().await;
    let a = Backend::start("a", &["m"]).await;
    let sent = stream.table(&table(&Yaml::tiers(&[("a", &a)]))).await;
    assert_eq!(stream.verdict().await, Ok(sent));
    scene.plane.settled().await;
    stream.raw("{\"upsert\":{\"endpoint\":[]}}\n").await;
    let mut next = scene.operator.stream().await;
    assert!(next.hello().await.revision.is_some());
    assert_eq!(scene.plane.chat("m").await.status, 200);
    // A change outside of a transaction is none either.
    let route = table(&Yaml::tiers(&[("a", &a)])).routes[0].clone();
    let stray = dataplane_protocol::Resource::Route(route);
    next.say(&ToDataPlane::Upsert(stray)).await;
    scene.operator.stream().await;
    assert_eq!(scene.plane.chat("m").await.status, 200);
}
