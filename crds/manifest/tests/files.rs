//! Files of Kubernetes objects, as `olla-dataplane run -f` and `check` read them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use compile::compile;
use manifest::{Loaded, Severity, Source, load};
use proptest::prelude::*;

fn read(files: &[(&str, &str)]) -> Loaded {
    let sources: Vec<_> = files
        .iter()
        .map(|(name, text)| Source {
            name: (*name).to_owned(),
            text: (*text).to_owned(),
        })
        .collect();
    load(&sources, "default", &|_| None)
}

fn notes(loaded: &Loaded) -> Vec<String> {
    let notes = loaded.notes.iter();
    notes
        .map(|note| format!("{} {note}", note.severity))
        .collect()
}

const ENDPOINT: &str = "\
apiVersion: olla.dev/v1alpha1
kind: LlmEndpoint
metadata:
  name: a
spec:
  url: http://a:8000
";

#[test]
fn files_become_tables_per_namespace() {
    let text = format!(
        "{ENDPOINT}  auth:\n    bearer: {{ valueFrom: {{ secretKeyRef: {{ name: s, key: token }} }} }}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {{token: aHVudGVyMg==}}\n---\n\
         {}",
        ENDPOINT.replace("name: a", "name: a\n  namespace: other")
    );
    let loaded = read(&[("f.yaml", &text)]);
    assert_eq!(notes(&loaded), Vec::<String>::new());
    assert!(!loaded.has_errors());
    let names: Vec<_> = loaded.namespaces.keys().collect();
    assert_eq!(names, ["default", "other"]);
    for (namespace, input) in &loaded.namespaces {
        let compiled = compile(namespace, &input.objects, &input.facts);
        for verdict in &compiled.verdicts {
            assert_eq!(
                (&verdict.accepted, &verdict.resolved_refs),
                (&Ok(()), &Ok(()))
            );
        }
        assert_eq!(compiled.table.routes.len(), 1, "{namespace}");
        assert_eq!(compiled.table.routes[0].id.as_str(), "default");
    }
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn a_route_that_is_there_keeps_the_implicit_one_out_even_if_broken() {
    let route = "---\napiVersion: olla.dev/v1alpha1\nkind: OllaRoute\nmetadata: {name: r}\n";
    let good = read(&[("f.yaml", &format!("{ENDPOINT}{route}spec: {{}}\n"))]);
    let names = |loaded: &Loaded| {
        let routes = loaded.namespaces["default"].objects.routes.iter();
        routes
            .map(|route| route.metadata.name.clone().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&good), ["r"]);
    let bad = read(&[(
        "f.yaml",
        &format!("{ENDPOINT}{route}spec: {{engin: olla}}\n"),
    )]);
    assert_eq!(names(&bad), Vec::<String>::new());
    assert_eq!(
        notes(&bad),
        ["error f.yaml:11: spec.engin: unknown field; did you mean `engine`?"]
    );
}

#[test]
fn json_and_lists_are_read_too() {
    let item = |name: &str| {
        format!(
            r#"{{"apiVersion": "olla.dev/v1alpha1", "kind": "LlmEndpoint",
                "metadata": {{"name": "{name}"}}, "spec": {{"url": "http://{name}"}}}}"#
        )
    };
    let list = format!(
        r#"{{"apiVersion": "v1", "kind": "List", "items": [{}, {}]}}"#,
        item("a"),
        item("b")
    );
    let loaded = read(&[("list.json", &list), ("c.json", &item("c"))]);
    assert_eq!(notes(&loaded), Vec::<String>::new());
    assert_eq!(loaded.namespaces["default"].objects.endpoints.len(), 3);
}

#[test]
fn the_output_of_kubectl_get_is_read_as_it_is() {
    let text = format!(
        "{}status:\n  conditions: []\n",
        ENDPOINT.replace(
            "name: a",
            "name: a\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\n  generation: 3\n  \
             resourceVersion: \"1\"\n  uid: x\n  managedFields: []",
        )
    );
    let loaded = read(&[("f.yaml", &text)]);
    assert_eq!(notes(&loaded), Vec::<String>::new());
    let endpoint = &loaded.namespaces["default"].objects.endpoints[0];
    assert!(endpoint.metadata.creation_timestamp.is_some());
}

#[test]
fn one_broken_object_is_left_out_and_the_others_stay() {
    let text = format!(
        "{ENDPOINT}---\n{}---\n{}",
        ENDPOINT.replace("name: a", "name: b").replace("url", "uri"),
        ENDPOINT.replace("name: a", "name: c"),
    );
    let loaded = read(&[("f.yaml", &text)]);
    assert_eq!(
        notes(&loaded),
        ["error f.yaml:13: spec.uri: unknown field; did you mean `url`?"]
    );
    assert!(loaded.has_errors());
    assert_eq!(loaded.namespaces["default"].objects.endpoints.len(), 2);
}

#[test]
fn a_second_object_of_one_name_is_refused_with_both_places() {
    let loaded = read(&[("a.yaml", ENDPOINT), ("b.yaml", ENDPOINT)]);
    assert_eq!(
        notes(&loaded),
        [
            "error b.yaml:4: metadata.name: LlmEndpoint `a` of namespace `default` is already defined \
          at a.yaml:4; rename or remove one"
        ]
    );
    assert_eq!(loaded.namespaces["default"].objects.endpoints.len(), 1);
}

#[test]
fn a_probe_that_costs_tokens_is_mentioned() {
    let text = format!("{ENDPOINT}  type: litellm\n  health:\n    path: /health\n");
    assert_eq!(
        notes(&read(&[("f.yaml", &text)])),
        [
            "warning f.yaml:9: spec.health.path: /health of litellm sends a request to each model, so every probe costs tokens; omit it to probe /health/liveliness"
        ]
    );
}

#[test]
fn a_verdict_leads_back_to_its_line() {
    let text = format!("# head\n---\n{ENDPOINT}  service: {{name: a, port: 80}}\n");
    let loaded = read(&[("f.yaml", &text)]);
    let input = &loaded.namespaces["default"];
    let verdicts = compile("default", &input.objects, &input.facts).verdicts;
    let place = |at: usize| loaded.place(verdicts[at].kind, "default", &verdicts[at].name);
    assert!(verdicts[0].accepted.is_err());
    assert_eq!(place(0).unwrap().to_string(), "f.yaml:6");
    // The route that was added stands nowhere.
    assert_eq!((verdicts[1].name.as_str(), place(1)), ("default", None));
}

#[test]
fn kinds_and_versions_that_are_not_read_are_named() {
    let head = |version: &str, kind: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{}}\n")
    };
    for (text, expected) in [
        (
            head("apps/v1", "Deployment"),
            "warning f:1: kind: Deployment is not read here; skipped",
        ),
        (
            head("olla.dev/v1alpha1", "OlaRoute"),
            "error f:1: kind: unknown kind `OlaRoute`; did you mean `OllaRoute`?",
        ),
        (
            head("olla.dev/v1", "OllaRoute"),
            "error f:1: apiVersion: must be `olla.dev/v1alpha1` for kind OllaRoute, not `olla.dev/v1`",
        ),
        (
            "- a\n".into(),
            "error f:1: a document must be a map, not a list",
        ),
        (
            "version: '3.8'\nservices: {}\n".into(),
            "error f:1: kind: neither a Kubernetes object (it has no kind) nor an Olla config \
             (it has none of its sections)",
        ),
    ] {
        assert_eq!(notes(&read(&[("f", &text)])), [expected]);
    }
}

#[test]
fn a_broken_secret_is_told_without_its_value() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata:\n  token: hunter2!\n\
                stringData:\n  number: 5\n";
    let loaded = read(&[("s.yaml", text)]);
    assert_eq!(
        notes(&loaded),
        [
            "error s.yaml:5: data.token: is not base64; plain text belongs in stringData",
            "error s.yaml:7: stringData.number: must be a string, not a number",
        ]
    );
    assert!(loaded.namespaces.is_empty());
}

#[test]
fn names_are_those_that_a_cluster_takes() {
    for name in ["A", "-a", "a_b", "a..b", "a.-b", "5", "''"] {
        let loaded = read(&[("f", &ENDPOINT.replace("name: a", &format!("name: {name}")))]);
        let note = &loaded.notes[0];
        assert_eq!(
            (note.field.as_str(), note.line),
            ("metadata.name", Some(4)),
            "{name}"
        );
        assert_eq!(note.severity, Severity::Error);
    }
    let nameless = ENDPOINT.replace("  name: a\n", "  namespace: x\n");
    assert_eq!(
        notes(&read(&[("f", &nameless)])),
        ["error f:1: metadata.name: must be set"]
    );
}

/// Pieces of what people write, in any order.
fn scribble() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "apiVersion: olla.dev/v1alpha1\n",
        "apiVersion: v1\n",
        "kind: LlmEndpoint\n",
        "kind: OllaRoute\n",
        "kind: Secret\n",
        "kind: List\n",
        "items:\n",
        "- ",
        "  ",
        "    ",
        "metadata:\n",
        "metadata: {name: a}\n",
        "  name: a\n",
        "spec:\n",
        "spec: {}\n",
        "  url: http://a\n",
        "  url: ",
        "  priority: 1e9\n",
        "data: {hunter2: aHVudGVyMg==}\n",
        "stringData:\n",
        "  token: hunter2\n",
        "---\n",
        "endpoints:\n",
        "proxy: &p\n",
        "*p\n",
        "discovery: {static: {endpoints: [",
        "]}}\n",
        "{",
        "}",
        "[",
        "]",
        ":",
        "\n",
        "'",
        "\"",
        "|\n",
        "\t",
        "null\n",
        "auth: {type: bearer, token: hunter2}\n",
        "\u{feff}",
        "ä\n",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_gets_an_answer_whose_notes_point_into_it(text in scribble()) {
        let loaded = read(&[("f", &text)]);
        let lines = text.split('\n').count();
        for note in &loaded.notes {
            prop_assert!(note.line.is_none_or(|line| line as usize <= lines), "{}", note);
        }
        for (namespace, input) in &loaded.namespaces {
            compile(namespace, &input.objects, &input.facts);
        }
    }
}

/// A slip anywhere in a Secret, of every kind that means something in YAML.
#[test]
fn no_slip_makes_a_secret_show() {
    let good = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\ndata:\n  a: aHVudGVyMg==\n\
                stringData:\n  b: hunter2\n  c: \"hunter2\"\n  d: |\n    hunter2\n";
    let slips = [
        "*",
        "&",
        "!",
        "!!int ",
        "!!binary ",
        "!!float ",
        "!x ",
        "|",
        ">",
        "?",
        "? ",
        "- ",
        ": ",
        ":",
        "#",
        "'",
        "\"",
        "{",
        "}",
        "[",
        "]",
        "%",
        "@",
        "`",
        "\n",
        "\n?",
        "\n- ",
        "\n: ",
        "\t",
        "<<: ",
        "---\n",
        "\n---\n",
        "\n...\n",
        "\\",
        "\\x",
        "${",
        "\u{0}",
        "\u{feff}",
        "ä",
        ",",
        " ",
        "",
    ];
    for at in 0..=good.len() {
        for slip in slips {
            let text = format!("{}{slip}{}", &good[..at], &good[at..]);
            let loaded = read(&[("f", &text)]);
            let shown = format!("{loaded:?} {:?}", notes(&loaded));
            let shows = shown.contains("hunter2") || shown.contains("aHVudGVyMg");
            assert!(!shows, "{shown}\n{text}");
        }
    }
}

#[test]
fn all_that_is_wrong_with_an_object_is_told_in_one_go() {
    let text = "apiVersion: olla.dev/v1alpha1\nkind: LlmEndpoint\nmetadata: {name: a}\nspec:\n  \
                type: vlllm\n  url: http://a\n  service: {name: s, port: 80}\n  priority: 2000000\n  \
                health:\n    timeout: 0s\n---\napiVersion: olla.dev/v1alpha1\nkind: OllaRoute\n\
                metadata: {name: r}\nspec:\n  engin: olla\n  matches:\n  - pathPrefix: /a\n  \
                - pathPrefix: /b?c\n  timeouts: {connect: 0s}\n";
    let loaded = read(&[("f.yaml", text)]);
    let told: Vec<String> = loaded.notes.iter().map(ToString::to_string).collect();
    for expected in [
        "f.yaml:8: spec.priority: must be from 0 to 1000000, not 2000000",
        "f.yaml:5: spec.type: `vlllm` is not a known type",
        "f.yaml:4: spec: set exactly one of url, service, podSelector",
        "f.yaml:10: spec.health.timeout: must be greater than 0s",
        "f.yaml:16: spec.engin: unknown field; did you mean `engine`?",
        "f.yaml:19: spec.matches[1].pathPrefix: `/b?c` is not a path",
        "f.yaml:20: spec.timeouts.connect: must be greater than 0s",
    ] {
        let found = told.iter().any(|note| note.starts_with(expected));
        assert!(found, "{expected} in {told:#?}");
    }
    assert_eq!(told.len(), 7, "{told:#?}");
}
