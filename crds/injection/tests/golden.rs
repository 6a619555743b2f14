//! What becomes of a pod, rule by rule. In: pods as users write them. Out: what the API server is
//! told, a line for each addition.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::{collections::BTreeMap, fmt::Write as _};

use insta::assert_snapshot;
use support::{decide, decide_in, patched, pod, settings, told};

use injection::{Decision, Defaults, Obstacle, Settings};

const PLAIN: &str = "
metadata: { labels: { olla.dev/inject: 'true' } }
spec: { containers: [{ name: app, image: app }] }
";

#[test]
fn a_plain_pod_gets_the_whole_sidecar() {
    let pod = patched(&pod(PLAIN), &decide(PLAIN));
    assert_snapshot!(serde_json::to_string_pretty(&pod).unwrap());
}

#[test]
fn additions_go_into_the_lists_that_the_pod_has() {
    assert_snapshot!(told(&decide(
        "
metadata: { labels: { olla.dev/inject: 'true' }, annotations: { note: kept } }
spec:
  volumes: [{ name: data, emptyDir: {} }]
  initContainers: [{ name: migrate, image: app }]
  containers:
    - { name: app, image: app, env: [{ name: LEVEL, value: info }] }
    - { name: worker, image: app }
"
    )));
}

#[test]
fn the_pod_s_label_wins_over_the_namespace_s() {
    for (pod, namespace, asks) in [
        ("", "", false),
        ("", "true", true),
        ("", "false", false),
        ("true", "", true),
        ("true", "false", true),
        ("false", "true", false),
        ("yes", "true", true),
        ("yes", "", false),
        ("True", "", false),
    ] {
        let labels = match pod {
            "" => String::new(),
            value => format!("olla.dev/inject: '{value}'"),
        };
        let pod = format!(
            "{{metadata: {{labels: {{ {labels} }}}}, spec: {{containers: [{{name: a, image: a}}]}}}}"
        );
        let injected = matches!(
            decide_in(&pod, namespace, &settings()),
            Decision::Inject { .. }
        );
        assert_eq!(injected, asks, "{pod} in a namespace with {namespace:?}");
    }
}

#[test]
fn a_container_keeps_what_it_sets_and_what_it_may_get_from_elsewhere() {
    assert_snapshot!(told(&decide(
        "
metadata: { labels: { olla.dev/inject: 'true' } }
spec:
  containers:
    # Its own place for one client: nothing of that client is touched.
    - { name: own-place, image: a, env: [{ name: OPENAI_API_BASE, value: https://example.com/v1 }] }
    # Its own key alone: the place is ours, and the key ends at the sidecar.
    - { name: own-key, image: a, env: [{ name: OPENAI_API_KEY, valueFrom: { secretKeyRef: { name: s, key: k } } }] }
    - { name: from-anything, image: a, envFrom: [{ configMapRef: { name: c } }] }
    - { name: from-other-names, image: a, envFrom: [{ prefix: DB_, secretRef: { name: s } }] }
    - { name: from-ollama-names, image: a, envFrom: [{ prefix: OLLAMA_, secretRef: { name: s } }] }
"
    )));
}

#[test]
fn a_client_of_azure_or_behind_a_proxy_is_not_pointed_at_the_sidecar() {
    assert_snapshot!(told(&decide(
        "
metadata: { labels: { olla.dev/inject: 'true' } }
spec:
  containers:
    - { name: azure, image: a, env: [{ name: AZURE_OPENAI_ENDPOINT, value: https://x.openai.azure.com }] }
    - { name: azure-key, image: a, env: [{ name: AZURE_OPENAI_API_KEY, valueFrom: { secretKeyRef: { name: s, key: k } } }] }
    - { name: azure-type, image: a, env: [{ name: OPENAI_API_TYPE, value: azure }] }
    - { name: azure-version, image: a, env: [{ name: OPENAI_API_VERSION, value: 2024-06-01 }] }
    - { name: azure-from-secret, image: a, envFrom: [{ prefix: AZURE_, secretRef: { name: s } }] }
    - { name: openai-type, image: a, env: [{ name: OPENAI_API_TYPE, value: open_ai }] }
    - { name: proxy, image: a, env: [{ name: HTTP_PROXY, value: 'http://proxy:3128' }] }
    - { name: proxy-past-sidecar, image: a, env: [{ name: http_proxy, value: 'http://proxy:3128' }, { name: NO_PROXY, value: 'localhost, 127.0.0.1' }] }
    - { name: one-list-lacks-it, image: a, env: [{ name: ALL_PROXY, value: 'http://proxy:3128' }, { name: NO_PROXY, value: 127.0.0.1 }, { name: no_proxy, value: .svc }] }
    - { name: https-alone, image: a, env: [{ name: HTTPS_PROXY, value: 'http://proxy:3128' }, { name: HTTP_PROXY, value: '' }] }
"
    )));
}

#[test]
fn beside_an_ollama_nobody_gets_ollama_s_variable() {
    let pods = [
        "{containers: [{name: ollama, image: own, ports: [{containerPort: 11434}]}]}",
        "{containers: [{name: ollama, image: 'registry.example.com:5000/ollama/ollama:1'}, {name: pull, image: a, command: [ollama, pull, m]}]}",
        "{initContainers: [{name: ollama, image: a, restartPolicy: Always, args: [ollama serve]}], containers: [{name: app, image: a}]}",
        "{containers: [{name: app, image: a, command: [ollama, list]}]}",
    ];
    let mut text = String::new();
    for spec in pods {
        let pod = format!("{{metadata: {{labels: {{olla.dev/inject: 'true'}}}}, spec: {spec}}}");
        let patched = patched(&support::pod(&pod), &decide(&pod));
        let not_set = &patched["metadata"]["annotations"]["olla.dev/env-not-set"];
        let _ = write!(text, "{spec}\n  {not_set}\n");
    }
    assert_snapshot!(text);
}

#[test]
fn a_model_server_gets_a_sidecar_only_if_it_asks_itself() {
    let pod = |label: &str, image: &str| {
        format!(
            "{{metadata: {{labels: {{olla.dev/inject: '{label}'}}}}, \
             spec: {{containers: [{{name: llm, image: '{image}'}}]}}}}"
        )
    };
    for image in [
        "registry.example.com/berriai/litellm:main-latest",
        "vllm/vllm-openai:v0.9",
        "ollama/ollama",
    ] {
        let by_namespace = decide_in(&pod("", image), "true", &settings());
        assert!(
            matches!(by_namespace, Decision::Refuse(Obstacle::ModelServer { .. })),
            "{by_namespace:?}"
        );
        let itself = decide_in(&pod("true", image), "true", &settings());
        assert!(matches!(itself, Decision::Inject { .. }), "{itself:?}");
    }
    let app = decide_in(&pod("", "example.com/litellm/app"), "true", &settings());
    assert!(matches!(app, Decision::Inject { .. }), "{app:?}");
}

#[test]
fn containers_that_start_before_the_sidecar_get_no_variables() {
    assert_snapshot!(told(&decide(
        "
metadata:
  labels: { olla.dev/inject: 'true' }
  annotations: { olla.dev/start-after: istio-proxy }
spec:
  initContainers:
    - { name: istio-init, image: i }
    - { name: istio-proxy, image: i, restartPolicy: Always }
    - { name: migrate, image: app }
  containers: [{ name: app, image: app }]
"
    )));
}

#[test]
fn a_sidecar_that_should_start_after_nobody_is_the_first_and_says_so() {
    let decision = decide(
        "
metadata: { labels: { olla.dev/inject: 'true' }, annotations: { olla.dev/start-after: linkerd-proxy } }
spec: { containers: [{ name: app, image: app }] }
",
    );
    let Decision::Inject { warnings, .. } = decision else {
        panic!("{decision:?}");
    };
    assert_eq!(
        warnings,
        [
            "olla.dev/start-after: the pod has no init container \"linkerd-proxy\"; the sidecar starts first"
        ]
    );
}

#[test]
fn annotations_set_the_sidecar_s_resources_and_patience() {
    let cases = [
        "",
        "olla.dev/memory-limit: 256Mi",
        "olla.dev/cpu-request: 100m\nolla.dev/cpu-limit: '1'",
        // A request over the limit would be refused.
        "olla.dev/memory-limit: 64Mi\nolla.dev/memory-request: 65Mi",
        // The sidecar would be killed, or never be ready.
        "olla.dev/memory-limit: 16Mi",
        "olla.dev/memory-limit: 64m",
        "olla.dev/cpu-limit: 5m",
        "olla.dev/cpu-limit: 20m\nolla.dev/cpu-request: 20m",
        "olla.dev/cpu-limit: fast\nolla.dev/memory-request: '-1'",
        "olla.dev/start-without-table-after: 0s",
        "olla.dev/start-without-table-after: 1m500ms",
        "olla.dev/start-without-table-after: soon",
        "olla.dev/start-without-table-after: 11m",
    ];
    let mut text = String::new();
    for annotations in cases {
        let annotations = annotations.replace('\n', ", ");
        let pod = format!(
            "{{metadata: {{labels: {{olla.dev/inject: 'true'}}, annotations: {{ {annotations} }}}}, \
             spec: {{containers: [{{name: a, image: a}}]}}}}"
        );
        let decision = decide(&pod);
        let sidecar = &patched(&support::pod(&pod), &decision)["spec"]["initContainers"][0];
        let Decision::Inject { warnings, .. } = decision else {
            panic!("{decision:?}");
        };
        let _ = write!(
            text,
            "{{{annotations}}}\n  {} {} of {}\n",
            sidecar["resources"], sidecar["args"][3], sidecar["startupProbe"]["failureThreshold"]
        );
        for warning in warnings {
            let _ = writeln!(text, "  {warning}");
        }
    }
    assert_snapshot!(text);
}

/// What the sidecar of a pod with these containers gets.
fn resources(containers: &str, annotations: &str, defaults: &str) -> String {
    let text = format!(
        "{{metadata: {{labels: {{olla.dev/inject: 'true'}}, annotations: {{ {annotations} }}}}, \
         spec: {{containers: {containers}}}}}"
    );
    let settings = Settings {
        defaults: Defaults::parse(defaults).unwrap(),
        ..settings()
    };
    let decision = decide_in(&text, "", &settings);
    patched(&pod(&text), &decision)["spec"]["initContainers"][0]["resources"].to_string()
}

#[test]
fn the_cluster_s_resources_are_used_where_a_pod_says_nothing() {
    let app = "[{name: app, image: a}]";
    let defaults = r#"{"resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": 1, "memory": "8Mi"}}}"#;
    // Of memory the least that it can do with.
    assert_eq!(
        resources(app, "", defaults),
        r#"{"limits":{"cpu":"1","memory":"48Mi"},"requests":{"cpu":"50m","memory":"48Mi"}}"#
    );
    assert_eq!(
        resources(
            app,
            "olla.dev/cpu-request: 60m, olla.dev/memory-limit: 1Gi",
            defaults
        ),
        r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"60m","memory":"32Mi"}}"#
    );
}

#[test]
fn where_all_containers_have_limits_the_sidecar_has_one_and_the_pod_stays_guaranteed() {
    let of = |resources: &str| format!("{{name: a, image: a, resources: {{ {resources} }}}}");
    let equal = of("limits: {cpu: 1, memory: 1Gi}, requests: {cpu: '1', memory: 1024Mi}");
    let implied = of("limits: {cpu: 1, memory: 1Gi}");
    let burstable = of("limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 100m, memory: 1Gi}");
    let memory_alone = of("limits: {memory: 1Gi}");
    let none = of("requests: {cpu: 1}");
    let mut text = String::new();
    for (name, containers, annotations) in [
        ("guaranteed", format!("[{equal}, {implied}]"), ""),
        (
            "guaranteed, own request",
            format!("[{equal}]"),
            "olla.dev/cpu-request: 200m",
        ),
        (
            "guaranteed, own limit",
            format!("[{equal}]"),
            "olla.dev/cpu-limit: 200m",
        ),
        ("one is not", format!("[{equal}, {burstable}]"), ""),
        ("memory alone", format!("[{equal}, {memory_alone}]"), ""),
        ("one has none", format!("[{equal}, {none}]"), ""),
    ] {
        let _ = writeln!(
            text,
            "{name}: {}",
            resources(&containers, annotations, "{}")
        );
    }
    assert_snapshot!(text);
}

#[test]
fn the_cluster_s_image_secrets_and_policy_are_the_sidecar_s() {
    let settings = Settings {
        defaults: Defaults::parse(
            r#"{"imagePullPolicy": "Always", "imagePullSecrets": [{"name": "pull"}, {"name": "own"}]}"#,
        )
        .unwrap(),
        ..settings()
    };
    let text = "{metadata: {labels: {olla.dev/inject: 'true'}}, \
                spec: {imagePullSecrets: [{name: own}], containers: [{name: a, image: a}]}}";
    for (text, secrets) in [
        (text, r#"[{"name":"own"},{"name":"pull"}]"#),
        (PLAIN, r#"[{"name":"pull"},{"name":"own"}]"#),
    ] {
        let patched = patched(&pod(text), &decide_in(text, "", &settings));
        assert_eq!(patched["spec"]["imagePullSecrets"].to_string(), secrets);
        let sidecar = &patched["spec"]["initContainers"][0];
        assert_eq!(sidecar["imagePullPolicy"], "Always");
        // Not the app's.
        assert!(patched["spec"]["containers"][0]["imagePullPolicy"].is_null());
        let again = injection::decide(&patched, &BTreeMap::new(), &settings);
        assert_eq!(again, Decision::LeaveAlone);
    }
}

#[test]
fn a_cluster_that_assigns_users_chooses_the_sidecar_s() {
    let settings = Settings {
        assigns_users: true,
        ..settings()
    };
    let pod = patched(&pod(PLAIN), &decide_in(PLAIN, "", &settings));
    let context = &pod["spec"]["initContainers"][0]["securityContext"];
    assert!(context["runAsUser"].is_null() && context["runAsGroup"].is_null());
    assert_eq!(context["runAsNonRoot"], true, "{context}");
}

#[test]
fn a_pod_with_resources_of_its_own_shares_them_with_the_sidecar() {
    let text = "
metadata: { labels: { olla.dev/inject: 'true' }, annotations: { olla.dev/cpu-limit: '1' } }
spec:
  resources: { requests: { cpu: '1' }, limits: { cpu: '2' } }
  containers: [{ name: app, image: app, resources: { requests: { cpu: '1' } } }]
";
    let decision = decide(text);
    let sidecar = &patched(&pod(text), &decision)["spec"]["initContainers"][0];
    assert!(sidecar["resources"].is_null(), "{sidecar}");
    let Decision::Inject { warnings, .. } = decision else {
        panic!("{decision:?}");
    };
    assert_eq!(
        warnings,
        ["olla.dev/cpu-limit: not used, because the pod has resources of its own (spec.resources)"]
    );
}

#[test]
fn pods_that_cannot_have_a_sidecar_start_without_and_their_creator_is_told() {
    let pods = [
        "{hostNetwork: true, containers: [{name: app}]}",
        "{os: {name: windows}, containers: [{name: app}]}",
        "{nodeSelector: {kubernetes.io/os: windows}, containers: [{name: app}]}",
        "{dnsPolicy: Default, containers: [{name: app}]}",
        "{dnsPolicy: None, dnsConfig: {searches: [example.com]}, containers: [{name: app}]}",
        "{containers: [{name: app, ports: [{containerPort: 40114}]}]}",
        "{containers: [{name: app, ports: [{containerPort: 40115, protocol: TCP}]}]}",
        "{initContainers: [{name: first, ports: [{containerPort: 40114}]}], containers: [{name: app}]}",
        "{containers: [{name: olla-sidecar}]}",
    ];
    let mut text = String::new();
    for spec in pods {
        let pod = format!("{{metadata: {{labels: {{olla.dev/inject: 'true'}}}}, spec: {spec}}}");
        let _ = write!(text, "{spec}\n  {}\n", told(&decide(&pod)));
    }
    let on = |settings: &Settings| told(&decide_in(PLAIN, "", settings));
    let no_image = Settings {
        image: None,
        ..settings()
    };
    let old = Settings {
        native_sidecars: false,
        ..settings()
    };
    let _ = write!(
        text,
        "no image\n  {}\nold server\n  {}\n",
        on(&no_image),
        on(&old)
    );
    assert_snapshot!(text);
}

#[test]
fn pods_that_find_the_operator_get_a_sidecar_whatever_their_dns_policy() {
    let on_an_address = Settings {
        operator_url: "https://olla.example.com:9443".into(),
        ..settings()
    };
    let by_default = settings();
    for (dns, settings) in [
        ("dnsPolicy: ClusterFirst", &by_default),
        (
            "dnsConfig: {options: [{name: ndots, value: '1'}]}",
            &by_default,
        ),
        (
            "dnsPolicy: None, dnsConfig: {searches: [example.com, svc.example.org]}",
            &by_default,
        ),
        (
            "dnsPolicy: Default, dnsConfig: {searches: [svc.cluster.local]}",
            &by_default,
        ),
        ("dnsPolicy: Default", &on_an_address),
    ] {
        let pod = format!(
            "{{metadata: {{labels: {{olla.dev/inject: 'true'}}}}, \
             spec: {{ {dns}, containers: [{{name: a, image: a}}]}}}}"
        );
        let decision = decide_in(&pod, "", settings);
        assert!(
            matches!(decision, Decision::Inject { .. }),
            "{dns}: {decision:?}"
        );
    }
}

#[test]
fn pods_for_windows_are_known_by_their_nodes_and_settings() {
    let affinity = |terms: &str| {
        format!(
            "affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{terms}]}}}}}}, containers: [{{name: a}}]"
        )
    };
    let windows = "{matchExpressions: [{key: kubernetes.io/os, operator: In, values: [windows]}]}";
    let both =
        "{matchExpressions: [{key: kubernetes.io/os, operator: In, values: [windows, linux]}]}";
    let not = "{matchExpressions: [{key: kubernetes.io/os, operator: NotIn, values: [windows]}]}";
    for (spec, is) in [
        (
            "nodeSelector: {beta.kubernetes.io/os: windows}, containers: [{name: a}]".to_owned(),
            true,
        ),
        (
            "securityContext: {windowsOptions: {runAsUserName: x}}, containers: [{name: a}]"
                .to_owned(),
            true,
        ),
        (
            "containers: [{name: a, securityContext: {windowsOptions: {runAsUserName: x}}}]"
                .to_owned(),
            true,
        ),
        (
            "containers: [{name: a, securityContext: {windowsOptions: {}}}]".to_owned(),
            false,
        ),
        (affinity(windows), true),
        (affinity(&format!("{windows}, {both}")), false),
        (affinity(not), false),
    ] {
        let pod =
            format!("{{metadata: {{labels: {{olla.dev/inject: 'true'}}}}, spec: {{ {spec} }}}}");
        let refused = matches!(decide(&pod), Decision::Refuse(Obstacle::Windows));
        assert_eq!(refused, is, "{spec}");
    }
}

#[test]
fn a_port_of_another_protocol_is_not_ours() {
    let decision = decide(
        "{metadata: {labels: {olla.dev/inject: 'true'}}, \
          spec: {containers: [{name: a, ports: [{containerPort: 40114, protocol: UDP}]}]}}",
    );
    assert!(matches!(decision, Decision::Inject { .. }), "{decision:?}");
}

#[test]
fn whoever_did_not_ask_hears_nothing_of_what_stands_in_the_way() {
    let pod = "{spec: {hostNetwork: true, containers: [{name: app}]}}";
    assert_eq!(decide(pod), Decision::LeaveAlone);
}

#[test]
fn a_static_pod_s_copy_is_left_alone() {
    let pod = "{metadata: {labels: {olla.dev/inject: 'true'}, \
                annotations: {kubernetes.io/config.mirror: x}}, spec: {containers: [{name: app}]}}";
    assert_eq!(decide(pod), Decision::LeaveAlone);
}

#[test]
fn a_container_that_another_webhook_added_meanwhile_is_pointed_at_the_sidecar_too() {
    let mut pod = patched(&pod(PLAIN), &decide(PLAIN));
    let added = serde_json::json!({ "name": "late", "image": "late" });
    pod["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(added);
    let decision = injection::decide(&pod, &BTreeMap::new(), &settings());
    assert_snapshot!(told(&decision));
}

#[test]
fn a_pod_that_has_its_sidecar_is_not_told_that_it_has_none() {
    let pod = patched(&pod(PLAIN), &decide(PLAIN));
    let no_image = Settings {
        image: None,
        ..settings()
    };
    let decision = injection::decide(&pod, &BTreeMap::new(), &no_image);
    assert_eq!(decision, Decision::LeaveAlone);
}

#[test]
fn why_a_pod_has_no_sidecar_is_said_once_in_an_annotation() {
    for text in ["{metadata: {}}", "{metadata: {annotations: {note: kept}}}"] {
        let mut pod = pod(text);
        let patch = injection::refusal(&pod, &Obstacle::Windows).unwrap();
        json_patch::patch(&mut pod, &patch.0).unwrap();
        let why = &pod["metadata"]["annotations"][injection::NOT_INJECTED];
        assert_eq!(why, "olla: no sidecar was injected: the pod is for Windows");
        assert_eq!(injection::refusal(&pod, &Obstacle::Windows), None);
    }
}

#[test]
fn an_obstacle_is_one_line_and_names_who_speaks() {
    let no_dns = Obstacle::NoClusterDns { policy: "Default" };
    for obstacle in [
        Obstacle::NoImage,
        Obstacle::HostNetwork,
        Obstacle::Windows,
        no_dns,
    ] {
        let text = obstacle.to_string();
        assert!(text.starts_with("olla: "), "{text}");
        assert!(text.len() < 256 && !text.contains('\n'), "{text}");
    }
}
