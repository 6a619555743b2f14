//! One worker's connections to the instances, and what is made ready once per instance.
//!
//! A connection is not driven by a task of its own: whoever waits for its answer polls it. That
//! saves a wake-up between two tasks for each token of a stream.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt, io,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use dataplane_core::{InstanceInfo, InstanceKey};
use dataplane_protocol::RouteId;
use futures::task::noop_waker_ref;
use http::HeaderValue;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

use crate::{
    backend::{address::Address, connect, connection, upload::Outgoing},
    cut::Cut,
    io::Io,
    metrics::{AttemptLabels, EndpointLabels, RequestLabels},
    state::Shared,
    template::Templates,
};

/// Idle connections kept per instance and worker.
const MAX_IDLE: usize = 512;

/// An idle connection is closed after this; most servers close theirs sooner.
const IDLE_FOR: Duration = Duration::from_secs(60);

/// How long the log says nothing more of an instance's malformed answers.
const ODD_AGAIN: Duration = Duration::from_mins(10);

/// Of an answer that nobody wants, bytes that are read to keep its connection.
const MAX_UNREAD: usize = 64 * 1024;

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
    pub cut: Arc<Cut>,
    pub first_token: Histogram,
    pub duration: Histogram,
    /// Headers of its answers that are ours.
    pub templates: RefCell<Templates>,
    requests: RefCell<Vec<(RouteId, u16, Counter)>>,
    attempts: RefCell<Vec<(&'static str, Counter)>>,
    idle: RefCell<Vec<Idle>>,
    /// The last attempt to connect failed.
    unreachable: Cell<bool>,
    /// When the log last said that it does not speak as HTTP/1.1 wants it.
    odd: Cell<Option<Instant>>,
}

/// A connection to an instance.
pub(crate) type Connection = connection::Connection<Io, Outgoing>;

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
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
            upstream.idle.borrow_mut().retain_mut(|idle| {
                now.duration_since(idle.since) < IDLE_FOR && idle.connection.is_quiet()
            });
            self.shared.is_live(*key)
        });
    }
}

impl Upstream {
    fn new(shared: &Arc<Shared>, info: Arc<InstanceInfo>, idle: Vec<Idle>) -> Self {
        // Values come from the table, where `compile` has checked them.
        let value = |text: &str| {
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        let labels = EndpointLabels {
            llm_endpoint: info.endpoint.id.to_string(),
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
            templates: RefCell::default(),
            requests: RefCell::default(),
            attempts: RefCell::default(),
            idle: RefCell::new(idle),
            unreachable: Cell::default(),
            odd: Cell::default(),
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
            llm_endpoint: self.info.endpoint.id.to_string(),
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
        let labels = AttemptLabels {
            llm_endpoint: self.info.endpoint.id.to_string(),
            result,
        };
        let counter = shared.metrics.attempts.get_or_create_owned(&labels);
        counter.inc();
        known.push((result, counter));
    }

    /// An idle connection that still lives.
    pub(crate) fn checkout(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut connection, .. }) = idle.pop() {
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        let io = connect::open(&self.info.instance).await?;
        Ok(Connection::new(io))
    }

    pub(crate) fn reached(&self) {
        self.unreachable.set(false);
    }

    /// Says why once, not for each of the requests that go elsewhere.
    pub(crate) fn not_reached(&self, error: &io::Error) {
        let instance = &self.info.instance.id;
        if self.unreachable.replace(true) {
            tracing::debug!(%instance, %error, "connect failed again");
        } else {
            tracing::warn!(%instance, %error, "connect failed");
        }
    }

    /// Says why an answer broke off. What only we find wrong would look like a reset to everybody,
    /// so it is said aloud, once in a while.
    pub(crate) fn broke_off(&self, error: &connection::Error) {
        let instance = &self.info.instance.id;
        let is_odd = matches!(
            error,
            connection::Error::Head(_) | connection::Error::Chunks
        );
        let is_news = self.odd.get().is_none_or(|at| at.elapsed() >= ODD_AGAIN);
        if is_odd && is_news {
            self.odd.set(Some(Instant::now()));
            tracing::warn!(%instance, %error, "the answer is malformed");
        } else {
            tracing::debug!(%instance, %error, "the answer broke off");
        }
    }

    /// Takes a connection back whose answer nobody wants: what of it is here already is read over.
    /// Refusals (429, 503) are short, and a connection anew for each would cost a handshake.
    pub(crate) fn put_back_unread(&self, mut connection: Connection, since: Instant) {
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut left = MAX_UNREAD;
        while !connection.is_done() {
            let Poll::Ready(Ok(Some(data))) = connection.poll_data(&mut cx) else {
                break;
            };
            let Some(less) = left.checked_sub(data.len()) else {
                return;
            };
            left = less;
        }
        if connection.is_done() {
            self.put_back(connection, since);
        }
    }

    /// Takes a connection back whose answer has ended.
    pub(crate) fn put_back(&self, mut connection: Connection, since: Instant) {
        let mut idle = self.idle.borrow_mut();
        // Looked at once more: then the task that used it is not woken for what becomes of it.
        if connection.is_reusable() && idle.len() < MAX_IDLE && connection.is_quiet() {
            idle.push(Idle { connection, since });
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("instance", &self.info.instance.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}
