//! A backend that answers as it is told: OpenAI's, Ollama's and Anthropic's API on one port.
//! In: an address and a name, which every answer repeats. Out: what was asked of it; and it can be
//! killed, revived, made to fail, or held in the middle of a stream.

mod answers;
mod serve;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use http::header::HeaderMap;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::names::HOST;
use crate::runtime::{block_on, block_on_for};
use crate::wait;

use serve::{State, lock, serve};

/// Of nothing but a bind and a hand-over to the runtime.
const SOON: Duration = Duration::from_secs(10);

/// What it does with chats and the like; health and listings answer in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Answer,
    /// Every request fails with this status.
    Fail(u16),
    /// Every n-th request fails with a 503, beginning with the first.
    FailEvery(usize),
    /// Takes requests and says nothing.
    Hang,
}

/// A chat (or the like) that reached it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Dropping it kills it.
#[derive(Debug)]
pub struct MockLlm {
    state: Arc<State>,
    address: SocketAddr,
    running: Mutex<Option<JoinSet<()>>>,
}

impl MockLlm {
    /// On the machine's address, at a port that is its own for the whole run.
    pub fn start(name: &str, models: &[&str]) -> Result<Self> {
        Self::at(SocketAddr::from((HOST, next_port())), name, models)
    }

    /// On an address that a pod may have: see `Cluster::create_pod`. No two get the same.
    pub fn start_as_pod(name: &str, models: &[&str]) -> Result<Self> {
        // 10.88.1.1 is used by the control plane's own tests; 60 are there.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let host = 2 + NEXT.fetch_add(1, Ordering::Relaxed) % 59;
        let address = Ipv4Addr::new(10, 88, 1, u8::try_from(host)?);
        Self::at(SocketAddr::from((address, POD_PORT)), name, models)
    }

    pub fn at(address: SocketAddr, name: &str, models: &[&str]) -> Result<Self> {
        let mut mock = Self {
            state: Arc::new(State {
                name: name.to_owned(),
                models: models.iter().map(ToString::to_string).collect(),
                mode: Mutex::new(Mode::Answer),
                authorization: Mutex::default(),
                seen: Mutex::default(),
                chats: AtomicUsize::new(0),
                probes: AtomicUsize::new(0),
                held: watch::Sender::new(false),
                streams: AtomicUsize::new(0),
            }),
            address,
            running: Mutex::default(),
        };
        mock.address = mock.listen()?;
        Ok(mock)
    }

    pub fn name(&self) -> &str {
        &self.state.name
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// As a crash: its port is closed and its connections break.
    pub fn kill(&self) -> Result<()> {
        if let Some(mut tasks) = lock(&self.running).take() {
            block_on(async move { tasks.shutdown().await })?;
        }
        Ok(())
    }

    /// Back at the same address; fine when it is alive already.
    pub fn revive(&self) -> Result<()> {
        self.listen().map(|_| ())
    }

    pub fn set_mode(&self, mode: Mode) {
        *lock(&self.state.mode) = mode;
        self.state.chats.store(0, Ordering::Relaxed);
    }

    /// From now on anything but health needs this value of `Authorization`.
    pub fn require(&self, authorization: &str) {
        *lock(&self.state.authorization) = Some(authorization.to_owned());
    }

    /// Streams stop after their first event, until `release`.
    pub fn hold(&self) {
        self.state.held.send_replace(true);
    }

    pub fn release(&self) {
        self.state.held.send_replace(false);
    }

    /// All chats that reached it, failed ones included.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    /// Health checks and listings that reached it.
    pub fn probes(&self) -> usize {
        self.state.probes.load(Ordering::Relaxed)
    }

    /// Streamed answers that somebody still takes.
    pub fn open_streams(&self) -> usize {
        self.state.streams.load(Ordering::Relaxed)
    }

    fn listen(&self) -> Result<SocketAddr> {
        let mut running = lock(&self.running);
        if running.is_some() {
            return Ok(self.address);
        }
        // A port that is being closed may take a moment to be free.
        let what = format!("backend {} listens on {}", self.state.name, self.address);
        let listener = wait(&what, SOON, || {
            block_on_for("bind", SOON, async {
                TcpListener::bind(self.address)
                    .await
                    .map(Some)
                    .with_context(|| format!("bind {}", self.address))
            })
        })?;
        let address = listener.local_addr().context("ask for the port")?;
        let state = self.state.clone();
        let mut tasks = JoinSet::new();
        block_on(async { tasks.spawn(serve(listener, state)) })?;
        *running = Some(tasks);
        Ok(address)
    }
}

/// Pods of a Service share a port.
pub const POD_PORT: u16 = 8000;

/// Below the range that the kernel takes for outgoing connections, so that a killed backend's port
/// stays free for it.
fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;

    fn local(name: &str) -> MockLlm {
        MockLlm::at(SocketAddr::from(([127, 0, 0, 1], 0)), name, &["m"]).expect("it starts")
    }

    #[test]
    fn a_killed_backend_refuses_connections_until_revived_at_its_address() {
        let mock = local("a");
        let client = Client::new(mock.address());
        client.chat("m").expect("it answers");
        mock.kill().expect("kill");
        assert!(client.chat("m").is_err());
        mock.revive().expect("revive");
        let reply = client.chat("m").expect("it answers again");
        assert!(reply.body.contains("Hello from a"), "{}", reply.body);
        assert_eq!(mock.seen().len(), 2);
    }

    #[test]
    fn a_held_stream_ends_only_when_released() {
        let mock = local("b");
        mock.hold();
        let client = Client::new(mock.address());
        let mut stream = client.stream("m").expect("it begins");
        let first = stream.next_piece().expect("a piece").expect("not the end");
        assert!(!first.contains("[DONE]"), "{first}");
        assert_eq!(mock.open_streams(), 1);
        mock.release();
        assert!(stream.rest().expect("a clean end").contains("[DONE]"));
    }

    #[test]
    fn a_stream_that_nobody_takes_any_more_is_noticed_while_held() {
        let mock = local("d");
        mock.hold();
        let stream = Client::new(mock.address()).stream("m").expect("it begins");
        drop(stream);
        wait("the stream is closed", SOON, || {
            Ok((mock.open_streams() == 0).then_some(()))
        })
        .expect("the backend notices");
    }

    #[test]
    fn a_wrong_key_is_refused_but_health_needs_none() {
        let mock = local("c");
        mock.require("Bearer right");
        let client = Client::new(mock.address());
        let chat = crate::client::chat("m", false);
        let path = "/v1/chat/completions";
        for (value, status) in [("Bearer wrong", 401), ("Bearer right", 200)] {
            let headers = [("authorization", value)];
            let reply = client.post(path, &chat, &headers).expect("an answer");
            assert_eq!(reply.status, status, "{value}");
        }
        assert_eq!(client.get("/v1/models").expect("an answer").status, 401);
        assert_eq!(client.get("/health").expect("an answer").status, 200);
    }
}
