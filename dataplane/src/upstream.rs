//! One worker's connections to the instances, and what is made ready once per instance.
//!
//! A connection is not driven by a task of its own: whoever waits for its answer polls it. That
//! saves a wake-up between two tasks for each token of a stream.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt,
    future::{Future as _, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use dataplane_core::{InstanceInfo, InstanceKey};
use dataplane_protocol::RouteId;
use http::{HeaderName, HeaderValue, Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use tokio::sync::Notify;

use crate::{
    connect,
    metrics::{AttemptLabels, EndpointLabels, RequestLabels},
    proxy::{Outgoing, Stamp},
    state::Shared,
};

/// Read buffer of a connection to a backend, bytes: an answer of 2 KB with its head fits, and
/// 1,000 open streams take 4 MB.
const READ_BUFFER: usize = 4096;

/// Idle connections kept per instance and worker.
const MAX_IDLE: usize = 512;

/// An idle connection is closed after this; most servers close theirs sooner.
const IDLE_FOR: Duration = Duration::from_secs(60);

/// All instances one worker has talked to.
pub(crate) struct Upstreams {
    shared: Arc<Shared>,
    map: RefCell<HashMap<InstanceKey, Rc<Upstream>>>,
}

/// An instance as one worker sees it.
pub(crate) struct Upstream {
    pub info: Arc<InstanceInfo>,
    /// `Host` of its requests.
    pub authority: HeaderValue,
    pub credential: Option<(HeaderName, HeaderValue)>,
    pub endpoint: HeaderValue,
    pub backend_type: HeaderValue,
    /// Fires when it fails its health check.
    pub cut: Arc<Notify>,
    pub first_token: Histogram,
    pub duration: Histogram,
    /// Headers of its answers that do not change.
    pub stamp: RefCell<Option<Stamp>>,
    requests: RefCell<Vec<(RouteId, u16, Counter)>>,
    attempts: RefCell<Vec<(&'static str, Counter)>>,
    idle: RefCell<Vec<Connection>>,
}

/// A connection and what moves it.
pub(crate) struct Connection {
    sender: SendRequest<Outgoing>,
    drive: Pin<Box<http1::Connection<TokioIo<connect::Io>, Outgoing>>>,
    ended: bool,
    idle_since: Instant,
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
    pub(crate) async fn tidy(&self) {
        poll_fn(|cx| {
            let now = Instant::now();
            self.map.borrow_mut().retain(|key, upstream| {
                upstream.idle.borrow_mut().retain_mut(|connection| {
                    now.duration_since(connection.idle_since) < IDLE_FOR && connection.is_usable(cx)
                });
                self.shared.is_live(*key)
            });
            Poll::Ready(())
        })
        .await;
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
            authority: value(&connect::authority(&info.instance)),
            credential: connect::credential(&info.endpoint.credential),
            endpoint: value(info.endpoint.id.as_str()),
            backend_type: value(&info.profile.name),
            cut: shared.cut_signal(info.key),
            first_token: shared.metrics.first_token.get_or_create_owned(&labels),
            duration: shared.metrics.request_duration.get_or_create_owned(&labels),
            stamp: RefCell::default(),
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
    pub(crate) async fn checkout(&self) -> Option<Connection> {
        poll_fn(|cx| {
            let mut idle = self.idle.borrow_mut();
            while let Some(mut connection) = idle.pop() {
                if connection.is_usable(cx) {
                    return Poll::Ready(Some(connection));
                }
            }
            Poll::Ready(None)
        })
        .await
    }

    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        let io = connect::open(&self.info.instance).await?;
        let (sender, drive) = http1::Builder::new()
            .read_buf_exact_size(Some(READ_BUFFER))
            .handshake(TokioIo::new(io))
            .await
            .map_err(io::Error::other)?;
        Ok(Connection {
            sender,
            drive: Box::pin(drive),
            ended: false,
            idle_since: Instant::now(),
        })
    }

    /// Takes a connection back whose answer has ended.
    pub(crate) fn put_back(&self, mut connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        if !connection.ended && idle.len() < MAX_IDLE {
            connection.idle_since = Instant::now();
            idle.push(connection);
        }
    }
}

impl Connection {
    /// Sends, and polls the connection until the head of the answer is there.
    pub(crate) async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let mut answer = std::pin::pin!(self.sender.send_request(request));
        let (drive, ended) = (&mut self.drive, &mut self.ended);
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            if !*ended {
                *ended = drive.as_mut().poll(cx).is_ready();
            }
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Moves the connection on; true when it did not end yet.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.ended {
            self.ended = self.drive.as_mut().poll(cx).is_ready();
        }
        !self.ended
    }

    /// Sees a close that came while nobody looked.
    fn is_usable(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll(cx) && self.sender.is_ready()
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
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}
