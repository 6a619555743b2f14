//! Connections of clients: accepted in one place, served by workers.
//!
//! One acceptor gives each connection to the worker that has the fewest, because long streams
//! spread unevenly when the kernel chooses (SO_REUSEPORT). A worker is one thread with a
//! current-thread runtime and its own connections to the backends: no lock but the fleet's on
//! a request's way.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use http::HeaderValue;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::LocalSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    proxy::{self, Downstream},
    state::Shared,
    upstream::Upstreams,
};

/// A connection that sends no complete head for so long is closed; idle ones too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// Longest time that a client may leave unread what was written to it.
const CLIENT_STALL: Duration = Duration::from_secs(120);

/// Streams on one HTTP/2 connection.
const MAX_H2_STREAMS: u32 = 1024;

/// A peer that answers no ping is gone.
const H2_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Between two looks at a worker's idle connections.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// Accepted connections that may wait for a worker; the kernel's backlog holds the rest.
const HAND_OVER: usize = 256;

pub(crate) fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

/// A worker as the acceptor sees it.
#[derive(Debug)]
pub(crate) struct Worker {
    connections: mpsc::Sender<(std::net::TcpStream, SocketAddr)>,
    open: Arc<AtomicUsize>,
}

/// Starts the workers. Each ends when its sender is dropped and its connections are done.
pub(crate) fn start_workers(
    shared: &Arc<Shared>,
) -> io::Result<(Vec<Worker>, Vec<JoinHandle<()>>)> {
    let mut workers = Vec::new();
    let mut threads = Vec::new();
    for number in 0..shared.settings.workers.max(1) {
        let (sender, receiver) = mpsc::channel(HAND_OVER);
        let open = Arc::new(AtomicUsize::new(0));
        let (shared, counter) = (shared.clone(), open.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || LocalSet::new().block_on(&runtime, serve(shared, receiver, counter)))?;
        workers.push(Worker {
            connections: sender,
            open,
        });
        threads.push(thread);
    }
    Ok((workers, threads))
}

/// Accepts until the drain begins, then lets go of the workers.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener, workers: Vec<Worker>) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files, most likely: let some connections end before the next try.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        // A client that takes nothing for so long, or is gone without a word, is cut.
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(CLIENT_STALL));
        // The worker's own runtime must watch it.
        let Ok(stream) = stream.into_std() else {
            continue;
        };
        let least = workers
            .iter()
            .min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        if let Some(worker) = least {
            worker.open.fetch_add(1, Ordering::Relaxed);
            if worker.connections.send((stream, peer)).await.is_err() {
                tracing::error!("a worker is gone");
                return;
            }
        }
    }
}

/// A worker's life: connections come in until the acceptor lets go, then the last ones end.
async fn serve(
    shared: Arc<Shared>,
    mut connections: mpsc::Receiver<(std::net::TcpStream, SocketAddr)>,
    open: Arc<AtomicUsize>,
) {
    let upstreams = Rc::new(Upstreams::new(shared.clone()));
    let tracker = TaskTracker::new();
    // Its own: each poll of a connection looks at it, and workers should not meet there.
    let drain = shared.drain.child_token();
    let tidy = tokio::task::spawn_local({
        let upstreams = upstreams.clone();
        async move {
            loop {
                tokio::time::sleep(TIDY_EVERY).await;
                upstreams.tidy().await;
            }
        }
    });
    while let Some((stream, peer)) = connections.recv().await {
        let open = Open::new(&shared, open.clone());
        let Ok(stream) = TcpStream::from_std(stream) else {
            continue;
        };
        let (shared, upstreams, drain) = (shared.clone(), upstreams.clone(), drain.clone());
        tracker.spawn_local(async move {
            connection(shared, upstreams, drain, stream, peer).await;
            drop(open);
        });
    }
    tracker.close();
    tracker.wait().await;
    tidy.abort();
}

async fn connection(
    shared: Arc<Shared>,
    upstreams: Rc<Upstreams>,
    drain: CancellationToken,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let looking = tokio::select! {
        looking = tokio::time::timeout(HEADER_TIMEOUT, speaks_h2(&stream)) => looking,
        // Nothing was asked yet.
        () = drain.cancelled() => return,
    };
    let Ok(Ok(h2)) = looking else { return };
    let address = peer.ip().to_canonical().to_string();
    let address = HeaderValue::try_from(address).unwrap_or(HeaderValue::from_static("unknown"));
    let from = Rc::new(Downstream {
        shared,
        upstreams,
        address,
    });
    let service = service_fn(|req| {
        let from = from.clone();
        // Boxed: hyper keeps the room of a connection's future for as long as an answer streams.
        async { Ok::<_, Infallible>(Box::pin(proxy::handle(from, req)).await) }
    });
    let io = TokioIo::new(stream);
    let ended = if h2 {
        let serving = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_H2_STREAMS)
            .keep_alive_interval(Some(H2_KEEP_ALIVE))
            .serve_connection(io, service);
        // Boxed: rare, and larger than the other.
        let mut serving = Box::pin(serving);
        tokio::select! {
            biased;
            ended = serving.as_mut() => ended,
            () = drain.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    } else {
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(io, service);
        tokio::pin!(serving);
        tokio::select! {
            biased;
            ended = serving.as_mut() => ended,
            () = drain.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    };
    if let Err(error) = ended {
        // A client that left, or an answer that we cut on purpose.
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Whether the client begins with HTTP/2's preface. Only looks: what it sent stays unread, so
/// hyper's first buffer is filled by one read.
async fn speaks_h2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8; 4] = b"PRI ";
    let mut start = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut start).await?;
        let seen = start.get(..seen).unwrap_or_default();
        if seen.is_empty() || !PREFACE.starts_with(seen) {
            return Ok(false);
        }
        if seen.len() == PREFACE.len() {
            return Ok(true);
        }
        // A few bytes of it: looking again gives the same at once.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Counts a connection for as long as it lives.
struct Open {
    shared: Arc<Shared>,
    count: Arc<AtomicUsize>,
}

impl Open {
    fn new(shared: &Arc<Shared>, count: Arc<AtomicUsize>) -> Self {
        shared.metrics.connections.inc();
        Self {
            shared: shared.clone(),
            count,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.metrics.connections.dec();
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// hyper's HTTP/2 tasks stay on their worker's thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
