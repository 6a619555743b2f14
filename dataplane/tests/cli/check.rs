//! `check` and `version`.

use crate::support::{Done, Files, endpoint, olla};

fn check(path: &str) -> Done {
    olla(&["check", "-f", path])
}

/// Two endpoints at 5 and 80, and no word on which is preferred.
fn endpoints(indent: &str) -> String {
    let endpoint = |name: &str, priority: u32| {
        format!(
            "{indent}- name: {name}\n{indent}  url: http://{name}:8000\n\
             {indent}  type: vllm\n{indent}  priority: {priority}\n"
        )
    };
    endpoint("near", 5) + &endpoint("far", 80)
}

#[test]
fn a_good_file_is_told_by_type_target_and_place() {
    let files = Files::new();
    let text = endpoint("far", "https://far/base", 9) + &endpoint("near", "http://near:8000", 1);
    let done = check(&files.write("a.yaml", &text));
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{done:?}");
    let near = "1. near  type vllm  http://near:8000  priority 1";
    let far = "2. far  type vllm  https://far:443/base  priority 9";
    let (near, far) = (done.out.find(near), done.out.find(far));
    assert!(near.is_some() && near < far, "{}", done.out);
}

#[test]
fn a_bad_value_is_told_with_file_line_and_field() {
    let files = Files::new();
    let path = files.write(
        "a.yaml",
        &endpoint("a", "http://a", 1).replace("priority: 1", "priority: high"),
    );
    let done = check(&path);
    assert_eq!(done.code, 1, "{done:?}");
    let told = format!("error: {path}:7: spec.priority: ");
    assert!(done.err.contains(&told), "{}", done.err);
}

#[test]
fn an_unknown_field_is_named_with_a_suggestion() {
    let files = Files::new();
    let path = files.write(
        "a.yaml",
        &endpoint("a", "http://a", 1).replace("priority", "priorty"),
    );
    let done = check(&path);
    assert_eq!(done.code, 1, "{done:?}");
    let told = format!("error: {path}:7: spec.priorty: unknown field; did you mean `priority`?");
    assert!(done.err.contains(&told), "{}", done.err);
}

#[test]
fn what_compiling_refuses_is_told_with_file_line_kind_and_name() {
    let files = Files::new();
    let broken = endpoint("b", "http://b", 1).replace("vllm", "vlllm");
    let path = files.write("a.yaml", &(endpoint("a", "http://a", 1) + &broken));
    let done = check(&path);
    assert_eq!(done.code, 1, "{done:?}");
    let line = done
        .err
        .lines()
        .find(|line| line.contains("vlllm"))
        .unwrap();
    let place = line.strip_prefix(&format!("error: {path}:")).unwrap();
    let (number, rest) = place.split_once(": ").unwrap();
    let number: u32 = number.parse().unwrap();
    assert!((9..=15).contains(&number), "within the second: {line}");
    assert!(rest.starts_with("LlmEndpoint b: spec.type: "), "{line}");
    assert!(rest.contains("did you mean `vllm`?"), "{line}");
}

#[test]
fn all_that_is_wrong_is_told_a_line_each() {
    let files = Files::new();
    let broken = endpoint("b", "http://b", 1).replace("vllm", "vlllm");
    let broken = broken.replace("url: http://b", "url: ftp://b");
    let route = "---\napiVersion: olla.dev/v1alpha1\nkind: OllaRoute\nmetadata: {name: r}\n\
                 spec: {timeouts: {connect: 0s, request: 0s}}\n";
    let done = check(&files.write("a.yaml", &(broken + route)));
    assert_eq!(done.code, 1, "{done:?}");
    for field in [
        "spec.url: ",
        "spec.type: ",
        "spec.timeouts.connect: ",
        "spec.timeouts.request: ",
    ] {
        let lines = done.err.lines().filter(|line| line.contains(field));
        assert_eq!(lines.count(), 1, "{field} in {}", done.err);
    }
}

#[test]
fn ollas_own_layout_prefers_larger_numbers_and_says_so() {
    let files = Files::new();
    let text = format!(
        "discovery:\n  type: static\n  static:\n    endpoints:\n{}\
         proxy:\n  load_balancer: priority\n",
        endpoints("      ")
    );
    let done = check(&files.write("config.yaml", &text));
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("1. far ") && done.out.contains("2. near "));
    assert!(done.err.starts_with("warning: "), "{}", done.err);
    assert!(done.err.contains("80 is preferred over 5"), "{}", done.err);
    assert!(done.err.contains("Olla itself prefers larger numbers"));
}

#[test]
fn the_guides_layout_prefers_smaller_numbers_and_says_so() {
    let files = Files::new();
    let text = format!(
        "endpoints:\n{}proxy:\n  load_balancer: priority\n",
        endpoints("  ")
    );
    let done = check(&files.write("config.yaml", &text));
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("1. near ") && done.out.contains("2. far "));
    assert!(done.err.contains("5 is preferred over 80"), "{}", done.err);
    assert!(done.err.contains("Olla itself prefers larger numbers"));
}

#[test]
fn a_name_used_twice_is_refused_with_both_places() {
    let files = Files::new();
    let first = files.write("a.yaml", &endpoint("twin", "http://a", 1));
    let second = files.write("b.yaml", &endpoint("twin", "http://b", 1));
    let done = olla(&["check", "-f", &first, &second]);
    assert_eq!(done.code, 1, "{done:?}");
    let line = done.err.lines().find(|line| line.contains("twin")).unwrap();
    assert!(line.starts_with(&format!("error: {second}:")), "{line}");
    assert!(
        line.contains(&format!("is already defined at {first}:")),
        "{line}"
    );
}

#[test]
fn a_missing_file_is_told_once() {
    let done = check("/nowhere/a.yaml");
    let told = "olla-dataplane: read /nowhere/a.yaml: No such file or directory (os error 2)\n";
    assert_eq!((done.code, done.err.as_str()), (1, told));
}

#[test]
fn version_names_the_binary_and_its_version() {
    let told = format!("olla-dataplane {}\n", env!("CARGO_PKG_VERSION"));
    for command in ["version", "--version"] {
        let done = olla(&[command]);
        assert_eq!((done.code, &done.out), (0, &told), "{command}");
    }
}
