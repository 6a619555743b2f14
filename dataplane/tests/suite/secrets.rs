//! What nobody may see: credentials, and where backends are.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use dataplane::config::Settings;
use futures::future::join_all;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml, chat},
    reply::Reply,
};

const SECRET: &str = "sk-never-to-be-seen-0123456789";

/// One endpoint that wants a bearer token.
async fn guarded() -> (Backend, Plane) {
    let a = Backend::start("a", &["m"]).await;
    let auth = "auth: { bearer: {valueFrom: {secretKeyRef: {name: keys, key: token}}} }";
    let yaml = Yaml::default()
        .secret("keys", "token", SECRET)
        .endpoint("a", &a.url(), &[auth]);
    let settings = Settings {
        access_log: true,
        ..Plane::settings()
    };
    let plane = Plane::with(settings, &yaml.text()).await;
    (a, plane)
}

#[tokio::test]
async fn an_endpoints_credential_is_sent_with_requests_probes_and_listings() {
    let (a, plane) = guarded().await;
    let body = chat("m").to_string();
    let own = [("authorization", "Bearer the-clients")];
    let target = "/v1/chat/completions";
    plane.request("POST", target, &own, body.as_bytes()).await;
    let bearer = format!("Bearer {SECRET}");
    assert_eq!(a.last().header("authorization"), Some(&*bearer));
    let looks = a.looks();
    for path in ["/health", "/v1/models"] {
        let look = looks.iter().find(|look| look.target == path).unwrap();
        assert_eq!(look.header("authorization"), Some(&*bearer), "{path}");
    }
}

/// What only the owner of the key may do, in all the spellings that a backend may understand.
#[tokio::test]
async fn an_endpoints_credential_is_for_inference_and_listings_alone() {
    let (a, plane) = guarded().await;
    for (method, target) in [
        ("POST", "/olla/openai/key/generate"),
        ("GET", "/olla/openai/user/info"),
        ("GET", "/olla/proxy/debug/pprof/heap"),
        ("DELETE", "/v1/models/m"),
        ("GET", "/v1/files"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/olla/openai//key//generate"),
        ("POST", "/olla/openai/%6bey/generate"),
        ("POST", "/olla/openai/key/generate;/v1/chat/completions"),
        ("POST", "/olla/openai/v1/chat/completions;/../key/generate"),
        ("POST", "/olla/openai/engines/..%2Fkey/chat/completions"),
        (
            "POST",
            "/olla/openai/v1/chat/completions/../../../key/generate",
        ),
    ] {
        let answer = plane.request(method, target, &[], b"{}").await;
        assert!(
            matches!(answer.status, 400 | 403),
            "{target}: {}",
            answer.status
        );
        if answer.status == 403 {
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "administration_path", "{target}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("spec.auth.paths: All"), "{message}");
        }
    }
    assert_eq!(a.count(), 0);
    assert_eq!(plane.chat("m").await.status, 200);
    assert_eq!(plane.instance("a").await["failures"], 0);
}

#[tokio::test]
async fn an_endpoint_may_allow_every_path_with_its_credential() {
    let a = Backend::start("a", &["m"]).await;
    let auth =
        "auth: { bearer: { valueFrom: { secretKeyRef: { name: keys, key: token } } }, paths: All }";
    let plane = Yaml::default()
        .secret("keys", "token", SECRET)
        .endpoint("a", &a.url(), &[auth])
        .start()
        .await;
    let answer = plane.get("/olla/openai/user/info").await;
    assert_eq!(answer.status, 200);
    let bearer = format!("Bearer {SECRET}");
    assert_eq!(a.last().header("authorization"), Some(&*bearer));
}

#[tokio::test]
async fn an_endpoint_without_a_credential_takes_every_path() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    for target in ["/olla/openai/key/generate", "/v1/files"] {
        let answer = plane.request("POST", target, &[], b"{}").await;
        assert_eq!(answer.status, 200, "{target}");
    }
}

#[tokio::test]
async fn each_kind_of_credential_is_sent_as_its_header() {
    for (auth, name, value) in [
        (
            "basic: {valueFrom: {secretRef: {name: keys}}}",
            "authorization",
            "Basic dTpw",
        ),
        (
            "apiKey: {valueFrom: {secretKeyRef: {name: keys, key: password}}}",
            "x-api-key",
            "p",
        ),
        (
            "header: { name: X-Tenant-Key, valueFrom: {secretKeyRef: {name: keys, key: password}} }",
            "x-tenant-key",
            "p",
        ),
    ] {
        let a = Backend::start("a", &["m"]).await;
        let plane = Yaml::default()
            .secret("keys", "password: p, username", "u")
            .endpoint("a", &a.url(), &[&format!("auth: {{ {auth} }}")])
            .start()
            .await;
        plane.chat("m").await;
        assert_eq!(a.last().header(name), Some(value), "{auth}");
    }
}

#[tokio::test]
async fn a_credential_stands_in_no_answer_status_metric_or_debug_output() {
    let (mut a, plane) = guarded().await;
    let echo = [("authorization", SECRET), ("x-api-key", SECRET)];
    a.answer(Reply::whole(200, &echo, "ok"));
    let mut seen = Vec::new();
    let look = async |seen: &mut Vec<String>| {
        for page in [
            "/internal/status",
            "/internal/status/endpoints",
            "/internal/status/models",
            "/internal/metrics",
            "/internal/explain?model=m",
            "/internal/ready",
            "/v1/models",
        ] {
            seen.push(plane.get(page).await.text());
        }
        let answer = plane.chat("m").await;
        seen.push(format!("{answer:?} {}", answer.text()));
        let shared = &plane.running.shared;
        seen.push(format!(
            "{:?} {:?} {:?}",
            plane.running,
            shared.table(),
            shared.view()
        ));
    };
    look(&mut seen).await;
    a.answer(Reply::sse().chunk("data: 1\n\n").close());
    look(&mut seen).await;
    a.stop().await;
    look(&mut seen).await;
    for text in seen {
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[tokio::test]
async fn an_error_never_says_where_a_backend_is() {
    let mut a = Backend::start("a", &["m"]).await;
    let plane = Yaml::default()
        .endpoint(
            "a",
            &a.url(),
            &["health: { mode: Disabled }", "type: ollama"],
        )
        .route("circuitBreaker: { consecutiveFailures: 1000 }")
        .route("timeouts: { firstToken: 300ms }")
        .start()
        .await;
    let paths = ["/v1/chat/completions", "/v1/messages", "/api/chat"];
    let mut answers = Vec::new();
    let mut ask = async |wanted: u16| {
        for path in paths {
            let (mut client, mut answer) = plane.stream_at(path, "m").await;
            assert_eq!(answer.status, wanted, "{path}");
            answer.body = client.rest().await.0;
            answers.push(answer);
        }
    };
    a.answer(Reply::default().reset());
    ask(502).await;
    a.answer(Reply::default().hang());
    ask(504).await;
    a.answer(Reply::sse().chunk("data: 1\n\n").reset());
    ask(200).await;
    a.stop().await;
    ask(502).await;
    let (ip, port) = (a.addr.ip().to_string(), a.addr.port().to_string());
    for answer in answers {
        let all = format!("{:?} {}", answer.headers, answer.text());
        assert!(
            !all.contains(&ip) && !all.contains(&format!(":{port}")),
            "{all}"
        );
    }
}

#[tokio::test]
async fn an_error_is_json_in_the_clients_dialect() {
    let mut a = Backend::start("a", &["m"]).await;
    let plane = Yaml::default()
        .endpoint(
            "a",
            &a.url(),
            &["health: { mode: Disabled }", "type: ollama"],
        )
        .start()
        .await;
    a.stop().await;
    let openai = plane.chat("m").await;
    assert_eq!(openai.status, 502);
    assert_eq!(openai.json()["error"]["code"], "upstream_unreachable");
    assert_eq!(openai.json()["error"]["type"], "server_error");
    let anthropic = plane.post("/v1/messages", &chat("m")).await;
    assert_eq!(anthropic.json()["type"], "error");
    assert_eq!(anthropic.json()["error"]["type"], "api_error");
    let ollama = plane.post("/api/chat", &chat("m")).await;
    assert!(ollama.json()["error"].is_string());
    for answer in [openai, anthropic, ollama] {
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(
            answer.text().contains("endpoint a"),
            "it names the endpoint"
        );
    }
}

/// Looks for the secret in each line that any test of this process logs.
#[derive(Clone, Default)]
struct Watch(Arc<Watched>);

#[derive(Default)]
struct Watched {
    lines: AtomicUsize,
    leaks: AtomicUsize,
}

impl io::Write for Watch {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lines.fetch_add(1, Ordering::SeqCst);
        if contains(line, SECRET.as_bytes()) {
            self.0.leaks.fetch_add(1, Ordering::SeqCst);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Watch {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[tokio::test]
async fn a_credential_is_never_logged() {
    let watch = Watch::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(watch.clone())
        .init();
    let (mut a, plane) = guarded().await;
    a.answer_next(Reply::default().reset());
    a.answer_next(Reply::sse().chunk("data: 1\n\n").reset());
    join_all((0..4).map(|_| plane.chat("m"))).await;
    a.stop().await;
    plane.chat("m").await;
    plane.wait_instance("a", "health", "Unhealthy").await;
    drop(plane);
    assert!(watch.0.lines.load(Ordering::SeqCst) > 0, "it logs at all");
    assert_eq!(watch.0.leaks.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn trace_cannot_show_what_only_a_backend_may_see() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    for method in ["TRACE", "CONNECT"] {
        let answer = plane.request(method, "/olla/proxy/x", &[], b"").await;
        assert_eq!(answer.status, 405, "{method}");
    }
    assert_eq!(a.count(), 0);
}

#[cfg(target_os = "linux")] // where any address of 127.0.0.0/8 is this machine's
#[tokio::test]
async fn a_client_on_this_machine_is_told_where_backends_are() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    let mut client = plane.stranger().await;
    let status = client.request("GET", "/internal/status", &[], b"").await;
    assert!(status.text().contains(&a.addr.to_string()));
}
