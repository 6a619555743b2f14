//! Olla's own config files: what they mean here, and what is said about the rest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use compile::{
    compile,
    manifest::{Loaded, Source, load},
};
use dataplane_protocol::{
    RoutingTable,
    table::{Balancer, Credential, Endpoint, Route},
};

fn read(text: &str) -> Loaded {
    let source = Source {
        name: "config.yaml".to_owned(),
        text: text.to_owned(),
    };
    let env = |name: &str| (name == "OPENAI_API_KEY").then(|| "sk-hunter2".to_owned());
    load(&[source], "default", &env)
}

fn notes(loaded: &Loaded) -> Vec<String> {
    let notes = loaded.notes.iter();
    notes
        .map(|note| format!("{} {note}", note.severity))
        .collect()
}

/// The table of a file in which nothing is wrong, warnings aside.
fn table(text: &str) -> RoutingTable {
    let loaded = read(text);
    assert!(!loaded.has_errors(), "{:?}", notes(&loaded));
    let input = &loaded.namespaces["default"];
    let compiled = compile("default", &input.objects, &input.facts);
    for verdict in &compiled.verdicts {
        assert_eq!(verdict.accepted, Ok(()), "{}", verdict.name);
        assert_eq!(verdict.resolved_refs, Ok(()), "{}", verdict.name);
    }
    compiled.table
}

fn route(table: &RoutingTable) -> &Route {
    assert_eq!(table.routes.len(), 1);
    assert_eq!(table.routes[0].id.as_str(), "olla");
    &table.routes[0]
}

/// Endpoints by tier, best first.
fn tiers(text: &str) -> Vec<Vec<String>> {
    let table = table(text);
    let mut tiers: Vec<Vec<String>> = Vec::new();
    for target in &route(&table).targets {
        tiers.resize(tiers.len().max(target.tier as usize + 1), Vec::new());
        tiers[target.tier as usize].push(target.endpoint.to_string());
    }
    tiers
}

fn endpoint(text: &str) -> Endpoint {
    let table = table(text);
    assert_eq!(table.endpoints.len(), 1);
    table.endpoints.values().next().unwrap().as_ref().clone()
}

/// A file with one endpoint, in Olla's own layout; `more` are further members of it.
fn one(more: &str) -> String {
    format!(
        "discovery:\n  static:\n    endpoints:\n      - url: http://gpu:8000\n        \
         name: gpu\n{more}"
    )
}

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
            "warning config.yaml:13: endpoints[1].health_check_url: /health of litellm asks its models, \
          so every probe costs tokens; leave it out for /health/liveliness",
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
        ["error config.yaml:2: endpoints[0].url: must be set"]
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

#[test]
fn ollas_own_layout_prefers_larger_numbers_and_fewest_connections() {
    let text = "\
server:
  host: 0.0.0.0
  port: 8080
proxy:
  load_balancer: priority
discovery:
  type: static
  model_discovery: {enabled: true, interval: 5m}
  static:
    endpoints:
      - {name: low, url: 'http://low:1', priority: 10}
      - {name: high, url: 'http://high:1', priority: 90}
      - {name: default, url: 'http://default:1'}
";
    assert_eq!(tiers(text), [["default"], ["high"], ["low"]]);
    assert_eq!(read(text).settings.listen.as_deref(), Some("0.0.0.0:8080"));
    assert_eq!(notes(&read(text)).len(), 1);
    let silent = text.replace("  load_balancer: priority\n", "  engine: olla\n");
    assert_eq!(route(&table(&silent)).balancer, Balancer::LeastConnections);
    assert_eq!(
        notes(&read(&silent)),
        [
            "warning config.yaml:4: proxy.priority_order: not set: priorities count only with \
             `load_balancer: priority`; with it 100 would be preferred over 10, since Olla itself \
             prefers larger numbers"
        ]
    );
    let turned = format!("{text}      - {{name: x, url: 'http://x'}}\n").replace(
        "load_balancer: priority",
        "load_balancer: priority\n  priority_order: LowestFirst",
    );
    let expected: [&[&str]; 3] = [&["low"], &["high"], &["default", "x"]];
    assert_eq!(tiers(&turned), expected);
}

#[test]
fn an_endpoint_takes_ollas_defaults_and_its_own_values() {
    let plain = endpoint(&one(""));
    assert_eq!(
        (plain.health.interval_ms, plain.health.timeout_ms),
        (5_000, 2_000)
    );
    assert_eq!(plain.profile, "auto");
    let full = endpoint(&one("        type: openai-compatible
        check_interval: 1m30s
        check_timeout: 1.5s
        health_check_url: http://GPU:8000/healthz
        model_url: models
        model_filter: {include: ['llama*'], exclude: ['*-embed']}
"));
    assert_eq!(full.profile, "openai");
    assert_eq!(
        (full.health.interval_ms, full.health.timeout_ms),
        (90_000, 1_500)
    );
    assert_eq!(full.health.paths, ["/healthz"]);
    assert_eq!(full.models.discovery.unwrap().listings[0].path, "/models");
    assert_eq!(
        (full.models.include.len(), full.models.exclude.len()),
        (1, 1)
    );
}

#[test]
fn a_base_path_is_kept_and_mentioned_unless_olla_would_keep_it_too() {
    let text = one("        health_check_url: http://gpu:8000/v1/health\n")
        .replace("gpu:8000\n", "gpu:8000/v1/\n");
    assert_eq!(
        notes(&read(&text)),
        [
            "warning config.yaml:4: discovery.static.endpoints[0].url: its path /v1 is put before \
          each request's own; Olla does so only with preserve_path: true"
        ]
    );
    let read_back = endpoint(&text);
    assert_eq!(
        (read_back.base_path.as_str(), &*read_back.health.paths[0]),
        ("/v1", "/health")
    );
    let kept = format!("{text}        preserve_path: true\n");
    assert_eq!(notes(&read(&kept)), Vec::<String>::new());
}

#[test]
fn a_probe_of_another_server_is_not_taken_over() {
    let text = one("        health_check_url: http://monitor:9000/health\n");
    assert_eq!(
        notes(&read(&text)),
        [
            "warning config.yaml:6: discovery.static.endpoints[0].health_check_url: does not lie \
          below the endpoint's url, so it is not used; the path of the type is"
        ]
    );
    assert_eq!(endpoint(&text).health.paths.len(), 4);
}

#[test]
fn credentials_come_along_and_are_never_shown() {
    for (auth, header, value) in [
        (
            "{type: bearer, token: '${OPENAI_API_KEY}'}",
            "authorization",
            "Bearer sk-hunter2",
        ),
        (
            "{type: bearer, token: '${NONE:-x}'}",
            "authorization",
            "Bearer x",
        ),
        (
            "{type: api_key, key: '${OPENAI_API_KEY}'}",
            "x-api-key",
            "sk-hunter2",
        ),
        ("{type: api_key, key: 12, header: Api-Key}", "api-key", "12"),
        (
            "{type: basic, username: u, password: p}",
            "authorization",
            "Basic dTpw",
        ),
    ] {
        let text = one(&format!("        auth: {auth}\n"));
        match endpoint(&text).credential {
            Credential::Header {
                name,
                value: secret,
            } => {
                assert_eq!((name.as_str(), secret.expose()), (header, value), "{auth}");
            }
            other => panic!("{auth}: {other:?}"),
        }
        assert!(!format!("{:?}", read(&text)).contains("hunter2"));
    }
}

#[test]
fn an_endpoint_whose_credential_cannot_be_had_is_left_out() {
    let at = "discovery.static.endpoints[0]";
    for (line, message) in [
        (
            "auth: {type: bearer, token_file: /run/token}",
            "auth.token_file: files are not read; use `token: ${VAR}`",
        ),
        (
            "auth: {type: bearer, token: '${NONE}'}",
            "auth.token: environment variable `NONE` is not set",
        ),
        ("auth: {type: bearer, token: ''}", "auth.token: is empty"),
        (
            "auth: {type: basic, username: u}",
            "auth.password: must be set",
        ),
        (
            "auth: {token: x}",
            "auth.type: must be one of bearer, api_key, basic",
        ),
        (
            "auth: {type: oauth}",
            "auth.type: `oauth` must be one of bearer, api_key, basic",
        ),
        (
            "headers: {Authorization: Bearer hunter2}",
            "headers.Authorization: credentials in headers are not taken over; write them as \
             auth, such as `auth: {type: api_key, header: …, key: …}`",
        ),
    ] {
        let loaded = read(&one(&format!("        {line}\n")));
        let expected = format!("error config.yaml:6: {at}.{message}");
        assert!(
            notes(&loaded).contains(&expected),
            "{line}: {:?}",
            notes(&loaded)
        );
        assert!(
            loaded.namespaces["default"].objects.endpoints.is_empty(),
            "{line}"
        );
        assert!(notes(&loaded).iter().all(|note| !note.contains("hunter2")));
    }
}

#[test]
fn keys_without_a_counterpart_are_named_one_by_one() {
    let text = "\
server: {port: 1, rate_limits: {global: 5}, request_logging: true}
proxy:
  sticky_sessions: {enabled: true}
  max_retries: 3
  load_balancr: priority
model_aliases: {a: [b]}
loging: {}
discovery:
  model_discovery: {timeout: 5s}
  static: {endpoints: []}
";
    assert_eq!(
        notes(&read(text)),
        [
            "warning config.yaml:6: model_aliases: not taken over",
            "warning config.yaml:7: loging: unknown field, skipped; did you mean `logging`?",
            "warning config.yaml:1: server.rate_limits: not taken over",
            "warning config.yaml:1: server.request_logging: not taken over; it has no effect in \
             Olla either",
            "warning config.yaml:9: discovery.model_discovery.timeout: not taken over",
            "warning config.yaml:3: proxy.sticky_sessions: not taken over",
            "warning config.yaml:4: proxy.max_retries: not taken over; it has no effect in Olla \
             either",
            "warning config.yaml:5: proxy.load_balancr: unknown field, skipped; did you mean \
             `load_balancer`?",
        ]
    );
}

#[test]
fn timeouts_of_the_proxy_are_taken_over() {
    let text = format!(
        "proxy:\n  connection_timeout: 60s\n  response_header_timeout: 30s\n  read_timeout: 10m\n{}",
        one("")
    );
    let table = table(&text);
    let timeouts = &route(&table).timeouts;
    assert_eq!(timeouts.connect_ms, 60_000);
    assert_eq!(
        (timeouts.first_token_ms, timeouts.first_token_whole_ms),
        (30_000, Some(30_000))
    );
    assert_eq!(
        (timeouts.stream_idle_ms, timeouts.request_ms),
        (600_000, None)
    );
    let zero = format!("proxy: {{read_timeout: 0s}}\n{}", one(""));
    assert_eq!(
        notes(&read(&zero)),
        [
            "warning config.yaml:1: proxy.read_timeout: 0 switches nothing off here; the default is \
          used"
        ]
    );
}

#[test]
fn endpoints_get_names_that_kubernetes_takes() {
    let text = "\
endpoints:
  - {url: 'http://gpu_1.local:8000'}
  - {url: 'http://gpu_1.local:8000/'}
  - {url: 'http://[::1]'}
  - {url: 'http://a', name: My GPU (1)}
  - {url: 'http://b', name: fine}
";
    let loaded = read(text);
    let endpoints = &loaded.namespaces["default"].objects.endpoints;
    let names: Vec<_> = endpoints
        .iter()
        .map(|e| e.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "gpu-1.local-8000",
            "gpu-1.local-8000-2",
            "1-80",
            "my-gpu--1",
            "fine"
        ]
    );
    assert_eq!(
        notes(&loaded),
        [
            "warning config.yaml:5: endpoints[3].name: `My GPU (1)` becomes `my-gpu--1`, a name that \
          Kubernetes takes too"
        ]
    );
}

#[test]
fn values_of_the_wrong_kind_are_told_at_their_line() {
    for (text, expected) in [
        (
            one("        priority: -1\n"),
            "6: discovery.static.endpoints[0].priority: must be a whole number from 0 to 1000000",
        ),
        (
            one("        check_interval: 5 seconds\n"),
            "6: discovery.static.endpoints[0].check_interval: `5 seconds` is not a duration; \
             write it like 500ms, 5s, 1m30s",
        ),
        (
            one("        model_filter: {include: x}\n"),
            "6: discovery.static.endpoints[0].model_filter.include: must be a list of strings, \
             not a string",
        ),
        (
            format!("{}proxy:\n  engine: turbo\n", one("")),
            "7: proxy.engine: `turbo` must be one of olla, sherpa",
        ),
        (
            "endpoints: {}\n".to_owned(),
            "1: endpoints: must be a list, not a map",
        ),
        (
            "proxy: olla\nendpoints: []\n".to_owned(),
            "1: proxy: must be a map, not a string",
        ),
        (
            "endpoints:\n- url: http://u:hunter2@a\n".to_owned(),
            "2: endpoints[0].url: holds credentials, or an @ that looks like it; leave \
             them out and use auth",
        ),
    ] {
        assert_eq!(
            notes(&read(&text)),
            [format!("error config.yaml:{expected}")]
        );
    }
}
