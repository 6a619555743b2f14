//! Do the real SDKs work against a data plane as against the services they were written for?

use anyhow::Result;
use e2e::{DataPlane, MockLlm, World, run_python, wait};

use crate::support::{MODEL, SOON, route, wait_answer};

/// A backend of a type that speaks the dialect, and a data plane before it.
fn served_as(world: &World, type_: &str) -> Result<(MockLlm, DataPlane)> {
    let tenant = world.tenant()?;
    let backend = MockLlm::start("base", &[MODEL])?;
    let endpoint = crate::support::endpoint("base", &backend.url(), "")
        .replace("type: openai", &format!("type: {type_}"));
    tenant.apply(&(endpoint + &route("main", "{}")))?;
    let data_plane = tenant.data_plane()?;
    wait_answer(&data_plane, "base")?;
    Ok((backend, data_plane))
}

#[test]
fn the_openai_client_chats_streams_lists_and_understands_errors() -> Result<()> {
    let world = World::shared()?;
    let (_backend, data_plane) = served_as(&world, "openai")?;
    for prefix in ["/v1", "/olla/openai/v1"] {
        let url = data_plane.client().url() + prefix;
        let said = run_python("openai_client.py", &[&url, MODEL])?;
        assert_eq!(said["chat"], "Hello from base .", "{said}");
        assert_eq!(said["finish"], "stop", "{said}");
        assert_eq!(said["stream"], "Hello from base .", "{said}");
        assert_eq!(said["models"], serde_json::json!([MODEL]), "{said}");
        assert_eq!(said["unknown"]["type"], "NotFoundError", "{said}");
        assert_eq!(said["unknown"]["code"], "model_not_found", "{said}");
        assert_eq!(said["endpoint"], "base", "{said}");
    }
    Ok(())
}

#[test]
fn the_ollama_client_chats_streams_lists_and_understands_errors() -> Result<()> {
    let world = World::shared()?;
    let (_backend, data_plane) = served_as(&world, "ollama")?;
    for prefix in ["", "/olla/ollama"] {
        let url = data_plane.client().url() + prefix;
        let said = run_python("ollama_client.py", &[&url, MODEL])?;
        assert_eq!(said["chat"], "Hello from base .", "{said}");
        assert_eq!(said["stream"], "Hello from base .", "{said}");
        assert_eq!(said["models"], serde_json::json!([MODEL]), "{said}");
        assert_eq!(said["unknown"]["status"], 404, "{said}");
        let message = said["unknown"]["message"].to_string();
        assert!(message.contains("no-such-model"), "{said}");
    }
    Ok(())
}

#[test]
fn the_anthropic_client_chats_streams_and_understands_errors() -> Result<()> {
    let world = World::shared()?;
    let (_backend, data_plane) = served_as(&world, "vllm")?;
    for prefix in ["", "/olla/anthropic"] {
        let url = data_plane.client().url() + prefix;
        let said = run_python("anthropic_client.py", &[&url, MODEL])?;
        assert_eq!(said["chat"], "Hello from base .", "{said}");
        assert_eq!(said["stream"], "Hello from base .", "{said}");
        assert_eq!(said["stop"], "end_turn", "{said}");
        assert_eq!(said["unknown"]["type"], "NotFoundError", "{said}");
        let body = &said["unknown"]["body"];
        assert_eq!(body["error"]["type"], "not_found_error", "{said}");
    }
    Ok(())
}

#[test]
fn every_client_raises_its_own_error_when_a_stream_is_cut() -> Result<()> {
    let world = World::shared()?;
    for (client, type_) in [
        ("openai", "openai"),
        ("ollama", "ollama"),
        ("anthropic", "vllm"),
    ] {
        let (backend, data_plane) = served_as(&world, type_)?;
        let url = data_plane.client().url();
        backend.hold();
        let said = std::thread::scope(|scope| {
            let script = scope.spawn(|| run_python("cut_stream.py", &[client, &url, MODEL]));
            wait("the stream has begun", SOON, || {
                Ok((backend.open_streams() == 1).then_some(()))
            })?;
            backend.kill()?;
            script.join().expect("running a script does not panic")
        })?;
        assert_eq!(said["error"]["module"], client, "{said}");
        let text = said["text"].as_str().unwrap_or_default();
        assert!(!text.ends_with('.'), "as if it were whole: {said}");
    }
    Ok(())
}
