//! `demo`.

use std::process::Command;

use crate::support::{Files, Serving, olla, wait_for};

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

/// Columns of the backend's line in the last picture: name, tier, health, breaker, requests, ….
fn last_line(demo: &Serving, name: &str) -> Vec<String> {
    let lines = demo.logged(name);
    let last = lines.iter().rfind(|line| line.starts_with(name));
    let words = |line: &String| line.split_whitespace().map(str::to_owned).collect();
    last.map(words).unwrap_or_default()
}

fn shows(demo: &Serving, name: &str, health: &str) -> bool {
    last_line(demo, name)
        .get(2)
        .is_some_and(|told| told == health)
}

#[test]
fn the_demos_keys_work_from_a_pipe() {
    let mut demo = Serving::demo();
    let answers = |demo: &Serving, name: &str| {
        wait_for(&format!("{name} answers"), || demo.chat("toy-llm") == name);
    };
    wait_for("all is well", || shows(&demo, "cloud", "Healthy"));
    let names = demo.logged("Closed");
    assert!(
        names[0].starts_with("local-gpu"),
        "the best first: {names:?}"
    );
    answers(&demo, "local-gpu");
    demo.press("k");
    answers(&demo, "edge-server");
    wait_for("its line says so", || {
        shows(&demo, "local-gpu", "Unhealthy")
    });
    demo.press("k\n");
    answers(&demo, "cloud");
    // The last killed, not the best.
    demo.press("r");
    answers(&demo, "edge-server");
    wait_for("its line says so", || {
        shows(&demo, "edge-server", "Healthy")
    });
    assert!(shows(&demo, "local-gpu", "Unhealthy"));
    demo.press("R");
    answers(&demo, "local-gpu");

    let requests = |demo: &Serving| -> u64 { last_line(demo, "local-gpu")[4].parse().unwrap() };
    let before = requests(&demo);
    demo.press("t");
    wait_for("traffic flows", || requests(&demo) >= before + 10);
    demo.press("q");
    assert_eq!(demo.ended().code(), Some(0));
    // A line of the log would tear the picture on a terminal.
    assert_eq!(demo.logged("WARN"), Vec::<String>::new());
}

#[test]
fn a_demo_without_keys_goes_on_until_sigterm() {
    let mut demo = Serving::demo();
    demo.close_stdin();
    let uptime = || demo.get("/internal/status")["system"]["uptime_seconds"].as_u64();
    let before = uptime();
    // Long enough for the end of the keys to be seen.
    wait_for("it goes on", || uptime() > before);
    assert_eq!(demo.chat("toy-llm"), "local-gpu");
    assert_eq!(demo.terminate().code(), Some(0));
}

#[test]
fn the_curl_lines_that_the_demo_prints_work() {
    let demo = Serving::demo();
    wait_for("all is well", || shows(&demo, "cloud", "Healthy"));
    wait_for("models are listed", || {
        demo.get("/internal/status/models")["models"][0]["name"] == "toy-llm"
    });
    let lines = demo.logged("  curl ");
    let told = [
        "Hello from local-gpu",
        "data: [DONE]",
        "toy-llm",
        "local-gpu",
    ];
    assert_eq!(lines.len(), told.len(), "{lines:?}");
    for (line, told) in lines.iter().zip(told) {
        let shell = format!("{line} --silent --show-error --fail --max-time 30");
        let output = Command::new("/bin/sh").args(["-c", &shell]).output();
        let output = output.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {errors}");
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(out.contains(told), "{line}: {out}");
    }
}
