//! Connections of clients: accepted in one place, served by workers.
//!
//! One acceptor gives each connection to the worker that has the fewest, because long streams
//! spread unevenly when the kernel chooses (SO_REUSEPORT). A worker is one thread with a
//! current-thread runtime and its own connections to the backends: no lock but the fleet's on
//! a request's way.

use std::{
    convert::Infallible,
    error::Error,
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serving::listen;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::LocalSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::{
    connection::{ClientIo, Command, Connection, Connections},
    share::{Limits, Refused, Share, Shares},
};
use crate::{config::Settings, io::Io, socket, state::Shared};

/// What HTTP/2 holds of an answer that its client does not take, beside the chunk that passed
/// this bound: for each stream, so no more than a few events of a stream.
const H2_SEND_BUFFER: usize = 8 * 1024;

/// What a client may send ahead on one stream of HTTP/2, and on all of a connection, bytes. An upload
/// that its backend does not take fills its stream's part and leaves the others theirs.
const H2_STREAM_WINDOW: u32 = 128 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Longest head of an HTTP/1 request, and what is held of an answer beside the last chunk, which
/// has up to 32 KiB. As much as nginx takes by default.
const H1_BUFFER: usize = 32 * 1024;

/// At the end, a connection that two looks see idle is closed: half a second is longer than a
/// client that has its answer needs to write its next request, on another continent too.
const LAST_LOOKS: u32 = 2;
const LAST_LOOK_EVERY: Duration = Duration::from_millis(250);

/// Between two warnings of one kind that anybody could provoke.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A peer that answers no ping is gone.
const H2_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Accepted connections that may wait for a worker; the kernel's backlog holds the rest.
const HAND_OVER: usize = 256;

/// What answers the requests of clients: one for each worker, made on its thread.
pub(crate) trait Service: 'static {
    /// What the requests of one connection share.
    type Caller: 'static;
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static;

    fn caller(self: &Rc<Self>, connection: &Rc<Connection>) -> Rc<Self::Caller>;

    /// Never fails: what goes wrong is an answer too.
    fn answer(
        caller: Rc<Self::Caller>,
        req: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;

    /// Called every few seconds.
    fn tidy(&self);
}

/// A connection as it is handed to a worker.
#[derive(Debug)]
struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    share: Share,
}

/// A worker as the acceptor sees it.
#[derive(Debug)]
pub(crate) struct Worker {
    connections: mpsc::Sender<Accepted>,
    open: Arc<AtomicUsize>,
}

/// Starts the workers. Each ends when its sender is dropped and its connections are done.
pub(crate) fn start_workers<S: Service>(
    shared: &Arc<Shared>,
    tls: Option<&TlsAcceptor>,
    make: fn(&Arc<Shared>) -> S,
) -> io::Result<(Vec<Worker>, Vec<JoinHandle<()>>)> {
    let mut workers = Vec::new();
    let mut threads = Vec::new();
    for number in 0..shared.settings.workers.max(1) {
        let (sender, receiver) = mpsc::channel(HAND_OVER);
        let open = Arc::new(AtomicUsize::new(0));
        let (shared, counter) = (shared.clone(), open.clone());
        let tls = tls.cloned();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                LocalSet::new().block_on(&runtime, serve(shared, tls, receiver, counter, make));
            })?;
        workers.push(Worker {
            connections: sender,
            open,
        });
        threads.push(thread);
    }
    Ok((workers, threads))
}

/// Accepts until the drain begins, then lets go of the workers.
pub(crate) async fn accept(shared: Arc<Shared>, listeners: Vec<TcpListener>, workers: Vec<Worker>) {
    let settings = &shared.settings;
    let limits = Limits {
        connections: settings.client_connections,
        all_connections: settings.all_client_connections,
        kept_bytes: settings.replay_client_bytes,
        all_kept_bytes: settings.replay_total_bytes,
    };
    let mut acceptor = Acceptor {
        shares: Shares::new(limits, shared.kept.clone()),
        workers,
        warned: None,
        shared: shared.clone(),
    };
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = shared.life.drain.cancelled() => break,
            accepted = listen::accept_any(&listeners, "clients") => accepted,
        };
        acceptor.take(stream, peer).await;
    }
    // For their clients these are made: closing the listener would reset them.
    for listener in listeners {
        while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
            acceptor.take(stream, peer).await;
        }
    }
}

/// Who gives connections to the workers.
struct Acceptor {
    shared: Arc<Shared>,
    shares: Arc<Shares>,
    workers: Vec<Worker>,
    /// When it last said that a client has too many connections.
    warned: Option<Instant>,
}

impl Acceptor {
    async fn take(&mut self, stream: TcpStream, peer: SocketAddr) {
        let settings = &self.shared.settings;
        let client = peer.ip().to_canonical();
        let share = match self.shares.admit(client) {
            Ok(share) => share,
            Err(refused) => {
                // Closed at once: an answer would cost what is to be saved.
                self.shared.metrics.refused_connections.inc();
                if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                    self.warned = Some(Instant::now());
                    warn_refused(refused, client, settings);
                }
                return;
            }
        };
        let _ = stream.set_nodelay(true);
        socket::watch(&stream, settings.client_stall);
        // The worker's own runtime must watch it.
        let Ok(stream) = stream.into_std() else {
            return;
        };
        let least = self
            .workers
            .iter()
            .min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        if let Some(worker) = least {
            worker.open.fetch_add(1, Ordering::Relaxed);
            let accepted = Accepted {
                stream,
                peer,
                share,
            };
            if worker.connections.send(accepted).await.is_err() {
                tracing::error!("a worker is gone");
            }
        }
    }
}

fn warn_refused(refused: Refused, client: IpAddr, settings: &Settings) {
    match refused {
        Refused::Client => {
            let limit = settings.client_connections;
            tracing::warn!(%client, limit, "client has too many connections");
        }
        Refused::All => {
            let limit = settings.all_client_connections;
            tracing::warn!(
                %client, limit,
                "connection refused: all clients together have as many as the limit on open files leaves room for"
            );
        }
    }
}

/// A worker's life: connections come in until the acceptor lets go, then the last ones end.
async fn serve<S: Service>(
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    mut connections: mpsc::Receiver<Accepted>,
    open: Arc<AtomicUsize>,
    make: fn(&Arc<Shared>) -> S,
) {
    let service = Rc::new(make(&shared));
    let all = Rc::new(Connections::default());
    let tracker = TaskTracker::new();
    let tidy = tokio::task::spawn_local({
        let (service, all) = (service.clone(), all.clone());
        let every = shared.settings.look_every;
        let stall = shared.settings.client_stall;
        // Checks in a row that see nothing happen.
        let idle = shared.settings.client_idle.div_duration_f64(every).ceil() as u32;
        async move {
            loop {
                tokio::time::sleep(every).await;
                service.tidy();
                all.check(idle, stall);
            }
        }
    });
    let drain = tokio::task::spawn_local({
        let (shared, all) = (shared.clone(), all.clone());
        async move {
            shared.life.leaving.cancelled().await;
            all.leave();
            shared.life.drain.cancelled().await;
            // Who was just answered may be writing the next request.
            loop {
                all.check(LAST_LOOKS, shared.settings.client_stall);
                tokio::time::sleep(LAST_LOOK_EVERY).await;
            }
        }
    });
    while let Some(accepted) = connections.recv().await {
        let Accepted {
            stream,
            peer,
            share,
        } = accepted;
        let open = Open::new(&shared, open.clone());
        let Ok(stream) = TcpStream::from_std(stream) else {
            continue;
        };
        let address = peer.ip().to_canonical().to_string();
        let address = HeaderValue::try_from(address).unwrap_or(HeaderValue::from_static("unknown"));
        let from = Rc::new(Connection::new(share, address, tls.is_some()));
        let registration = all.add(&from);
        let (shared, tls, service) = (shared.clone(), tls.clone(), service.clone());
        tracker.spawn_local(async move {
            connection(&shared, from, tls, stream, peer, &service).await;
            drop((registration, open));
        });
    }
    tracker.close();
    tracker.wait().await;
    tidy.abort();
    drain.abort();
}

async fn connection<S: Service>(
    shared: &Shared,
    from: Rc<Connection>,
    tls: Option<TlsAcceptor>,
    stream: TcpStream,
    peer: SocketAddr,
    service: &Rc<S>,
) {
    let limit = shared.settings.client_idle;
    let greeting = tokio::select! {
        greeting = tokio::time::timeout(limit, greet(tls, stream)) => greeting,
        // Nothing was asked yet.
        () = too_late(shared) => return,
    };
    let (stream, h2) = match greeting {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "no connection came about"),
        Err(_) => return,
    };
    let caller = service.caller(&from);
    let service = service_fn(|req| {
        // Boxed: hyper keeps the room of a connection's future for as long as an answer streams.
        Box::pin(S::answer(caller.clone(), req)).map(Ok::<_, Infallible>)
    });
    let ended = if h2 {
        let io = TokioIo::new(stream);
        let serving = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(from.share.streams())
            .max_send_buf_size(H2_SEND_BUFFER)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .keep_alive_interval(Some(H2_KEEP_ALIVE))
            .serve_connection(io, service);
        // Boxed: rare, and larger than the other.
        let mut serving = Box::pin(serving);
        until_ended(&from, true, serving.as_mut(), |serving, _| {
            serving.graceful_shutdown();
            Poll::Pending
        })
        .await
    } else {
        let io = TokioIo::new(ClientIo::new(stream, from.clone()));
        let serving = http1::Builder::new()
            .max_buf_size(H1_BUFFER)
            .serve_connection(io, service);
        let serving = std::pin::pin!(serving);
        until_ended(&from, false, serving, |_, command| {
            if command == Command::Close {
                // A graceful end would wait for the rest of a head that has begun.
                return Poll::Ready(Ok(()));
            }
            // Its next answer says that it ends.
            Poll::Pending
        })
        .await
    };
    if let Err(error) = ended {
        // A client that left, or an answer that we cut on purpose.
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Serves a connection to its end, or until `end` has ended it because the worker wants it to.
async fn until_ended<C: Future<Output = hyper::Result<()>>>(
    from: &Connection,
    h2: bool,
    mut serving: Pin<&mut C>,
    end: impl Fn(Pin<&mut C>, Command) -> Poll<C::Output>,
) -> C::Output {
    let mut known = Command::Serve;
    poll_fn(|cx| {
        from.wakes.listen(cx);
        loop {
            let ended = from.wakes.poll(|cx| serving.as_mut().poll(cx));
            let command = from.command();
            if ended.is_ready() || command == known {
                return ended;
            }
            if command == Command::Leave && h2 && !from.has_asked() {
                // One that comes so late is answered once, as others are.
                return ended;
            }
            if command == Command::Close && !from.is_idle() {
                from.serve_on(known);
                return ended;
            }
            known = command;
            if let Poll::Ready(ended) = end(serving.as_mut(), command) {
                return Poll::Ready(ended);
            }
        }
    })
    .await
}

/// Resolves when the data plane has stopped accepting, and a client that had just connected
/// would have spoken.
async fn too_late(shared: &Shared) {
    shared.life.drain.cancelled().await;
    tokio::time::sleep(LAST_LOOK_EVERY * LAST_LOOKS).await;
}

/// The connection as its requests come over it, and whether they come as HTTP/2.
async fn greet(tls: Option<TlsAcceptor>, stream: TcpStream) -> io::Result<(Io, bool)> {
    let Some(tls) = tls else {
        let h2 = speaks_h2(&stream).await?;
        return Ok((Io::Plain(stream), h2));
    };
    // Boxed: its handshake's future would stay in that of each plain connection.
    let stream = Box::pin(tls.accept(stream)).await?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Io::Tls(Box::new(stream.into())), h2))
}

/// Whether the client begins with HTTP/2's preface. Only looks: what it sent stays unread, so
/// hyper's first buffer is filled by one read.
async fn speaks_h2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut start = [0; PREFACE.len()];
    let mut pause = Duration::from_millis(2);
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
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
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
