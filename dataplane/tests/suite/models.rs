//! Models: who lists them, how they are listed, and what a request that names one gets.

use serde_json::Value;

use crate::{
    routing::{code, two_types},
    support::{
        backend::Backend,
        plane::{Yaml, chat},
        reply::Reply,
        wait_for,
    },
};

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
    let often = "models: { discovery: { interval: 1s } }";
    let plane = Yaml::default()
        .endpoint("a", &a.url(), &[often])
        .start()
        .await;
    assert_eq!(plane.chat("new").await.status, 404);
    a.listing(Reply::listing(&["m", "new"]));
    let routed = async || plane.chat("new").await.status == 200;
    wait_for("it is routed", routed).await;
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
    let plane = Yaml::default()
        .endpoint("o", &o.url(), &["type: auto"])
        .start()
        .await;
    assert_eq!(plane.instance("o").await["type"], "ollama");
    let answer = plane.post("/api/chat", &chat("m")).await;
    assert_eq!(answer.header("x-olla-backend-type"), Some("ollama"));
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
async fn one_model_is_told_from_all_lists_under_a_prefix_too() {
    let (a, b) = (
        Backend::start("a", &["m"]).await,
        Backend::start("b", &["n", "org/m:8b"]).await,
    );
    let plane = Yaml::equal(&[("a", &a), ("b", &b)]).start().await;
    for (written, model) in [
        ("m", "m"),
        ("n", "n"),
        ("org/m:8b", "org/m:8b"),
        ("org%2Fm%3A8b", "org/m:8b"),
    ] {
        let answer = plane
            .get(&format!("/olla/openai/v1/models/{written}"))
            .await;
        assert_eq!((answer.status, &answer.json()["id"]), (200, &model.into()));
    }
    assert_eq!(plane.get("/olla/openai/v1/models/x").await.status, 404);
    assert_eq!(a.count() + b.count(), 0, "no backend is asked");
}
