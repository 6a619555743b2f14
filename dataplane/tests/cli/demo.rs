//! `demo`.

use crate::support::{Files, olla};

#[test]
fn the_scripted_demo_loses_no_request() {
    let done = olla(&["demo", "--script", "--listen", "127.0.0.1:0"]);
    assert_eq!(done.code, 0, "{done:?}");
    let last = done.out.lines().last().unwrap();
    assert!(
        last.contains("requests answered") && last.ends_with(" 0 failed"),
        "{last}"
    );
    assert_eq!(done.out.matches("ok: ").count(), 4, "{}", done.out);
}

#[test]
fn what_the_demo_prints_as_yaml_passes_check() {
    let printed = olla(&["demo", "--yaml"]);
    assert_eq!(printed.code, 0, "{printed:?}");
    let files = Files::new();
    let done = olla(&["check", "-f", &files.write("demo.yaml", &printed.out)]);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{done:?}");
    let order = ["local-gpu", "edge-server", "cloud"].map(|name| done.out.find(name));
    assert!(order.is_sorted() && order[0].is_some(), "{}", done.out);
}
