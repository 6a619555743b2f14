//! What signals do to the operator's process. Its API server takes connections and says nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longer than anything here should take, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn sighup_does_not_end_it_and_sigterm_does() {
    let api_server = TcpListener::bind("127.0.0.1:0").unwrap();
    let kubeconfig = Path::new(env!("CARGO_TARGET_TMPDIR")).join("signals.kubeconfig");
    let server = format!("http://{}", api_server.local_addr().unwrap());
    let text = format!(
        "apiVersion: v1
kind: Config
current-context: silent
clusters: [{{ name: silent, cluster: {{ server: '{server}' }} }}]
users: [{{ name: nobody, user: {{ token: none }} }}]
contexts: [{{ name: silent, context: {{ cluster: silent, user: nobody }} }}]
"
    );
    fs::write(&kubeconfig, text).unwrap();
    let mut operator = Command::new(env!("CARGO_BIN_EXE_olla-operator"))
        .args(["run", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"])
        .env_clear()
        .env("KUBECONFIG", &kubeconfig)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It asks once it listens for signals.
    api_server.set_nonblocking(true).unwrap();
    let _asked = wait_for(|| api_server.accept().ok());
    for name in ["HUP", "TERM"] {
        let kill = format!("kill -{name} {}", operator.id());
        let sent = Command::new("/bin/sh").args(["-c", &kill]).status();
        assert!(sent.unwrap().success());
    }
    // The first one had its effect before the second: none has a code who dies of a signal.
    let ended = wait_for(|| operator.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
}
