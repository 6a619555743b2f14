//! Traffic against the data plane, and the scripted scene: kill, revive, and count what clients
//! saw of it.

use std::{collections::BTreeMap, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{net::TcpStream, task::JoinSet};

use super::{
    screen::Screen,
    toy::{MODEL, Toy},
};
use crate::{app::Running, terminal::say};

/// Between two requests.
const EVERY: Duration = Duration::from_millis(50);

/// Longest wait for something that the scene expects.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests one after another until dropped.
#[derive(Debug)]
pub(super) struct Traffic {
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

/// What clients got.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    by_endpoint: BTreeMap<String, u64>,
    last: String,
    failed: u64,
}

impl Traffic {
    pub(super) fn start(addr: SocketAddr) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = JoinSet::new();
        let writes = seen.clone();
        tasks.spawn(async move {
            let mut tick = tokio::time::interval(EVERY);
            loop {
                tick.tick().await;
                let result = chat(addr).await;
                let mut seen = writes.lock();
                match result {
                    Ok(endpoint) => {
                        *seen.by_endpoint.entry(endpoint.clone()).or_default() += 1;
                        seen.last = endpoint;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a request failed");
                        seen.failed += 1;
                    }
                }
            }
        });
        Self {
            seen,
            _tasks: tasks,
        }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }
}

/// One chat; the name of the endpoint that answered.
async fn chat(addr: SocketAddr) -> Result<String> {
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hi" }] });
    let req = Request::post("/v1/chat/completions")
        .header(HOST, addr.to_string())
        .body(Full::new(Bytes::from(body.to_string())))?;
    let exchange = async move {
        let rsp = sender.send_request(req).await?;
        let status = rsp.status();
        let endpoint = rsp.headers().get("x-olla-endpoint").cloned();
        rsp.into_body().collect().await?;
        match endpoint.as_ref().and_then(|name| name.to_str().ok()) {
            Some(name) if status.is_success() => Ok(name.to_owned()),
            _ => bail!("answered {status}"),
        }
    };
    let (result, _) = futures::join!(exchange, connection);
    result
}

/// Kills the two best backends one after the other, then revives them, under traffic.
pub(super) async fn play(running: &Running, toys: &mut [Toy]) -> Result<ExitCode> {
    let mut screen = Screen::new(false);
    let traffic = Traffic::start(running.addr);
    let [first, second, third] = toys else {
        bail!("the scene needs three toys")
    };
    let names = [first.name(), second.name(), third.name()];
    expect(
        &traffic,
        running,
        &mut screen,
        names[0],
        "traffic goes to the best",
    )
    .await?;
    say(&format!("--- kill {}", names[0]));
    first.kill().await;
    expect(
        &traffic,
        running,
        &mut screen,
        names[1],
        "the next one takes over",
    )
    .await?;
    say(&format!("--- kill {}", names[1]));
    second.kill().await;
    expect(
        &traffic,
        running,
        &mut screen,
        names[2],
        "the last one takes over",
    )
    .await?;
    say(&format!("--- revive {} and {}", names[0], names[1]));
    first.revive().await?;
    second.revive().await?;
    expect(
        &traffic,
        running,
        &mut screen,
        names[0],
        "traffic is back at the best",
    )
    .await?;
    let seen = traffic.seen();
    let total: u64 = seen.by_endpoint.values().sum();
    let shares: Vec<String> = seen
        .by_endpoint
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    say(&format!(
        "{total} requests answered ({}), {} failed",
        shares.join(", "),
        seen.failed
    ));
    Ok(if seen.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Waits until ten answers in a row came from `endpoint`.
async fn expect(
    traffic: &Traffic,
    running: &Running,
    screen: &mut Screen,
    endpoint: &str,
    claim: &str,
) -> Result<()> {
    let begun = tokio::time::Instant::now();
    let mut tick = tokio::time::interval(EVERY);
    let mut in_a_row = 0;
    while in_a_row < 10 {
        tick.tick().await;
        in_a_row = if traffic.seen().last == endpoint {
            in_a_row + 1
        } else {
            0
        };
        if begun.elapsed() > PATIENCE {
            bail!("{claim}: not within {PATIENCE:?}");
        }
    }
    screen.draw(&running.shared.view());
    say(&format!(
        "ok: {claim} ({endpoint}), after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}
