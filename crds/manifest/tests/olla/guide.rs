//! The files of Olla's integration guide, as they stand there: the short layout.

use dataplane_protocol::table::Balancer;

use crate::{notes, read, route, table, tiers};

#[test]
fn the_reliability_layer_of_the_guide_imports() {
    let text = "\
proxy:
  engine: sherpa  # Start simple
  load_balancer: priority

endpoints:
  - name: existing-setup
    url: http://current-llm:8080
    priority: 1
  - name: new-backup
    url: http://backup-llm:8080
    priority: 2
";
    assert_eq!(tiers(text), [["existing-setup"], ["new-backup"]]);
    let table = table(text);
    let route = route(&table);
    assert_eq!(route.breaker, None);
    assert_eq!(route.balancer, Balancer::Priority);
    assert!(route.failover.on.connect_failure && !route.failover.on.reset);
}

#[test]
fn the_hybrid_cloud_of_the_guide_imports() {
    let text = "\
endpoints:
  - name: local-gpu
    url: http://localhost:11434
    priority: 1
    type: ollama

  - name: edge-server
    url: http://edge:11434
    priority: 2
    type: ollama

  - name: cloud-litellm
    url: http://litellm:8000
    priority: 10  # Only when local unavailable
    type: openai
";
    assert_eq!(
        tiers(text),
        [["local-gpu"], ["edge-server"], ["cloud-litellm"]]
    );
    assert_eq!(table(text).endpoints["edge-server"].profile, "ollama");
}

#[test]
fn regions_and_clusters_of_the_guide_import() {
    let text = "\
endpoints:
  # GPUStack managed cluster
  - name: gpustack-pool-a
    url: http://gpustack-a:8080
    priority: 1

  - name: gpustack-pool-b
    url: http://gpustack-b:8080
    priority: 1

  # Manual fallback
  - name: static-ollama
    url: http://backup:11434
    priority: 10
";
    let expected: [&[&str]; 2] = [&["gpustack-pool-a", "gpustack-pool-b"], &["static-ollama"]];
    assert_eq!(tiers(text), expected);
    assert_eq!(table(text).endpoints["static-ollama"].profile, "auto");
    let text = "\
endpoints:
  - name: syd-primary
    url: http://syd.internal:8080
    priority: 1  # Highest for local users
  - name: sing-secondary
    url: http://sing.internal:8080
    priority: 5  # Regional fallback
  - name: us-tertiary
    url: http://us.internal:8080
    priority: 10  # Last resort
";
    assert_eq!(
        tiers(text),
        [["syd-primary"], ["sing-secondary"], ["us-tertiary"]]
    );
}

/// The one example of the guide that counts the other way round: the warning is all that tells.
#[test]
fn litellm_of_the_guide_imports_with_a_warning_about_its_direction() {
    let text = "\
# Olla has native LiteLLM support - use the dedicated profile
endpoints:
  - name: local-models
    url: http://ollama:11434
    type: ollama
    priority: 100

  - name: litellm-cloud
    url: http://litellm:4000
    type: litellm  # Native LiteLLM profile!
    priority: 75
    model_url: /v1/models
    health_check_url: /health
";
    assert_eq!(tiers(text), [["litellm-cloud"], ["local-models"]]);
    assert_eq!(
        notes(&read(text)),
        [
            "warning config.yaml:13: endpoints[1] (litellm-cloud).health_check_url: /health of litellm sends a request to each model, so every probe costs tokens; omit it to probe /health/liveliness",
            "warning config.yaml:2: proxy.priority_order: not set: 75 is preferred over 100, as the \
          integration guide writes it, while Olla itself prefers larger numbers; set lowest_first \
          or highest_first"
        ]
    );
    let table = table(text);
    let cloud = &table.endpoints["litellm-cloud"];
    assert_eq!(cloud.health.paths, ["/health"]);
    assert_eq!(
        cloud.models.discovery.as_ref().unwrap().listings[0].path,
        "/v1/models"
    );
    let said = format!("proxy: {{priority_order: highest_first}}\n{text}");
    assert_eq!(tiers(&said), [["local-models"], ["litellm-cloud"]]);
    assert_eq!(notes(&read(&said)).len(), 1);
}

#[test]
fn a_redundant_pair_shares_a_tier_without_any_note() {
    let text = "\
endpoints:
  - name: litellm-primary
    url: http://litellm1:4000
    type: litellm
    priority: 90
  - name: litellm-backup
    url: http://litellm2:4000
    type: litellm
    priority: 90  # Same priority for round-robin
";
    assert_eq!(tiers(text), [["litellm-backup", "litellm-primary"]]);
    assert_eq!(notes(&read(text)), Vec::<String>::new());
}

#[test]
fn canary_chaos_and_capacity_of_the_guide_import() {
    let text = "\
endpoints:
  - name: primary
    url: http://primary:8080
    priority: 1
  - name: chaos-endpoint
    url: http://chaos:8080  # Fails 10% of requests
    priority: 1  # Equal priority to test failover
  - name: backup
    url: http://backup:8080
    priority: 2
";
    let expected: [&[&str]; 2] = [&["chaos-endpoint", "primary"], &["backup"]];
    assert_eq!(tiers(text), expected);
    // As printed in the guide, without any url.
    let text = "endpoints:\n  - name: primary-pool\n    priority: 1  # 80% traffic\n";
    assert_eq!(
        notes(&read(text)),
        ["error config.yaml:2: endpoints[0] (primary-pool).url: must be set"]
    );
}

#[test]
fn the_tuning_fragments_of_the_guide_are_recognised() {
    let with = |fragment: &str| {
        table(&format!(
            "{fragment}endpoints:\n  - name: a\n    url: http://a:8080\n"
        ))
    };
    let tuned = with("proxy:\n  engine: olla\nhealth:\n  interval: 10s\n  timeout: 5s\n");
    let health = &tuned.endpoints["a"].health;
    assert_eq!((health.interval_ms, health.timeout_ms), (10_000, 5_000));
    let breaker = route(&tuned).breaker.as_ref().unwrap();
    assert_eq!(
        (breaker.consecutive_failures, breaker.open_for_ms),
        (5, 30_000)
    );

    let discovery = with("discovery:\n  enabled: true\n  interval: 45s\n");
    let models = &discovery.endpoints["a"].models;
    assert_eq!(models.discovery.as_ref().unwrap().interval_ms, 45_000);

    for (word, balancer) in [
        ("round_robin", Balancer::RoundRobin),
        ("round-robin", Balancer::RoundRobin),
        ("least_connections", Balancer::LeastConnections),
        ("least-connections", Balancer::LeastConnections),
        ("priority", Balancer::Priority),
    ] {
        let table = with(&format!("proxy:\n  load_balancer: {word}\n"));
        assert_eq!(route(&table).balancer, balancer);
    }
    assert!(!read("health:\n  interval: 10s\n").has_errors());
    assert!(read("# only a comment\n").notes.is_empty());
}
