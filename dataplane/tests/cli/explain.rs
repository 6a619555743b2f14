//! `explain`: the same answer as the running data plane gives.

use crate::support::{Backend, Done, Files, Serving, endpoint, olla};

fn explain(path: &str, args: &[&str]) -> Done {
    olla(&[&["explain", "-f", path], args].concat())
}

#[test]
fn the_preferred_endpoint_is_picked() {
    let (near, far) = (Backend::listing(&["m"]), Backend::listing(&["m"]));
    let files = Files::new();
    let text = endpoint("far", &far.url(), 2) + &endpoint("near", &near.url(), 1);
    let done = explain(&files.write("a.yaml", &text), &["--model", "m"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{done:?}");
    assert!(
        done.out.contains("→ tier 0 weight 100 near"),
        "{}",
        done.out
    );
    assert!(done.out.contains("· tier 1 weight 100 far"), "{}", done.out);
    assert!(done.out.contains("picked: model_found"), "{}", done.out);
}

#[test]
fn the_endpoint_that_lists_the_model_beats_the_preferred_one() {
    let (near, far) = (Backend::listing(&["other"]), Backend::listing(&["m"]));
    let files = Files::new();
    let text = endpoint("far", &far.url(), 2) + &endpoint("near", &near.url(), 1);
    let done = explain(&files.write("a.yaml", &text), &["--model", "m"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("→ tier 1 weight 100 far"), "{}", done.out);
    assert!(done.out.contains("does not serve m"), "{}", done.out);
}

#[test]
fn a_model_nobody_lists_is_refused_as_by_the_running_plane() {
    let backend = Backend::listing(&["m"]);
    let files = Files::new();
    let path = files.write("a.yaml", &endpoint("a", &backend.url(), 1));
    let done = explain(&path, &["--model", "nowhere"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.out.contains("refused: model_not_found"),
        "{}",
        done.out
    );
    assert!(done.err.contains("would be refused"), "{}", done.err);

    let plane = Serving::start(&["-f", &path]);
    crate::support::wait_for("models are listed", || plane.chat("m") == "a");
    crate::support::wait_for("the running plane refuses", || {
        plane.chat("nowhere") == "404"
    });
}

#[test]
fn a_backend_that_cannot_list_may_serve_any_model() {
    for status in ["404 Not Found", "500 Internal Server Error"] {
        let backend = Backend::unlisted(status);
        let files = Files::new();
        let path = files.write("a.yaml", &endpoint("a", &backend.url(), 1));
        let done = explain(&path, &["--model", "m"]);
        assert_eq!(
            (done.code, done.err.as_str()),
            (0, ""),
            "{status}: {done:?}"
        );
        let picked = done.out.contains("picked: model_unknown_endpoint");
        assert!(picked, "{status}: {}", done.out);
    }
}

#[test]
fn offline_judges_without_a_look_at_the_endpoints() {
    let files = Files::new();
    let nobody = "http://127.0.0.1:9";
    let path = files.write("a.yaml", &endpoint("a", nobody, 1));
    let done = explain(&path, &["--model", "m", "--offline"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{done:?}");
    assert!(done.out.contains("not probed yet"), "{}", done.out);
    let done = explain(&path, &["--model", "m"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.out.contains("Connection refused"), "{}", done.out);
}

#[test]
fn a_path_that_goes_to_no_backend_is_named_as_such() {
    let files = Files::new();
    let path = files.write("a.yaml", &endpoint("a", "http://127.0.0.1:9", 1));
    for (asked, code, told) in [
        ("/nope", 1, "not a path that goes to a backend"),
        ("/olla/", 1, "not a path that goes to a backend"),
        ("/api/pull", 1, "call that backend directly"),
        ("/v1/models", 0, "/v1/models is answered here"),
        ("/olla/models/m", 0, "/olla/models/m is answered here"),
        ("/internal/health", 0, "/internal/health is answered here"),
        ("/v1/embeddings", 0, "picked: "),
    ] {
        let done = explain(&path, &["--offline", "--path", asked]);
        assert_eq!(done.code, code, "{asked}: {done:?}");
        assert!(done.out.contains(told), "{asked}: {}", done.out);
        let picked = done.out.contains("picked");
        assert_eq!(picked, told == "picked: ", "{asked}: {}", done.out);
        assert_eq!(done.out.contains("refused: "), code == 1, "{asked}");
    }
}

#[test]
fn the_running_plane_tells_the_same_of_paths() {
    let backend = Backend::listing(&["m"]);
    let files = Files::new();
    let path = files.write("a.yaml", &endpoint("a", &backend.url(), 1));
    let plane = Serving::start(&["-f", &path]);
    let told = plane.get("/internal/explain?path=/nope");
    assert_eq!(told["refusal"], "not_found");
    assert!(told["decision"].is_null(), "{told}");
    let told = plane.get("/internal/explain?path=/v1/models");
    assert!(told["refusal"].is_null(), "{told}");
    assert!(told["decision"].is_null(), "{told}");
    assert!(told["notes"][0].as_str().unwrap().contains("answered here"));
}
