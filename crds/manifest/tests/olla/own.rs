//! Field by field: what Olla's own layout means here, and what is said where it means nothing.

use dataplane_protocol::table::{Balancer, Credential};

use crate::{endpoint, notes, one, read, route, table, tiers};

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
            "warning config.yaml:4: discovery.static.endpoints[0] (gpu).url: its path /v1 is put before \
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
            "warning config.yaml:6: discovery.static.endpoints[0] (gpu).health_check_url: does not lie \
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
    let at = "discovery.static.endpoints[0] (gpu)";
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
            "warning config.yaml:5: endpoints[3] (My GPU (1)).name: `My GPU (1)` becomes `my-gpu--1`, a name that \
          Kubernetes takes too"
        ]
    );
}

#[test]
fn values_of_the_wrong_kind_are_told_at_their_line() {
    for (text, expected) in [
        (
            one("        priority: -1\n"),
            "6: discovery.static.endpoints[0] (gpu).priority: must be a whole number from 0 to 1000000",
        ),
        (
            one("        check_interval: 5 seconds\n"),
            "6: discovery.static.endpoints[0] (gpu).check_interval: `5 seconds` is not a duration; \
             write it like 500ms, 5s, 1m30s",
        ),
        (
            one("        model_filter: {include: x}\n"),
            "6: discovery.static.endpoints[0] (gpu).model_filter.include: must be a list of strings, \
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
            "2: endpoints[0].url: contains credentials (or an `@`); remove them and use auth",
        ),
    ] {
        assert_eq!(
            notes(&read(&text)),
            [format!("error config.yaml:{expected}")]
        );
    }
}
