//! Which endpoint a path and a model lead to, and what is said when none.

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    client::Answer,
    plane::{Plane, Yaml, chat},
};

/// A vLLM with `x` and `both`, and an Ollama with `y:latest` and `both`.
pub(crate) async fn two_types() -> (Backend, Backend, Plane) {
    let v = Backend::start("v", &["x", "both"]).await;
    let o = Backend::ollama("o", &["y:latest", "both"]).await;
    let plane = Yaml::default()
        .endpoint("v", &v.url(), &["type: vllm", "priority: 1"])
        .endpoint("o", &o.url(), &["type: ollama", "priority: 2"])
        .start()
        .await;
    (v, o, plane)
}

pub(crate) fn code(answer: &Answer) -> Value {
    answer.json()["error"]["code"].clone()
}

#[tokio::test]
async fn a_model_leads_to_the_endpoint_that_lists_it() {
    let (_v, _o, plane) = two_types().await;
    for (model, endpoint, kind) in [
        ("x", "v", "vllm"),
        ("y", "o", "ollama"),
        ("both", "v", "vllm"),
    ] {
        let answer = plane.chat(model).await;
        assert_eq!(
            (answer.status, answer.endpoint()),
            (200, endpoint),
            "{model}"
        );
        assert_eq!(answer.header("x-olla-backend-type"), Some(kind));
        assert_eq!(answer.header("x-olla-model"), Some(model));
        assert_eq!(answer.header("x-olla-routing-decision"), Some("routed"));
        assert_eq!(answer.header("x-olla-routing-reason"), Some("model_found"));
    }
}

#[tokio::test]
async fn the_capitals_of_a_model_are_kept() {
    let a = Backend::start("a", &["Org/Llama-3.1-8B"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    for model in ["Org/Llama-3.1-8B", "org/LLAMA-3.1-8b"] {
        let answer = plane.chat(model).await;
        assert_eq!(
            (answer.status, answer.header("x-olla-model")),
            (200, Some(model))
        );
        assert_eq!(a.last().json()["model"], model);
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_is_the_backends_to_judge() {
    let (v, _o, plane) = two_types().await;
    for body in [
        &b"not json at all"[..],
        b"{\"model\":",
        b"[1,2",
        b"\xff\xfe\x00",
    ] {
        let answer = plane.request("POST", "/v1/audio", &[], body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(v.last().body, body);
    }
}

#[tokio::test]
async fn a_prefix_restricts_the_type() {
    let (v, o, plane) = two_types().await;
    let both = chat("both");
    for (prefix, endpoint) in [
        ("vllm", "v"),
        ("ollama", "o"),
        ("openai", "v"),
        ("proxy", "v"),
    ] {
        let path = format!("/olla/{prefix}/v1/chat/completions");
        let answer = plane.post(&path, &both).await;
        assert_eq!(answer.endpoint(), endpoint, "{prefix}");
    }
    for backend in [&v, &o] {
        assert_eq!(backend.last().target, "/v1/chat/completions");
    }
    let answer = plane.post("/olla/sglang/v1/chat/completions", &both).await;
    assert_eq!((answer.status, code(&answer)), (404, "no_endpoint".into()));
    assert!(answer.text().contains("/olla/sglang"));
    let elsewhere = plane
        .post("/olla/vllm/v1/chat/completions", &chat("y"))
        .await;
    assert_eq!(code(&elsewhere), "model_not_found");
}

#[tokio::test]
async fn ollamas_own_paths_lead_to_those_that_speak_it() {
    let (v, o, plane) = two_types().await;
    for path in [
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/olla/ollama/api/chat",
    ] {
        let answer = plane.post(path, &chat("both")).await;
        assert_eq!((answer.status, answer.endpoint()), (200, "o"), "{path}");
    }
    assert_eq!(plane.get("/api/version").await.endpoint(), "o");
    assert_eq!((v.count(), o.count()), (0, 5));
}

#[tokio::test]
async fn a_request_without_a_model_goes_to_whoever_is_there() {
    let (_v, _o, plane) = two_types().await;
    let answer = plane.get("/olla/proxy/anything/else").await;
    assert_eq!((answer.status, answer.endpoint()), (200, "v"));
    assert_eq!(answer.header("x-olla-routing-reason"), Some("no_model"));
    assert!(!answer.has("x-olla-model"));
}

#[tokio::test]
async fn path_and_query_reach_the_backend_byte_for_byte() {
    let (v, _o, plane) = two_types().await;
    for target in [
        "/v1/x%2Fy/%7euser?a=1&a=2&b=%20+&c",
        "/v1/single/slash/?",
        "/v1/x?q=../..&r=?&s=%00",
        "/v1/a;b=c/d,e:f@g!$'()*",
    ] {
        assert_eq!(plane.get(target).await.status, 200, "{target}");
        assert_eq!(v.last().target, target);
    }
}

#[tokio::test]
async fn the_base_path_of_a_url_is_kept() {
    let a = Backend::start("a", &["m"]).await;
    let url = format!("{}/tenant/api/", a.url());
    let plane = Yaml::default().endpoint("a", &url, &[]).start().await;
    let answer = plane
        .post("/olla/openai/v1/chat/completions?x=1", &chat("m"))
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(a.last().target, "/tenant/api/v1/chat/completions?x=1");
    let looks: Vec<_> = a.looks().into_iter().map(|look| look.target).collect();
    assert!(
        looks.contains(&"/tenant/api/health".to_owned()),
        "{looks:?}"
    );
    assert!(
        looks.contains(&"/tenant/api/v1/models".to_owned()),
        "{looks:?}"
    );
}

#[tokio::test]
async fn a_path_with_dot_segments_is_refused_in_any_spelling() {
    let (v, _o, plane) = two_types().await;
    for path in [
        "/v1/../internal/x",
        "/olla/vllm/%2e%2e/x",
        "/olla/proxy/./x",
        "/v1/.%2E/x",
    ] {
        let answer = plane.get(path).await;
        assert_eq!(
            (answer.status, code(&answer)),
            (400, "ambiguous_path".into()),
            "{path}"
        );
    }
    assert_eq!(v.count(), 0);
}

#[tokio::test]
async fn what_is_nowhere_is_a_404_that_says_what_there_is() {
    let (v, _o, plane) = two_types().await;
    for path in ["/olla/", "/v2/chat", "/internal/nothing"] {
        let answer = plane.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.json()["error"].is_object() || answer.json()["error"].is_string());
    }
    assert_eq!(v.count(), 0);
}

#[tokio::test]
async fn a_pool_does_not_pull_or_delete_models() {
    let (_v, o, plane) = two_types().await;
    for path in ["/api/pull", "/olla/ollama/api/create"] {
        let answer = plane.post(path, &chat("y")).await;
        assert_eq!(answer.status, 501);
        assert!(answer.json()["error"].as_str().unwrap().contains("/api/"));
    }
    assert_eq!(
        plane
            .request("DELETE", "/api/delete", &[], b"")
            .await
            .status,
        501
    );
    assert_eq!(o.count(), 0);
}

#[tokio::test]
async fn explain_says_where_a_request_would_go_and_why() {
    let (mut v, _o, plane) = two_types().await;
    let explained = plane
        .get("/internal/explain?model=both&path=/v1/chat/completions")
        .await;
    let explained = explained.json();
    assert_eq!(explained["route"], "chats");
    assert_eq!(explained["decision"], "model_found");
    let chosen: Vec<_> = explained["candidates"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&chosen[0]["endpoint"], &chosen[0]["chosen"]),
        (&json!("v"), &json!(true))
    );
    assert_eq!(
        (&chosen[1]["endpoint"], &chosen[1]["chosen"]),
        (&json!("o"), &json!(false))
    );
    v.stop().await;
    plane.wait_instance("v", "health", "Unhealthy").await;
    let explained = plane.get("/internal/explain?model=x").await.json();
    assert_eq!(explained["refusal"], "model_unavailable");
    let unknown = plane.get("/internal/explain?model=none").await.json();
    assert_eq!(unknown["refusal"], "model_not_found");
}

/// The route of `yaml` and another, named `special`, with these members.
fn with_route(yaml: &Yaml, spec: &str) -> String {
    format!(
        "{}---\napiVersion: olla.dev/v1alpha1\nkind: OllaRoute\n\
         metadata: {{ name: special }}\nspec:\n  {spec}\n",
        yaml.text()
    )
}

#[tokio::test]
async fn the_most_specific_route_takes_a_request() {
    let a = Backend::start("a", &["m", "big-1"]).await;
    let b = Backend::start("b", &["m", "big-1"]).await;
    let yaml = Yaml::tiers(&[("a", &a), ("b", &b)]);
    let to_b = "endpoints: { refs: [{ name: b }] }";
    let header = [("x-team", "red")];
    for (matches, path, headers, model) in [
        ("pathPrefix: /olla/vllm", "/olla/vllm/v1/x", &[][..], "m"),
        ("models: ['big-*']", "/v1/x", &[], "big-1"),
        (
            "headers: [{ name: X-Team, value: red }]",
            "/v1/x",
            &header,
            "m",
        ),
    ] {
        let spec = format!("matches: [{{ {matches} }}]\n  {to_b}");
        let plane = Plane::with(Plane::settings(), &with_route(&yaml, &spec)).await;
        let body = chat(model).to_string();
        let special = plane.request("POST", path, headers, body.as_bytes()).await;
        assert_eq!(special.endpoint(), "b", "{matches}");
        assert_eq!(plane.chat("m").await.endpoint(), "a", "{matches}");
        let labels = ["route=\"special\"", "llm_endpoint=\"b\""];
        assert_eq!(plane.metric("olla_requests_total", &labels).await, 1.0);
    }
}

#[tokio::test]
async fn a_route_with_a_path_leaves_other_paths_to_nobody() {
    let a = Backend::start("a", &["m"]).await;
    let yaml = Yaml::tiers(&[("a", &a)]).route("matches: [{ pathPrefix: /olla/vllm }]");
    let plane = yaml.start().await;
    let inside = plane
        .post("/olla/vllm/v1/chat/completions", &chat("m"))
        .await;
    assert_eq!(inside.status, 200);
    for path in ["/v1/chat/completions", "/olla/vllmx/v1/chat/completions"] {
        let answer = plane.post(path, &chat("m")).await;
        assert_eq!(
            (answer.status, code(&answer)),
            (404, "no_route".into()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_path_is_judged_as_backends_read_it_however_it_is_written() {
    let (v, o, plane) = two_types().await;
    for (method, target, status) in [
        ("DELETE", "/api/%64elete", 501),
        ("POST", "/olla/proxy/api%2Fpull", 501),
        ("GET", "/olla/proxy/..%2fother/x", 400),
        ("GET", "/v1/..%5Cx", 400),
    ] {
        let answer = plane.request(method, target, &[], b"").await;
        assert_eq!(answer.status, status, "{target}");
    }
    assert_eq!((v.count(), o.count()), (0, 0));
}

#[tokio::test]
async fn a_route_takes_its_paths_however_they_are_escaped() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)])
        .route("matches: [{ pathPrefix: /v1/chat }]")
        .start()
        .await;
    let escaped = plane.post("/v1/%63hat/completions", &chat("m")).await;
    assert_eq!(escaped.status, 200);
    assert_eq!(a.last().target, "/v1/%63hat/completions");
    let other = plane.post("/v1/%65mbeddings", &chat("m")).await;
    assert_eq!(other.status, 404);
}

/// As all SDKs of OpenAI send sound and pictures.
#[tokio::test]
async fn a_form_goes_where_its_model_is() {
    let chat = Backend::start("chat", &["m"]).await;
    let sound = Backend::start("sound", &["whisper-1"]).await;
    let plane = Yaml::tiers(&[("chat", &chat), ("sound", &sound)])
        .start()
        .await;
    let kind = [("content-type", "multipart/form-data; boundary=xyz")];
    let model = "--xyz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n";
    let file = format!(
        "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n{}\r\n",
        "RIFF".repeat(50_000)
    );
    for parts in [[model, &file], [&file, model]] {
        let body = parts.concat() + "--xyz--\r\n";
        let target = "/v1/audio/transcriptions";
        let answer = plane.request("POST", target, &kind, body.as_bytes()).await;
        assert_eq!((answer.status, answer.endpoint()), (200, "sound"));
        assert_eq!(answer.header("x-olla-model"), Some("whisper-1"));
        assert!(sound.last().body == body.as_bytes());
    }
    let unknown = model.replace("whisper-1", "nobody-has-it") + "--xyz--\r\n";
    let target = "/v1/audio/transcriptions";
    let answer = plane
        .request("POST", target, &kind, unknown.as_bytes())
        .await;
    assert_eq!(answer.status, 404);
    assert_eq!(chat.count(), 0);
}

/// Some readers would pass over it, others would read nothing else.
#[tokio::test]
async fn a_form_that_begins_with_something_else_is_refused() {
    let a = Backend::start("a", &["cheap", "dear"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    let kind = [("content-type", "multipart/form-data; boundary=xyz")];
    let part =
        "--xyz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ncheap\r\n--xyz--\r\n";
    let target = "/v1/audio/transcriptions";
    for before in ["{\"model\":\"dear\"}\r\n", "hello\r\n"] {
        let body = format!("{before}{part}");
        let answer = plane.request("POST", target, &kind, body.as_bytes()).await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json()["error"]["code"], "invalid_form");
    }
    assert_eq!(a.count(), 0);
}
