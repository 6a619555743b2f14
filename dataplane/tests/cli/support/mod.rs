//! What the tests stand on: the binary run to its end or in the background, a folder of files, a
//! backend that lists models, and a client.

mod backend;
mod serving;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub(crate) use self::{
    backend::{Backend, answer},
    serving::{Serving, status},
};

/// Longer than anything here should take, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the binary to its end.
pub(crate) fn olla(args: &[&str]) -> Done {
    let output = command(args).output().unwrap();
    Done {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Nothing of this process's environment changes what it does.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olla-dataplane"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

/// Looks until `holds`.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A folder that is gone with its test.
pub(crate) struct Files(pub(crate) TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Where the file is.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// An LlmEndpoint of type vllm, `priority` on its line 7.
pub(crate) fn endpoint(name: &str, url: &str, priority: u32) -> String {
    format!(
        "apiVersion: olla.dev/v1alpha1
kind: LlmEndpoint
metadata: {{ name: {name} }}
spec:
  type: vllm
  url: {url}
  priority: {priority}
---
"
    )
}
