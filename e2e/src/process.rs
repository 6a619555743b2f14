//! A child process whose output goes to a log file and which can be treated badly.
//! In: a command. Out: a handle; dropping it kills the child.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

/// A running child. `SIGKILL`ed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to `<run>/logs/<name>-<n>.log`.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let folder = run_dir()?.join("logs");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("create the log folder {}", folder.display()))?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = folder.join(format!("{name}-{count}.log"));
        let out = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let err = out.try_clone().context("share the log file")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that takes its standard output and error.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All it printed so far.
    pub fn log_text(&self) -> Result<String> {
        let bytes = std::fs::read(&self.log)
            .with_context(|| format!("read the log {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// How it ended, or `None` while it runs.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("ask whether {} has ended", self.name))
    }

    /// Fails with the end of the log when it is no longer running: for the looks of a `wait`.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.exited()? {
            let text = self.log_text()?;
            let end: Vec<&str> = text.lines().rev().take(15).collect();
            let end: Vec<&str> = end.into_iter().rev().collect();
            bail!("{} ended ({status}):\n{}", self.name, end.join("\n"));
        }
        Ok(())
    }

    /// As a crash or a lost node: no goodbye, sockets closed by the kernel.
    pub fn kill9(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("kill {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("collect {}", self.name))?;
        Ok(())
    }

    /// Asks it to end (SIGTERM), as the kubelet does first.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal("TERM")
    }

    /// Waits for its own end; it stays running when that does not come in time.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        wait(&what, timeout, || self.exited())
    }

    /// Stops it without closing anything: connections hang instead of failing.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal("STOP")
    }

    pub fn thaw(&mut self) -> Result<()> {
        self.signal("CONT")
    }

    /// By the shell's own `kill`: the standard library knows no other signal than SIGKILL, and
    /// /bin/kill is a package that small systems lack.
    fn signal(&mut self, signal: &str) -> Result<()> {
        self.ensure_running()?; // else the pid may be somebody else's by now
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{signal} {}", self.pid()))
            .status()
            .with_context(|| format!("send SIG{signal} to {}", self.name))?;
        if !status.success() {
            bail!("send SIG{signal} to {}: {status}", self.name);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command for one of our own binaries: `olla-operator`, `olla-dataplane`.
pub fn ours<I: AsRef<OsStr>>(binary: &str, args: impl IntoIterator<Item = I>) -> Result<Command> {
    let folder = match std::env::var_os("OLLA_E2E_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => above_this_test(2)?,
    };
    let path = folder.join(binary);
    if !path.is_file() {
        bail!(
            "{} is not there: run `cargo build -p operator -p dataplane --bins`, or use ./e2e/test",
            path.display()
        );
    }
    let mut command = Command::new(path);
    command.args(args);
    Ok(command)
}

/// Where this run keeps its files: set by `e2e/test`, and a fixed place for unit tests.
pub(crate) fn run_dir() -> Result<PathBuf> {
    let folder = match std::env::var_os("OLLA_E2E_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => above_this_test(3)?.join("e2e/unit"),
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// A test is `target/<profile>/deps/<test>`: two levels up its profile, three up the target folder.
fn above_this_test(levels: usize) -> Result<PathBuf> {
    let path = std::env::current_exe().context("find the running test's own path")?;
    let folder = path.ancestors().nth(levels);
    Ok(folder
        .with_context(|| format!("find the target folder above {}", path.display()))?
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn sh(script: &str) -> Process {
        Process::start("sh", Command::new("sh").arg("-c").arg(script)).expect("sh starts")
    }

    #[test]
    fn a_terminated_process_may_say_goodbye() {
        let mut process = sh("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done");
        wait("it is up", SOON, || {
            Ok(process.log_text()?.contains("up").then_some(()))
        })
        .expect("it comes up");
        process.terminate().expect("it can be terminated");
        let status = process.wait_exit(SOON).expect("it ends");
        assert_eq!(status.code(), Some(3));
        assert!(process.log_text().expect("log").contains("bye"));
    }

    #[test]
    fn a_frozen_process_stands_still_until_thawed() {
        let mut process = sh("while :; do sleep 0.05; done");
        let stat = format!("/proc/{}/stat", process.pid());
        let stopped = || -> Result<bool> { Ok(std::fs::read_to_string(&stat)?.contains(") T ")) };
        process.freeze().expect("freeze");
        wait("it stands", SOON, || Ok(stopped()?.then_some(()))).expect("it stands still");
        process.thaw().expect("thaw");
        wait("it moves", SOON, || Ok((!stopped()?).then_some(()))).expect("it moves again");
    }

    #[test]
    fn a_dead_process_shows_the_end_of_its_log() {
        let mut process = sh("echo no such flag; exit 1");
        process.wait_exit(SOON).expect("it ends");
        let error = process.ensure_running().expect_err("it is dead");
        assert!(format!("{error:#}").contains("no such flag"), "{error:#}");
        assert!(process.terminate().is_err());
    }
}
