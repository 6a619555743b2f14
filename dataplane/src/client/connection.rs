//! A client's connection as its worker sees it: who the client is, whether a request is running,
//! and what the worker wants of it.
//!
//! A timer for each connection, set anew for each request, would cost more than all else that is
//! done for a connection. So one look at all of them every few seconds finds the idle ones.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt, io,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{share::Share, wake::WakeFilter};
use crate::io::Io;

/// One client's connection.
pub(crate) struct Connection {
    /// Of what its client's address may hold.
    pub share: Share,
    /// The client's IP address, as `X-Forwarded-For` has it.
    pub address: HeaderValue,
    /// The client came by TLS.
    pub secure: bool,
    /// Requests that came so far.
    begun: Cell<u64>,
    /// Those whose answers have not ended.
    running: Cell<u32>,
    last_seen: Cell<Activity>,
    command: Cell<Command>,
    /// What its task is woken by.
    pub wakes: WakeFilter,
    /// Something written waits in hyper or in the kernel's way.
    unwritten: Cell<bool>,
    /// How often all that was to be written was.
    flushes: Cell<u64>,
    /// Who waits for the next time.
    flush_waiter: RefCell<Option<Waker>>,
    watched: RefCell<Vec<Weak<dyn StallCheck>>>,
}

/// An answer that the regular look at its connection looks at too.
pub(crate) trait StallCheck: fmt::Debug {
    /// `limit`: how long a client may take nothing.
    fn check_stall(&self, now: Instant, limit: Duration);
}

/// What the worker wants of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Command {
    #[default]
    Serve,
    /// The process is to end: answers say that the connection does, HTTP/2 takes no new requests.
    Leave,
    /// Nothing has come for too long.
    Close,
}

/// What was seen of a connection, and how many looks in a row saw the same.
#[derive(Clone, Copy, Debug, Default)]
struct Activity {
    begun: u64,
    idle: u32,
}

impl Connection {
    pub(crate) fn new(share: Share, address: HeaderValue, secure: bool) -> Self {
        Self {
            share,
            address,
            secure,
            begun: Cell::default(),
            running: Cell::default(),
            last_seen: Cell::default(),
            command: Cell::default(),
            wakes: WakeFilter::new(),
            unwritten: Cell::default(),
            flushes: Cell::default(),
            flush_waiter: RefCell::default(),
            watched: RefCell::default(),
        }
    }

    pub(crate) fn request_begins(&self) {
        self.begun.set(self.begun.get() + 1);
        if self.is_leaving() {
            // An HTTP/2 connection that came late ends after its first requests.
            self.wakes.wake();
        }
        self.running.set(self.running.get() + 1);
    }

    pub(crate) fn request_ended(&self) {
        self.running.set(self.running.get().saturating_sub(1));
    }

    /// Watches `answer` for as long as it lives.
    pub(crate) fn watch<W: StallCheck + 'static>(&self, answer: &Rc<W>) {
        let answer: Weak<W> = Rc::downgrade(answer);
        self.watched.borrow_mut().push(answer);
    }

    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    /// True once all that was to be written after `flushes` were counted is written.
    pub(crate) fn is_flushed_since(&self, flushes: u64, cx: &Context<'_>) -> bool {
        if self.flushes.get() > flushes {
            return true;
        }
        *self.flush_waiter.borrow_mut() = Some(cx.waker().clone());
        false
    }

    fn flushed(&self) {
        self.unwritten.set(false);
        self.flushes.set(self.flushes.get() + 1);
        if let Some(waiter) = self.flush_waiter.take() {
            waiter.wake();
        }
    }

    /// What the worker wants now; the task is woken when that changes.
    pub(crate) fn command(&self) -> Command {
        self.command.get()
    }

    /// Whether it is to end soon.
    pub(crate) fn is_leaving(&self) -> bool {
        self.command.get() != Command::Serve
    }

    /// Whether it has asked for anything yet.
    pub(crate) fn has_asked(&self) -> bool {
        self.begun.get() > 0
    }

    fn give(&self, command: Command) {
        self.command.set(command);
        self.wakes.wake();
    }

    /// What is command came too late: a request has begun.
    pub(crate) fn serve_on(&self, known: Command) {
        self.command.set(known);
    }

    /// Nobody waits for anything of it.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.get() == 0 && !self.unwritten.get()
    }

    /// One of the regular looks; after `limit` of them in a row that saw nothing happen, the
    /// connection is to close.
    fn check(&self, limit: u32, stall: Duration) {
        let now = Instant::now();
        self.watched.borrow_mut().retain(|answer| {
            let answer = answer.upgrade();
            answer
                .inspect(|answer| answer.check_stall(now, stall))
                .is_some()
        });
        let last = self.last_seen.get();
        let idle = if self.is_idle() && self.begun.get() == last.begun {
            last.idle + 1
        } else {
            0
        };
        let begun = self.begun.get();
        self.last_seen.set(Activity { begun, idle });
        if idle >= limit && self.command.get() != Command::Close {
            self.give(Command::Close);
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.address)
            .field("running", &self.running)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// The socket of an HTTP/1 connection. hyper flushes it only when nothing is left to be written,
/// which is the one way to learn that.
#[derive(Debug)]
pub(crate) struct ClientIo {
    stream: Io,
    from: Rc<Connection>,
}

impl ClientIo {
    pub(crate) fn new(stream: Io, from: Rc<Connection>) -> Self {
        Self { stream, from }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.from.unwritten.set(true);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.from.unwritten.set(true);
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.from.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// All connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: RefCell<HashMap<u64, Rc<Connection>>>,
    next: Cell<u64>,
    leaving: Cell<bool>,
}

/// Takes a connection off its worker's list when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    of: Rc<Connections>,
    number: u64,
}

impl Connections {
    pub(crate) fn add(self: &Rc<Self>, connection: &Rc<Connection>) -> Registration {
        let number = self.next.get();
        self.next.set(number + 1);
        self.open.borrow_mut().insert(number, connection.clone());
        if self.leaving.get() {
            connection.give(Command::Leave);
        }
        Registration {
            of: self.clone(),
            number,
        }
    }

    /// Asks all to end, and those that are still to come.
    pub(crate) fn leave(&self) {
        self.leaving.set(true);
        for connection in self.open.borrow().values() {
            connection.give(Command::Leave);
        }
    }

    /// One of the regular looks at all of them; see [`Connection::check`].
    pub(crate) fn check(&self, limit: u32, stall: Duration) {
        for connection in self.open.borrow().values() {
            connection.check(limit, stall);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.of.open.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::share::{Limits, Shares};
    use super::*;

    const STALL: Duration = Duration::from_secs(60);

    fn connection(list: &Rc<Connections>) -> (Rc<Connection>, Registration) {
        let address = HeaderValue::from_static("10.0.0.9");
        let limits = Limits {
            connections: 1,
            all_connections: 1,
            kept_bytes: 0,
            all_kept_bytes: 0,
        };
        let shares = Shares::new(limits, Arc::default());
        let share = shares.admit([10, 0, 0, 9].into()).unwrap();
        let connection = Connection::new(share, address, false);
        let connection = Rc::new(connection);
        let listed = list.add(&connection);
        (connection, listed)
    }

    #[test]
    fn only_a_connection_without_requests_for_so_long_is_closed() {
        let list = Rc::new(Connections::default());
        let (idle, _listed) = connection(&list);
        let (busy, _listed) = connection(&list);
        let (slow, _listed) = connection(&list);
        slow.request_begins();
        for _ in 0..3 {
            busy.request_begins();
            busy.request_ended();
            list.check(3, STALL);
        }
        assert_eq!(idle.command(), Command::Close);
        assert_eq!(busy.command(), Command::Serve);
        assert_eq!(slow.command(), Command::Serve);
        slow.request_ended();
        list.check(3, STALL);
        list.check(3, STALL);
        assert_eq!(slow.command(), Command::Serve);
        list.check(3, STALL);
        assert_eq!(slow.command(), Command::Close);
    }

    #[test]
    fn the_end_reaches_connections_that_come_after_it_too() {
        let list = Rc::new(Connections::default());
        let (before, _listed) = connection(&list);
        list.leave();
        let (after, listed) = connection(&list);
        assert_eq!(before.command(), Command::Leave);
        assert_eq!(after.command(), Command::Leave);
        drop(listed);
        assert_eq!(list.open.borrow().len(), 1);
    }
}
