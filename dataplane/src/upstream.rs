//! One worker's connections to the instances, and what is made ready once per instance.
//!
//! A connection is not driven by a task of its own: whoever waits for its answer polls it. That
//! saves a wake-up between two tasks for each token of a stream. Its parts wake each other while
//! they are polled; a [`Bell`] keeps that from reaching the task, which would poll all again.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dataplane_core::{InstanceInfo, InstanceKey};
use dataplane_protocol::RouteId;
use http::{HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use tokio::sync::Notify;

use crate::{
    bell::Bell,
    connect,
    metrics::{AttemptLabels, EndpointLabels, RequestLabels},
    proxy::{Address, Outgoing, Stamps},
    state::Shared,
};

/// Read buffer of a connection to a backend, and so the longest head of an answer, bytes. What is
/// not used of it is never touched: an open stream takes the first 4 KiB.
const READ_BUFFER: usize = 16 * 1024;

/// Idle connections kept per instance and worker.
const MAX_IDLE: usize = 512;

/// An idle connection is closed after this; most servers close theirs sooner.
const IDLE_FOR: Duration = Duration::from_secs(60);

/// All instances one worker has talked to.
pub(crate) struct Upstreams {
    shared: Arc<Shared>,
    map: RefCell<BTreeMap<InstanceKey, Rc<Upstream>>>,
}

/// An instance as one worker sees it.
pub(crate) struct Upstream {
    pub info: Arc<InstanceInfo>,
    pub address: Address,
    pub endpoint: HeaderValue,
    pub backend_type: HeaderValue,
    /// Fires when it fails its health check.
    pub cut: Arc<Notify>,
    pub first_token: Histogram,
    pub duration: Histogram,
    /// Headers of its answers that are ours.
    pub stamps: RefCell<Stamps>,
    requests: RefCell<Vec<(RouteId, u16, Counter)>>,
    attempts: RefCell<Vec<(&'static str, Counter)>>,
    idle: RefCell<Vec<Connection>>,
}

/// A connection and what moves it.
pub(crate) struct Connection {
    sender: SendRequest<Outgoing>,
    drive: Drive,
    idle_since: Instant,
}

struct Drive {
    io: Pin<Box<http1::Connection<TokioIo<connect::Io>, Outgoing>>>,
    bell: Bell,
    ended: bool,
    /// All was polled until nothing moved.
    settled: bool,
}

impl Upstreams {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            map: RefCell::default(),
        }
    }

    pub(crate) fn of(&self, info: &Arc<InstanceInfo>) -> Rc<Upstream> {
        let mut map = self.map.borrow_mut();
        let known = map.get(&info.key);
        if let Some(upstream) = known
            && Arc::ptr_eq(&upstream.info, info)
        {
            return upstream.clone();
        }
        // The same address with another credential or type: the connections stay good.
        let idle = known.map(|old| old.idle.take()).unwrap_or_default();
        let upstream = Rc::new(Upstream::new(&self.shared, info.clone(), idle));
        map.insert(info.key, upstream.clone());
        upstream
    }

    /// Closes connections that are dead or idle for long, and forgets instances that are gone.
    /// Called every few seconds.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        self.map.borrow_mut().retain(|key, upstream| {
            upstream.idle.borrow_mut().retain_mut(|connection| {
                now.duration_since(connection.idle_since) < IDLE_FOR && connection.is_usable()
            });
            self.shared.is_live(*key)
        });
    }
}

impl Upstream {
    fn new(shared: &Arc<Shared>, info: Arc<InstanceInfo>, idle: Vec<Connection>) -> Self {
        // Values come from the table, where `compile` has checked them.
        let value = |text: &str| {
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        let labels = EndpointLabels {
            endpoint: info.endpoint.id.to_string(),
        };
        Self {
            address: Address::new(
                value(&connect::authority(&info.instance)),
                connect::credential(&info.endpoint.credential),
            ),
            endpoint: value(info.endpoint.id.as_str()),
            backend_type: value(&info.profile.name),
            cut: shared.cut_signal(info.key),
            first_token: shared.metrics.first_token.get_or_create_owned(&labels),
            duration: shared.metrics.request_duration.get_or_create_owned(&labels),
            stamps: RefCell::default(),
            requests: RefCell::default(),
            attempts: RefCell::default(),
            idle: RefCell::new(idle),
            info,
        }
    }

    /// The counter of requests that `route` sent here and that ended with `code`. Looked up once
    /// per worker: the family's own look-up costs two strings and a lock.
    pub(crate) fn count_request(&self, shared: &Shared, route: &RouteId, code: u16) {
        let mut known = self.requests.borrow_mut();
        if let Some((_, _, counter)) = known.iter().find(|(r, c, _)| *c == code && r == route) {
            counter.inc();
            return;
        }
        let labels = RequestLabels {
            route: route.to_string(),
            endpoint: self.info.endpoint.id.to_string(),
            code,
        };
        let counter = shared.metrics.requests.get_or_create_owned(&labels);
        counter.inc();
        known.push((route.clone(), code, counter));
    }

    /// The same for attempts here, by result.
    pub(crate) fn count_attempt(&self, shared: &Shared, result: &'static str) {
        let mut known = self.attempts.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(r, _)| *r == result) {
            counter.inc();
            return;
        }
        let endpoint = self.info.endpoint.id.to_string();
        let labels = AttemptLabels { endpoint, result };
        let counter = shared.metrics.attempts.get_or_create_owned(&labels);
        counter.inc();
        known.push((result, counter));
    }

    /// An idle connection that still lives.
    pub(crate) fn checkout(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut connection) = idle.pop() {
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        let io = connect::open(&self.info.instance).await?;
        let (sender, io) = http1::Builder::new()
            .read_buf_exact_size(Some(READ_BUFFER))
            .handshake(TokioIo::new(io))
            .await
            .map_err(io::Error::other)?;
        Ok(Connection {
            sender,
            drive: Drive {
                io: Box::pin(io),
                bell: Bell::new(),
                ended: false,
                settled: false,
            },
            idle_since: Instant::now(),
        })
    }

    /// Takes a connection back whose answer has ended.
    pub(crate) fn put_back(&self, mut connection: Connection, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if !connection.drive.ended && idle.len() < MAX_IDLE {
            connection.idle_since = now;
            // What becomes of it now is nothing to the task that used it.
            connection.drive.bell.leave();
            idle.push(connection);
        }
    }
}

impl Connection {
    /// Sends; the future polls the connection until the head of the answer is there.
    pub(crate) fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> {
        let drive = &mut self.drive;
        drive.bell.mute();
        drive.settled = false;
        Sending {
            drive,
            answer: self.sender.send_request(request),
        }
    }

    /// A piece of `body`, which is that of this connection's answer; reads on where none waits.
    pub(crate) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut body = Pin::new(body);
        self.drive.poll_for(cx, |cx| body.as_mut().poll_frame(cx))
    }

    /// Sees a close that came while nobody looked.
    fn is_usable(&mut self) -> bool {
        let drive = &mut self.drive;
        if !drive.ended {
            drive.ended = drive.io.as_mut().poll(&mut drive.bell.context()).is_ready();
        }
        !drive.ended && self.sender.is_ready()
    }
}

pin_project! {
    /// A request on its way. No `async` block, which would keep hyper's future twice.
    struct Sending<'a, F> {
        drive: &'a mut Drive,
        #[pin]
        answer: F,
    }
}

impl<F: Future> Future for Sending<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        this.drive.poll_for(cx, |cx| this.answer.as_mut().poll(cx))
    }
}

impl Drive {
    /// Polls `part`, which this connection moves, and the connection, until the part has a
    /// result or nothing moves any more.
    fn poll_for<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut part: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.bell.listen(cx);
        if self.settled && !self.bell.has_rung() {
            return Poll::Pending;
        }
        let result = self.bell.poll(|cx| {
            let result = part(cx);
            if result.is_ready() || self.ended {
                return result;
            }
            self.ended = self.io.as_mut().poll(cx).is_ready();
            part(cx)
        });
        self.settled = result.is_pending();
        result
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("instance", &self.info.instance.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("ended", &self.drive.ended)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}
