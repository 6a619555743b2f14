//! Which endpoint a path and a model lead to, and what is said when none.

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    client::Answer,
    plane::{Plane, Yaml, chat},
    reply::Reply,
};

/// A vLLM with `x` and `both`, and an Ollama with `y:latest` and `both`.
async fn two_types() -> (Backend, Backend, Plane) {
    let v = Backend::start("v", &["x", "both"]).await;
    let o = Backend::ollama("o", &["y:latest", "both"]).await;
    let plane = Yaml::default()
        .endpoint("v", &v.url(), &["type: vllm", "priority: 1"])
        .endpoint("o", &o.url(), &["type: ollama", "priority: 2"])
        .start()
        .await;
    (v, o, plane)
}

fn code(answer: &Answer) -> Value {
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
async fn an_ollama_tag_of_latest_may_be_left_out_or_added() {
    let o = Backend::ollama("o", &["y:latest", "plain"]).await;
    let yaml = Yaml::default().endpoint("o", &o.url(), &["type: ollama"]);
    let plane = yaml.start().await;
    for model in ["y", "y:latest", "Y", "plain"] {
        let answer = plane.post("/api/chat", &chat(model)).await;
        assert_eq!(answer.status, 200, "{model}");
        assert_eq!(o.last().json()["model"], model, "the body stays");
    }
}

#[tokio::test]
async fn an_unknown_model_is_a_404_in_the_clients_dialect() {
    let (v, o, plane) = two_types().await;
    let model = chat("nobody-has-this");
    let openai = plane.post("/v1/chat/completions", &model).await;
    assert_eq!(openai.status, 404);
    assert_eq!(openai.header("content-type"), Some("application/json"));
    assert_eq!(openai.json()["error"]["code"], "model_not_found");
    assert_eq!(openai.json()["error"]["type"], "invalid_request_error");
    assert_eq!(openai.header("x-olla-routing-decision"), Some("rejected"));
    assert_eq!(
        openai.header("x-olla-routing-reason"),
        Some("model_not_found")
    );
    assert!(!openai.has("x-olla-endpoint"));

    let anthropic = plane.post("/v1/messages", &model).await;
    assert_eq!(anthropic.status, 404);
    assert_eq!(anthropic.json()["type"], "error");
    assert_eq!(anthropic.json()["error"]["type"], "not_found_error");
    let id = anthropic.header("x-olla-request-id").unwrap();
    assert_eq!(anthropic.json()["request_id"], id);

    let ollama = plane.post("/api/chat", &model).await;
    assert_eq!(ollama.status, 404);
    assert!(
        ollama.json()["error"]
            .as_str()
            .unwrap()
            .contains("nobody-has-this")
    );
    assert_eq!((v.count(), o.count()), (0, 0));
}

#[tokio::test]
async fn a_known_model_whose_endpoint_is_down_is_a_503_that_says_when_to_come_back() {
    let (mut v, _o, plane) = two_types().await;
    v.stop().await;
    plane.wait_instance("v", "health", "Unhealthy").await;
    for path in ["/v1/chat/completions", "/olla/proxy/v1/chat/completions"] {
        let answer = plane.post(path, &chat("x")).await;
        assert_eq!(answer.status, 503);
        assert_eq!(code(&answer), "model_unavailable");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    let answer = plane.post("/v1/messages", &chat("x")).await;
    assert_eq!(answer.json()["error"]["type"], "overloaded_error");
}

#[tokio::test]
async fn only_the_top_level_model_is_the_model() {
    let (_v, o, plane) = two_types().await;
    let document = r#"{ "messages": [{ "model": "x", "content": "\"model\": \"x\"" }],
        "tools": { "model": "x" }, "model": "y" }"#;
    let target = "/v1/chat/completions";
    let answer = plane
        .request("POST", target, &[], document.as_bytes())
        .await;
    assert_eq!(answer.endpoint(), "o");
    assert_eq!(o.last().body, document.as_bytes());
}

#[tokio::test]
async fn a_model_that_stands_twice_is_refused() {
    let (v, o, plane) = two_types().await;
    let body = br#"{"model":"x","model":"y"}"#;
    let answer = plane
        .request("POST", "/v1/chat/completions", &[], body)
        .await;
    assert_eq!(
        (answer.status, code(&answer)),
        (400, "duplicate_key".into())
    );
    assert_eq!((v.count(), o.count()), (0, 0));
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
        "/v1//double///slash?",
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
    for path in ["/", "/v2/chat", "/internal/nothing"] {
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
async fn models_are_listed_in_each_shape() {
    let (_v, _o, plane) = two_types().await;
    let names = |document: &Value, list: &str, member: &str| -> Vec<String> {
        let list = document[list].as_array().unwrap().iter();
        list.map(|m| m[member].as_str().unwrap().to_owned())
            .collect()
    };
    let all = ["both", "x", "y:latest"];
    let openai = plane.get("/v1/models").await.json();
    assert_eq!(openai["object"], "list");
    assert_eq!(names(&openai, "data", "id"), all);
    let unified = plane.get("/olla/models").await.json();
    assert_eq!(names(&unified, "data", "id"), all);
    let both = &unified["data"][0]["olla"]["availability"];
    assert_eq!(
        (&both[0]["endpoint"], &both[1]["endpoint"]),
        (&"o".into(), &"v".into())
    );
    let tags = plane.get("/api/tags").await.json();
    assert_eq!(names(&tags, "models", "name"), ["both", "y:latest"]);
    let anthropic = plane.get("/olla/anthropic/v1/models").await.json();
    assert_eq!(anthropic["has_more"], false);
    assert_eq!(names(&anthropic, "data", "id"), all);
    let version = [("anthropic-version", "2023-06-01")];
    let by_header = plane.request("GET", "/v1/models", &version, b"").await;
    assert_eq!(by_header.json(), anthropic);
    let of_vllm = plane.get("/olla/vllm/v1/models").await.json();
    assert_eq!(names(&of_vllm, "data", "id"), ["both", "x"]);
    let studio = plane.get("/olla/proxy/api/v0/models").await.json();
    assert_eq!(names(&studio, "data", "id"), all);

    let one = plane.get("/v1/models/y:latest").await;
    assert_eq!((one.status, &one.json()["id"]), (200, &"y:latest".into()));
    let none = plane.get("/v1/models/none").await;
    assert_eq!((none.status, code(&none)), (404, "model_not_found".into()));
    let status = plane.get("/internal/status/models").await.json();
    assert_eq!(status["total_models"], 3);
}

#[tokio::test]
async fn models_of_an_endpoint_that_is_down_are_not_listed() {
    let (mut v, _o, plane) = two_types().await;
    v.stop().await;
    plane.wait_instance("v", "health", "Unhealthy").await;
    let listing = plane.get("/v1/models").await.text();
    assert!(
        !listing.contains("\"x\"") && listing.contains("\"both\""),
        "{listing}"
    );
}

#[tokio::test]
async fn a_model_that_appears_in_the_listing_is_routed_soon_after() {
    let a = Backend::start("a", &["m"]).await;
    let often = "models: { discovery: { interval: 100ms } }";
    let plane = Yaml::default()
        .endpoint("a", &a.url(), &[often])
        .start()
        .await;
    assert_eq!(plane.chat("new").await.status, 404);
    a.listing(Reply::listing(&["m", "new"]));
    let routed = async || plane.chat("new").await.status == 200;
    crate::support::wait_for("it is routed", routed).await;
}

#[tokio::test]
async fn models_can_be_named_left_out_and_put_in_by_hand() {
    let a = Backend::start("a", &["keep-1", "keep-2", "drop-1"]).await;
    let models = "models: { static: [extra], include: ['keep-*', extra], exclude: ['*-2'] }";
    let plane = Yaml::default()
        .endpoint("a", &a.url(), &[models])
        .start()
        .await;
    for (model, status) in [
        ("keep-1", 200),
        ("keep-2", 404),
        ("drop-1", 404),
        ("extra", 200),
    ] {
        assert_eq!(plane.chat(model).await.status, status, "{model}");
    }
}

#[tokio::test]
async fn auto_finds_out_what_an_endpoint_is() {
    let o = Backend::ollama("o", &["m"]).await;
    let v = Backend::start("v", &["n"]).await;
    v.answer(Reply::chat("v"));
    let plane = Yaml::default()
        .endpoint("o", &o.url(), &["type: auto"])
        .start()
        .await;
    assert_eq!(plane.instance("o").await["type"], "ollama");
    let answer = plane.post("/api/chat", &chat("m")).await;
    assert_eq!(answer.header("x-olla-backend-type"), Some("ollama"));
    drop(v);
}

#[tokio::test]
async fn an_endpoint_without_a_listing_is_tried_with_any_model() {
    let a = Backend::start("a", &[]).await;
    a.listing(Reply::status(404));
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    let answer = plane.chat("whatever").await;
    assert_eq!((answer.status, answer.endpoint()), (200, "a"));
    let reason = answer.header("x-olla-routing-reason");
    assert_eq!(reason, Some("model_unknown_endpoint"));
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
        let spec = format!("match: {{ {matches} }}\n  {to_b}");
        let plane = Plane::with(Plane::settings(), &with_route(&yaml, &spec)).await;
        let body = chat(model).to_string();
        let special = plane.request("POST", path, headers, body.as_bytes()).await;
        assert_eq!(special.endpoint(), "b", "{matches}");
        assert_eq!(plane.chat("m").await.endpoint(), "a", "{matches}");
        let labels = ["route=\"special\"", "endpoint=\"b\""];
        assert_eq!(plane.metric("olla_requests_total", &labels).await, 1.0);
    }
}

#[tokio::test]
async fn a_route_with_a_path_leaves_other_paths_to_nobody() {
    let a = Backend::start("a", &["m"]).await;
    let yaml = Yaml::tiers(&[("a", &a)]).route("match: { pathPrefix: /olla/vllm }");
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
