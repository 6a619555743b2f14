//! What signals do to a data plane that serves.

use std::time::{Duration, Instant};

use crate::support::{Backend, Files, Serving, endpoint, status, wait_for};

#[test]
fn chats_are_answered_for_the_drain_delay_after_it_said_that_it_is_not_ready() {
    let backend = Backend::listing(&["m"]);
    let files = Files::new();
    let path = files.write("a.yaml", &endpoint("a", &backend.url(), 1));
    let delay = ["--drain-delay-seconds", "3"];
    let mut plane = Serving::start(&[&["-f", &path], &delay[..]].concat());
    let ready = |plane: &Serving| status(&plane.get_raw("/internal/ready")).to_owned();
    wait_for("it is ready", || ready(&plane) == "200");
    plane.signal("TERM");
    let told = Instant::now();
    wait_for("it is not ready", || ready(&plane) == "503");
    assert_eq!(plane.get("/internal/ready")["reason"], "draining");
    assert_eq!(plane.chat("m"), "a");
    assert_eq!(plane.ended().code(), Some(0));
    assert!(told.elapsed() >= Duration::from_secs(3));
}

#[test]
fn sighup_reads_the_files_at_once_and_ends_nothing() {
    let (a, b) = (Backend::listing(&["m"]), Backend::listing(&["m"]));
    let files = Files::new();
    let path = files.write("a.yaml", &endpoint("a", &a.url(), 1));
    let plane = Serving::start(&["-f", &path]);
    wait_for("a chat is answered", || plane.chat("m") == "a");
    // Without a signal a change is seen by the look at the files a second after the last one,
    // which was when the change before it was seen: never sooner than this. With one, only a
    // machine that has no time at all could be late each time.
    let soon = Duration::from_millis(500);
    let at_once = (0..10).any(|round| {
        let (name, backend) = if round % 2 == 0 { ("b", &b) } else { ("a", &a) };
        files.write("a.yaml", &endpoint(name, &backend.url(), 1));
        plane.signal("HUP");
        let told = Instant::now();
        wait_for("traffic moves", || plane.chat("m") == name);
        round > 0 && told.elapsed() < soon
    });
    assert!(at_once, "each change waited for the regular look");
}
