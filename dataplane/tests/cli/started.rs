//! `health --started`, and what a sidecar needs: both loopback addresses, and an app that is not held up by an
//! operator that is away.

use std::net::{Ipv6Addr, TcpListener, TcpStream};

use crate::support::{Backend, Files, Serving, endpoint, olla, status, wait_for};

/// Follows an operator that is not there.
fn without_operator(files: &Files, patience: &str) -> Serving {
    let ca = files.write("ca.crt", "");
    let token = files.write("token", "");
    let state = ca.replace("ca.crt", "state");
    let args = [
        "--listen=localhost:0",
        "--admin-listen=127.0.0.1:0",
        "--operator=https://127.0.0.1:9",
        "--operator-ca",
        &ca,
        "--token-file",
        &token,
        "--state-dir",
        &state,
        "--start-without-table-seconds",
        patience,
    ];
    Serving::start_somewhere(&[], &args)
}

fn started(plane: &Serving) -> (i32, String) {
    let addr = plane.addr.to_string();
    let done = olla(&["health", "--started", "--listen", &addr]);
    (done.code, done.out + &done.err)
}

#[test]
fn a_data_plane_without_a_table_has_not_started_while_it_may_still_come() {
    let files = Files::new();
    let plane = without_operator(&files, "3600");
    let (code, text) = started(&plane);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no routing table yet"), "{text}");
}

#[test]
fn after_its_patience_it_has_started_and_answers_503_with_retry_after() {
    let files = Files::new();
    let plane = without_operator(&files, "1");
    wait_for("it has started", || started(&plane).0 == 0);
    let rsp = plane.post(
        "/v1/chat/completions",
        "",
        "{\"model\":\"m\",\"messages\":[]}",
    );
    assert_eq!(status(&rsp), "503", "{rsp}");
    assert!(
        rsp.to_ascii_lowercase().contains("retry-after: 1\r\n"),
        "{rsp}"
    );
    // Somebody who routes to it is told the truth all the same.
    assert_eq!(status(&plane.get_raw("/internal/ready")), "503");
}

#[test]
fn one_that_starts_again_keeps_nobody_waiting() {
    let files = Files::new();
    let first = without_operator(&files, "1");
    wait_for("it has started", || started(&first).0 == 0);
    let marker = files.0.path().join("state/started");
    wait_for("it is remembered", || marker.exists());
    drop(first);
    let again = without_operator(&files, "3600");
    let (code, text) = started(&again);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn it_has_started_once_its_backends_are_probed() {
    let backend = Backend::listing(&["m"]);
    let files = Files::new();
    let path = files.write("a.yaml", &endpoint("a", &backend.url(), 1));
    let plane = Serving::start(&["-f", &path, "--start-without-table-seconds", "3600"]);
    wait_for("it has started", || started(&plane).0 == 0);
    assert_eq!(plane.chat("m"), "a");
}

#[test]
fn localhost_is_answered_on_the_loopback_addresses_of_both_families() {
    let files = Files::new();
    let mut plane = without_operator(&files, "3600");
    assert_eq!(status(&plane.get_raw("/internal/health")), "200");
    let v6 = (Ipv6Addr::LOCALHOST, plane.addr.port());
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        TcpStream::connect(v6).unwrap();
        plane.addr = v6.into();
        assert_eq!(status(&plane.get_raw("/internal/health")), "200");
    }
}
