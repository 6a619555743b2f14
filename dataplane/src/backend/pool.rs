//! One worker's connections to one instance.
//!
//! A connection is not driven by a task of its own: whoever waits for its answer polls it. That
//! saves a wake-up between two tasks for each token of a stream.

use std::{
    cell::{Cell, RefCell},
    fmt, io,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dataplane_core::InstanceInfo;
use futures::task::noop_waker_ref;
use http_body::Body;

use super::{connect, connection};
use crate::io::Io;

/// Idle connections kept per instance and worker.
const MAX_IDLE: usize = 512;

/// An idle connection is closed after this; most servers close theirs sooner.
const IDLE_FOR: Duration = Duration::from_secs(60);

/// How long the log says nothing more of an instance's malformed answers.
const WARN_AGAIN: Duration = Duration::from_mins(10);

/// Of an answer that nobody wants, bytes that are read to keep its connection.
const MAX_UNREAD: usize = 64 * 1024;

/// A connection on which requests with bodies `B` are sent.
pub(crate) type Connection<B> = connection::Connection<Io, B>;

/// The connections to one instance, for requests with bodies `B`.
pub(crate) struct Pool<B> {
    info: Arc<InstanceInfo>,
    idle: RefCell<Vec<Idle<B>>>,
    /// The last attempt to connect failed.
    unreachable: Cell<bool>,
    /// When the log last said that its answers are malformed.
    warned: Cell<Option<Instant>>,
}

struct Idle<B> {
    connection: Connection<B>,
    since: Instant,
}

impl<B: Body<Data = Bytes> + Unpin> Pool<B> {
    pub(crate) fn new(info: Arc<InstanceInfo>) -> Self {
        Self {
            info,
            idle: RefCell::default(),
            unreachable: Cell::default(),
            warned: Cell::default(),
        }
    }

    /// For the same address, described anew (another credential or type): its connections stay good.
    pub(crate) fn renewed(&self, info: Arc<InstanceInfo>) -> Self {
        Self {
            idle: RefCell::new(self.idle.take()),
            ..Self::new(info)
        }
    }

    /// An idle connection that still lives.
    pub(crate) fn checkout(&self) -> Option<Connection<B>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut connection, .. }) = idle.pop() {
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    pub(crate) async fn connect(&self) -> io::Result<Connection<B>> {
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
        let is_malformed = matches!(
            error,
            connection::Error::Head(_) | connection::Error::Chunks
        );
        let is_news = self
            .warned
            .get()
            .is_none_or(|at| at.elapsed() >= WARN_AGAIN);
        if is_malformed && is_news {
            self.warned.set(Some(Instant::now()));
            tracing::warn!(%instance, %error, "the answer is malformed");
        } else {
            tracing::debug!(%instance, %error, "the answer broke off");
        }
    }

    /// Takes a connection back whose answer nobody wants: what of it is here already is read over.
    /// Refusals (429, 503) are short, and a connection anew for each would cost a handshake.
    pub(crate) fn put_back_unread(&self, mut connection: Connection<B>, since: Instant) {
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
    pub(crate) fn put_back(&self, mut connection: Connection<B>, since: Instant) {
        let mut idle = self.idle.borrow_mut();
        // Looked at once more: then the task that used it is not woken for what becomes of it.
        if connection.is_reusable() && idle.len() < MAX_IDLE && connection.is_quiet() {
            idle.push(Idle { connection, since });
        }
    }

    /// Closes connections that are dead, or idle for long.
    pub(crate) fn tidy(&self, now: Instant) {
        self.idle.borrow_mut().retain_mut(|idle| {
            now.duration_since(idle.since) < IDLE_FOR && idle.connection.is_quiet()
        });
    }
}

impl<B> fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("instance", &self.info.instance.id)
            .field("idle", &self.idle.borrow().len())
            .finish_non_exhaustive()
    }
}
