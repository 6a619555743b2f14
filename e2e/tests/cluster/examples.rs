//! Does each folder of `deploy/examples` do what its README says? Applied with kubectl, its hosts
//! replaced by backends that can be killed; the same three sentences hold for most of them.

use anyhow::{Context, Result};
use e2e::mock_llm::Mode;
use e2e::{DataPlane, MockLlm, World, wait};
use serde_json::json;

use crate::example::{Example, MODEL, SOON, folder};

#[test]
fn example_folders_are_taken_by_kubectl_as_their_readmes_say() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let mut taken = 0;
    for entry in std::fs::read_dir(folder())? {
        let path = entry?.path();
        // That one brings its own namespaces, and Olla's files are not for kubectl.
        if !path.is_dir() || path.ends_with("multi-tenant") || path.ends_with("olla-config") {
            continue;
        }
        let path = path.to_str().context("the path is not UTF-8")?;
        let said = tenant.kubectl(&["apply", "--dry-run=server", "-f", path])?;
        assert!(said.contains("ollaroute.olla.dev/"), "{path}: {said}");
        taken += 1;
    }
    assert!(taken > 10, "{taken} folders");
    Ok(())
}

#[test]
fn example_reliability_layer_survives_the_existing_setup() -> Result<()> {
    let world = World::shared()?;
    let example = Example::apply("reliability-layer", world.tenant()?)?;
    example.dies_and_returns(&["existing-setup"], &["new-backup"])
}

#[test]
fn example_hybrid_cloud_bills_only_when_nothing_local_is_left() -> Result<()> {
    let world = World::shared()?;
    let example = Example::apply("hybrid-cloud", world.tenant()?)?;
    example.dies_and_returns(&["local-gpu"], &["edge-server"])?;
    let cloud = example.backend("cloud-litellm")?;
    assert_eq!(cloud.seen().len(), 0, "nothing was billed so far");
    example.backend("local-gpu")?.kill()?;
    example.backend("edge-server")?.kill()?;
    example.answered_by(&["cloud-litellm"])?;
    example.backend("edge-server")?.revive()?;
    example.wait_answered_by(&["edge-server"])
}

#[test]
fn example_multi_tenant_teams_notice_nothing_of_each_other() -> Result<()> {
    let world = World::shared()?;
    let tenant = |name| world.tenant_named(name);
    let team_a = Example::apply("multi-tenant", tenant("team-a")?)?;
    let team_b = Example::apply("multi-tenant", tenant("team-b")?)?;
    let production = Example::apply("multi-tenant", tenant("production")?)?;

    team_a.answered_by(&["team-a-gpu"])?;
    team_a.backend("team-a-gpu")?.kill()?;
    team_a.wait_told_to_come_back(MODEL)?;
    team_b.dies_and_returns(&["team-b-gpu"], &["shared"])?;
    production.answered_by(&["pool-1", "pool-2"])?;
    production.backend("pool-1")?.kill()?;
    production.answered_by(&["pool-2"])?;
    for (team, own) in [(&team_b, 2), (&production, 2)] {
        assert_eq!(team.data_plane.instances()?.len(), own);
    }
    team_a.backend("team-a-gpu")?.revive()?;
    team_a.wait_answered_by(&["team-a-gpu"])
}

#[test]
fn example_litellm_single_answers_what_local_models_cannot() -> Result<()> {
    let world = World::shared()?;
    let models = |name: &str| match name {
        "litellm-cloud" => vec![MODEL, "gpt-5"],
        _ => vec![MODEL],
    };
    let example = Example::apply_with("litellm-single", world.tenant()?, models)?;
    assert_eq!(example.client().answerer("gpt-5")?, "litellm-cloud");
    example.dies_and_returns(&["local-models"], &["litellm-cloud"])
}

#[test]
fn example_litellm_redundant_shares_and_survives_one() -> Result<()> {
    let world = World::shared()?;
    let example = Example::apply("litellm-redundant", world.tenant()?)?;
    let both = ["litellm-backup", "litellm-primary"];
    example.answered_by(&both)?;
    example.backend("litellm-primary")?.kill()?;
    example.answered_by(&["litellm-backup"])?;
    example.backend("litellm-primary")?.revive()?;
    example.wait_answered_by(&both)
}

#[test]
fn example_gpustack_pools_fall_back_when_both_are_gone() -> Result<()> {
    let world = World::shared()?;
    let example = Example::apply("gpustack-pools", world.tenant()?)?;
    let pools = ["gpustack-pool-a", "gpustack-pool-b"];
    example.answered_by(&pools)?;
    example.backend("gpustack-pool-a")?.kill()?;
    example.answered_by(&["gpustack-pool-b"])?;
    example.backend("gpustack-pool-a")?.revive()?;
    example.dies_and_returns(&pools, &["static-ollama"])
}

#[test]
fn example_ollama_multi_instance_lists_all_models_and_uses_the_fastest() -> Result<()> {
    let world = World::shared()?;
    let models = |name: &str| match name {
        "ollama-cpu" => vec![MODEL, "only-on-cpu"],
        _ => vec![MODEL],
    };
    let example = Example::apply_with("ollama-multi-instance", world.tenant()?, models)?;
    let tags = example.client().get("/api/tags")?.good()?.body;
    assert!(
        tags.contains(MODEL) && tags.contains("only-on-cpu"),
        "{tags}"
    );
    let chat = json!({"model": MODEL, "messages": [], "stream": false});
    let reply = example.client().post("/api/chat", &chat, &[])?.good()?;
    assert_eq!(reply.endpoint(), "ollama-3090");
    assert_eq!(example.client().answerer("only-on-cpu")?, "ollama-cpu");
    example.dies_and_returns(&["ollama-3090"], &["ollama-m1"])?;
    example.backend("ollama-3090")?.kill()?;
    example.backend("ollama-m1")?.kill()?;
    example.answered_by(&["ollama-cpu"])
}

#[test]
fn example_localai_moves_to_the_backup_and_back() -> Result<()> {
    let world = World::shared()?;
    let example = Example::apply("localai", world.tenant()?)?;
    example.dies_and_returns(&["localai-primary"], &["localai-backup"])
}

#[test]
fn example_circuit_breaker_leaves_a_failing_backend_alone() -> Result<()> {
    let world = World::shared()?;
    let example = Example::apply("circuit-breaker", world.tenant()?)?;
    let primary = example.backend("primary")?;
    primary.set_mode(Mode::Fail(503));
    let answerers = example.client().answerers(MODEL, 12)?;
    assert!(
        answerers.iter().all(|name| name == "backup"),
        "{answerers:?}"
    );
    assert_eq!(primary.seen().len(), 5, "then its breaker was open");
    let status = example.data_plane.status()?.to_string();
    assert!(
        status.to_lowercase().contains("\"breaker\":\"open\""),
        "{status}"
    );

    primary.set_mode(Mode::Answer);
    wait("primary may try again", 2 * SOON, || {
        example.answered_by(&["primary"]).map(Some)
    })
}

#[test]
fn example_chaos_endpoint_fails_and_nobody_notices() -> Result<()> {
    let world = World::shared()?;
    let example = Example::apply("chaos-endpoint", world.tenant()?)?;
    let chaos = example.backend("chaos-endpoint")?;
    chaos.set_mode(Mode::FailEvery(10));
    let mut second_attempts = 0;
    for _ in 0..40 {
        let reply = example.client().chat(MODEL)?.good()?;
        second_attempts += usize::from(reply.header("x-olla-attempts") == "2");
    }
    assert_eq!(chaos.seen().len(), 20, "the same priority is half of 40");
    assert_eq!(second_attempts, 2, "one in ten of those failed first");
    chaos.kill()?;
    example.answered_by(&["primary"])?;
    example.backend("primary")?.kill()?;
    example.answered_by(&["backup"])
}

#[test]
fn example_geographic_prefers_the_region_that_the_client_names() -> Result<()> {
    let world = World::shared()?;
    let example = Example::apply("geographic", world.tenant()?)?;
    let from = |region: &str| -> Result<String> {
        let chat = json!({"model": MODEL, "messages": []});
        let headers = [("x-region", region)];
        let reply = example
            .client()
            .post("/v1/chat/completions", &chat, &headers)?;
        Ok(reply.good()?.endpoint().to_owned())
    };
    assert_eq!(from("apac")?, "sing-secondary");
    assert_eq!(from("americas")?, "us-tertiary");
    example.dies_and_returns(&["syd-primary"], &["sing-secondary"])?;
    example.backend("us-tertiary")?.kill()?;
    assert_eq!(from("americas")?, "sing-secondary");
    example.backend("sing-secondary")?.kill()?;
    assert_eq!(from("americas")?, "syd-primary");
    Ok(())
}

#[test]
fn example_model_specialisation_keeps_embeddings_off_the_gpus() -> Result<()> {
    let world = World::shared()?;
    let embedding = "text-embed-small";
    let models = |name: &str| match name {
        "embedder" => vec!["text-embed-small"],
        _ => vec![MODEL],
    };
    let example = Example::apply_with("model-specialisation", world.tenant()?, models)?;
    assert_eq!(example.client().answerer(embedding)?, "embedder");
    example.dies_and_returns(&["gpu-1"], &["gpu-2"])?;
    example.backend("embedder")?.kill()?;
    example.wait_told_to_come_back(embedding)?;
    example.answered_by(&["gpu-1"])
}

#[test]
fn example_capacity_planning_keeps_the_planned_shares() -> Result<()> {
    let world = World::shared()?;
    let example = Example::apply("capacity-planning", world.tenant()?)?;
    let count = |name: &str, seen: &[String]| seen.iter().filter(|n| *n == name).count();
    let seen = example.client().answerers(MODEL, 50)?;
    assert_eq!(count("primary-pool", &seen), 40);
    assert_eq!(count("overflow-pool", &seen), 10);
    example.backend("primary-pool")?.kill()?;
    example.answered_by(&["overflow-pool"])?;
    example.backend("overflow-pool")?.kill()?;
    example.answered_by(&["emergency-pool"])?;
    example.backend("overflow-pool")?.revive()?;
    example.wait_answered_by(&["overflow-pool"])
}

#[test]
fn example_olla_config_serves_without_a_cluster_in_both_layouts() -> Result<()> {
    let cluster = e2e::Cluster::shared()?;
    for (file, first, second) in [
        ("config.yaml", "local-models", "litellm-cloud"),
        ("short.yaml", "existing-setup", "new-backup"),
    ] {
        let path = folder().join("olla-config").join(file);
        let mut text = std::fs::read_to_string(path).context(file)?;
        let (a, b) = (
            MockLlm::start(first, &[MODEL])?,
            MockLlm::start(second, &[MODEL])?,
        );
        for (host, mock) in [
            ("http://ollama.example.internal:11434", &a),
            ("http://litellm.example.internal:4000", &b),
            ("http://current-llm.example.internal:8080", &a),
            ("http://backup-llm.example.internal:8080", &b),
        ] {
            text = text.replace(host, &mock.url());
        }
        let name = format!("olla-{}", file.trim_end_matches(".yaml"));
        let data_plane = DataPlane::start_on_file(cluster, &name, &text)?;
        let client = data_plane.client();
        wait("the models are known", SOON, || {
            client.answerer(MODEL).map(Some)
        })?;
        assert_eq!(client.answerer(MODEL)?, first, "{file}");
        a.kill()?;
        assert_eq!(client.answerer(MODEL)?, second, "{file}");
    }
    Ok(())
}
