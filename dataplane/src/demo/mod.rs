//! `demo`: three toy backends, a real data plane in front of them, and keys to kill and revive
//! them. The routes come from the same YAML that a cluster would get.

mod screen;
mod script;
mod toy;

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Read as _},
    net::SocketAddr,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use manifest::Source;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use self::toy::Toy;
use crate::{
    app::{App, From, Running},
    config::{DEFAULT_PORT, Settings},
    logging,
    terminal::{LogArgs, say},
};

/// The demo's own arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Address to serve on.
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)))]
    listen: SocketAddr,
    /// Send requests, kill and revive backends by itself, print what happened, and exit with 1
    /// if any request failed.
    #[arg(long)]
    script: bool,
    /// Print the YAML and exit.
    #[arg(long)]
    yaml: bool,
}

/// Name and priority of the toy backends.
const TOYS: [(&str, u32); 3] = [("local-gpu", 1), ("edge-server", 2), ("cloud", 10)];

/// Between two pictures of the screen.
const REDRAW: Duration = Duration::from_millis(250);

pub(crate) fn demo(args: Args) -> Result<ExitCode> {
    let log = LogArgs::quiet();
    let _flush = logging::start(&log.0, log.1)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> Result<ExitCode> {
    let mut toys = Vec::new();
    for (name, _) in TOYS {
        toys.push(Toy::start(name).await?);
    }
    let yaml = yaml(&toys);
    if args.yaml {
        say(&yaml);
        return Ok(ExitCode::SUCCESS);
    }
    let settings = Settings {
        listen: args.listen,
        access_log: false,
        workers: 1,
        ..Settings::default()
    };
    let sources = vec![Source {
        name: "demo.yaml".to_owned(),
        text: yaml,
    }];
    let running = App::start(
        settings,
        From::Text {
            sources,
            namespace: None,
        },
    )
    .await?;
    let base = format!("http://{}", running.addr);
    if args.script {
        let done = script::play(&running, &mut toys).await;
        running.drain().await;
        return done;
    }
    say(&screen::greeting(&base));
    let done = interact(&running, &mut toys).await;
    running.drain().await;
    done
}

/// Three endpoints and one route: what `kubectl apply` would take.
fn yaml(toys: &[Toy]) -> String {
    let mut text = String::new();
    for (toy, (name, priority)) in toys.iter().zip(TOYS) {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "apiVersion: olla.dev/v1alpha1
kind: LlmEndpoint
metadata: {{ name: {name} }}
spec:
  type: openai
  url: http://{}
  priority: {priority}
  health: {{ path: /health, interval: 1s, timeout: 1s }}
---
",
            toy.addr()
        );
    }
    text.push_str(ROUTE);
    text
}

const ROUTE: &str = "apiVersion: olla.dev/v1alpha1
kind: OllaRoute
metadata: { name: demo }
spec:
  loadBalancer: priority
  circuitBreaker: { consecutiveFailures: 3, openFor: 3s }
";

async fn interact(running: &Running, toys: &mut [Toy]) -> Result<ExitCode> {
    let mut keys = Keys::start();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut screen = screen::Screen::new(std::io::stdout().is_terminal());
    let mut redraw = tokio::time::interval(REDRAW);
    let mut traffic = None;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = redraw.tick() => screen.draw(&running.shared.view()),
            Some(key) = keys.next() => match key {
                'q' => return Ok(ExitCode::SUCCESS),
                'k' => {
                    if let Some(toy) = toys.iter_mut().find(|toy| toy.is_alive()) {
                        toy.kill().await;
                    }
                }
                'r' => {
                    if let Some(toy) = toys.iter_mut().rev().find(|toy| !toy.is_alive()) {
                        toy.revive().await?;
                    }
                }
                't' => {
                    traffic = match traffic.take() {
                        Some(_) => None,
                        None => Some(script::Traffic::start(running.addr)),
                    }
                }
                _ => {}
            },
        }
    }
}

/// Keys as they are pressed. Without a terminal, whatever standard input holds.
struct Keys {
    pressed: mpsc::Receiver<char>,
    raw: bool,
}

impl Keys {
    fn start() -> Self {
        let raw = std::io::stdin().is_terminal() && stty(&["-icanon", "-echo", "min", "1"]);
        let (sender, pressed) = mpsc::channel(16);
        // Reading a terminal cannot be cancelled: this thread ends with the process.
        let reader = std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || {
                for byte in std::io::stdin().lock().bytes() {
                    let Ok(byte) = byte else { return };
                    if sender
                        .blocking_send(char::from(byte).to_ascii_lowercase())
                        .is_err()
                    {
                        return;
                    }
                }
            });
        if let Err(error) = reader {
            tracing::warn!(%error, "keys will do nothing");
        }
        Self { pressed, raw }
    }

    /// `None` once standard input has ended; the demo then goes on until it is told to stop.
    async fn next(&mut self) -> Option<char> {
        self.pressed.recv().await
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if self.raw {
            stty(&["icanon", "echo"]);
        }
    }
}

/// Switches the terminal by the tool that every Unix has, rather than by unsafe code.
fn stty(args: &[&str]) -> bool {
    let status = Command::new("stty")
        .args(args)
        .stdin(Stdio::inherit())
        .status();
    status.is_ok_and(|status| status.success())
}
