//! Files that change while they are served.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use dataplane::app::{App, From};
use tempfile::TempDir;

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml, chat},
    reply::{Gate, Reply},
    wait_for,
};

async fn serving(path: &Path) -> Plane {
    let from = From::Files {
        paths: vec![path.to_owned()],
        namespace: None,
    };
    Plane::from(Plane::settings(), from).await
}

/// A file that may be rewritten.
struct File {
    path: PathBuf,
    _folder: TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = Self {
            path: folder.path().join("olla.yaml"),
            _folder: folder,
        };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }
}

/// A data plane that serves from a file that holds `text`.
async fn served(text: &str) -> (File, Plane) {
    let file = File::new(text);
    let plane = serving(&file.path).await;
    (file, plane)
}

async fn problem(plane: &Plane) -> String {
    let status = plane.status().await;
    status["config"]["problem"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_changed_file_takes_effect() {
    let (a, b) = (
        Backend::start("a", &["m"]).await,
        Backend::start("b", &["m"]).await,
    );
    let (file, plane) = served(&Yaml::tiers(&[("a", &a)]).text()).await;
    assert_eq!(plane.chat("m").await.endpoint(), "a");
    let revision = async || plane.status().await["config"]["revision"].clone();
    let first = revision().await;
    let number = plane.metric("olla_config_revision", &[]).await;
    file.write(&Yaml::tiers(&[("b", &b)]).text());
    let changed = async || plane.chat("m").await.endpoint() == "b";
    wait_for("traffic goes to the new endpoint", changed).await;
    assert_ne!(revision().await, first);
    assert_eq!(plane.status().await["config"]["origin"], "file");
    assert_ne!(plane.metric("olla_config_revision", &[]).await, number);
}

#[tokio::test]
async fn what_is_known_of_an_endpoint_that_stays_is_kept() {
    let (a, b) = (
        Backend::start("a", &["m"]).await,
        Backend::start("b", &["m"]).await,
    );
    let (file, plane) = served(&Yaml::tiers(&[("a", &a), ("b", &b)]).text()).await;
    for _ in 0..3 {
        plane.chat("m").await;
    }
    let gate = Gate::new();
    let reply = Reply::sse().chunk("data: 1\n\n").wait(&gate);
    b.answer(reply.chunk("data: [DONE]\n\n").end());
    a.answer_next(Reply::status(503));
    let (mut client, head) = plane.stream("m").await;
    assert_eq!(head.endpoint(), "b");
    client.chunk().await.unwrap();

    file.write(&Yaml::tiers(&[("a", &a)]).text());
    let gone = async || plane.instances().await.len() == 1;
    wait_for("b is gone", gone).await;
    assert_eq!(
        plane.instance("a").await["requests"],
        4,
        "a's past is known"
    );
    gate.cancel();
    assert_eq!(client.rest().await, (b"data: [DONE]\n\n".to_vec(), true));
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_told() {
    let a = Backend::start("a", &["m"]).await;
    let good = Yaml::tiers(&[("a", &a)]).text();
    let (file, plane) = served(&good).await;
    let before = plane.status().await["config"]["revision"].clone();
    file.write(&good.replace("type: vllm", "type: vlllm"));
    let told = async || problem(&plane).await.contains("vlllm");
    wait_for("the problem is told", told).await;
    assert_eq!(plane.chat("m").await.status, 200);
    assert_eq!(plane.status().await["config"]["revision"], before);
    file.write("{ not: [yaml");
    let told = async || {
        let problem = problem(&plane).await;
        !problem.is_empty() && !problem.contains("vlllm")
    };
    wait_for("the next problem is told", told).await;
    assert_eq!(plane.chat("m").await.status, 200);
    file.write(&good);
    let solved = async || problem(&plane).await.is_empty();
    wait_for("there is no problem any more", solved).await;
}

#[tokio::test]
async fn a_file_that_was_away_for_a_while_is_no_problem_once_it_is_back() {
    let a = Backend::start("a", &["m"]).await;
    let good = Yaml::tiers(&[("a", &a)]).text();
    let (file, plane) = served(&good).await;
    fs::remove_file(&file.path).unwrap();
    let told = async || problem(&plane).await.contains("olla.yaml");
    wait_for("the problem is told", told).await;
    assert_eq!(plane.chat("m").await.status, 200);
    file.write(&good);
    let solved = async || problem(&plane).await.is_empty();
    wait_for("there is no problem any more", solved).await;
}

#[tokio::test]
async fn a_folder_is_read_with_all_its_files() {
    let (a, b) = (
        Backend::start("a", &["x"]).await,
        Backend::start("b", &["y"]).await,
    );
    let folder = tempfile::tempdir().unwrap();
    let yaml = Yaml::tiers(&[("a", &a)]).text();
    fs::write(folder.path().join("1.yaml"), yaml).unwrap();
    let plane = serving(folder.path()).await;
    let more = Yaml::tiers(&[("b", &b)]).text();
    let endpoint = more
        .split("---\napiVersion: olla.dev/v1alpha1\nkind: OllaRoute")
        .next();
    fs::write(folder.path().join("2.yml"), endpoint.unwrap()).unwrap();
    fs::write(folder.path().join("README.md"), "{ no yaml").unwrap();
    let both = async || plane.chat("y").await.status == 200 && plane.chat("x").await.status == 200;
    wait_for("both serve", both).await;
}

/// As the kubelet lays it out: `..data` leads to the files, and is replaced in one step.
#[tokio::test]
async fn a_mounted_config_map_is_followed() {
    let (a, b) = (
        Backend::start("a", &["m"]).await,
        Backend::start("b", &["m"]).await,
    );
    let mount = tempfile::tempdir().unwrap();
    let at = |name: &str| mount.path().join(name);
    for (version, endpoint) in [("..1", ("a", &a)), ("..2", ("b", &b))] {
        fs::create_dir(at(version)).unwrap();
        let yaml = Yaml::tiers(&[endpoint]).text();
        fs::write(at(version).join("olla.yaml"), yaml).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/olla.yaml", at("olla.yaml")).unwrap();
    let plane = serving(mount.path()).await;
    assert_eq!(plane.chat("m").await.endpoint(), "a");
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    wait_for("the new one serves", async || {
        plane.chat("m").await.endpoint() == "b"
    })
    .await;
}

#[tokio::test]
async fn a_start_with_a_broken_file_fails_and_says_where() {
    let file = File::new("kind: LlmEndpoint\napiVersion: olla.dev/v1alpha1\nspec: { urll: x }\n");
    let from = From::Files {
        paths: vec![file.path.clone()],
        namespace: None,
    };
    let error = App::start(Plane::settings(), from).await.unwrap_err();
    assert!(error.to_string().contains("olla.yaml:"), "{error}");
}

#[tokio::test]
async fn a_rotated_credential_is_used_from_then_on() {
    let a = Backend::start("a", &["m"]).await;
    let with = |token: &str| {
        let auth = "auth: { bearer: {valueFrom: {secretKeyRef: {name: keys, key: token}}} }";
        let yaml = Yaml::default().secret("keys", "token", token);
        yaml.endpoint("a", &a.url(), &[auth]).text()
    };
    let (file, plane) = served(&with("old")).await;
    let mut client = plane.client().await;
    let mut sent = async || {
        let body = chat("m").to_string();
        let target = "/v1/chat/completions";
        client.request("POST", target, &[], body.as_bytes()).await;
        a.last().header("authorization").unwrap().to_owned()
    };
    assert_eq!(sent().await, "Bearer old");
    file.write(&with("new"));
    wait_for("the new one is sent", async || sent().await == "Bearer new").await;
    let probed = async || {
        let looks = a.looks();
        let mut sent = looks.iter().filter_map(|look| look.header("authorization"));
        sent.any(|value| value == "Bearer new")
    };
    wait_for("probes send it too", probed).await;
}

#[tokio::test]
async fn an_endpoint_that_moved_is_found_at_its_new_address() {
    let (old, new) = (
        Backend::start("old", &["m"]).await,
        Backend::start("new", &["m"]).await,
    );
    let (file, plane) = served(&Yaml::tiers(&[("a", &old)]).text()).await;
    assert!(plane.chat("m").await.text().contains("old"));
    file.write(&Yaml::tiers(&[("a", &new)]).text());
    let moved = async || {
        let answer = plane.chat("m").await;
        assert_eq!((answer.status, answer.endpoint()), (200, "a"));
        answer.text().contains("new")
    };
    wait_for("the new address answers", moved).await;
    wait_for("the old one is let go", async || old.open() == 0).await;
}
