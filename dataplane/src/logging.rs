//! Logs: JSON lines, or text on a terminal. Written in batches by a thread of their own, so that
//! a slow reader of the log does not slow down requests.

use std::{
    io::{self, IsTerminal as _, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
pub(crate) use serving::logs::Format;
use tracing_subscriber::fmt::MakeWriter;

/// Lines wait for the writer no longer than this.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// Lines beyond this many waiting bytes are dropped, and counted in the next that is written.
const MAX_WAITING: usize = 8 << 20;

/// Starts logging for the process; drop the guard last, it writes what is waiting.
pub(crate) fn start(filter: &str, format: Option<Format>) -> Result<Guard> {
    let writer = Lines::default();
    let terminal = io::stdout().is_terminal();
    serving::logs::start(filter, format, terminal, writer.clone())
        .with_context(|| format!("--log-level {filter}"))?;
    Guard::start(writer).context("start the log writer")
}

#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    dropped: u64,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.lock();
        if waiting.bytes.len() + line.len() > MAX_WAITING {
            waiting.dropped += 1;
        } else {
            waiting.bytes.extend_from_slice(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Owns the writing thread.
#[derive(Debug)]
pub(crate) struct Guard {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    fn start(lines: Lines) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                let mut batch = Vec::new();
                loop {
                    let last = stopping.load(Ordering::Acquire);
                    write_batch(&lines, &mut batch);
                    if last {
                        return;
                    }
                    std::thread::park_timeout(FLUSH_EVERY);
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

fn write_batch(lines: &Lines, batch: &mut Vec<u8>) {
    batch.clear();
    let dropped = {
        let mut waiting = lines.0.lock();
        std::mem::swap(&mut waiting.bytes, batch);
        std::mem::take(&mut waiting.dropped)
    };
    if dropped > 0 {
        let line = format!(
            "{{\"level\":\"WARN\",\"message\":\"log lines dropped\",\"count\":{dropped}}}\n"
        );
        batch.extend_from_slice(line.as_bytes());
    }
    if !batch.is_empty() {
        // A log that nobody takes must not stop the traffic.
        let _ = io::stdout().write_all(batch);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
