//! The answer on its way to the client, chunk by chunk, as it comes.
//!
//! Drives the backend's connection itself and joins what is ready into one write. Ends in one
//! of four ways: whole; broken (a last event says so, and the close is unclean); silent for too
//! long (the same); or dropped, because the client left – then the backend's connection is
//! closed at once.

use std::{
    cell::RefCell,
    future::Future as _,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use dataplane_core::{Cause, Outcome};
use dataplane_protocol::Dialect;
use dialect::{
    error::ErrorBody,
    stream::{self, Framer, Framing},
};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::{
    account::Account,
    error::broken_off,
    flight::Flight,
    upload::{Progress, Upload},
    upstream::{Connection, Upstream},
};
use crate::{backend::connection, client::connection::StallCheck, metrics::ReasonLabels};

/// The answer broke off: the connection to the client is closed without a proper end.
#[derive(Debug, thiserror::Error)]
#[error("the backend's answer broke off ({0})")]
pub(crate) struct Broken(&'static str);

#[derive(Debug)]
pub(crate) struct Relay {
    /// Given back when the answer ends whole.
    connection: Option<Connection>,
    upstream: Rc<Upstream>,
    flight: Flight,
    pub(super) account: Box<Account>,
    /// What the answer counts as if it ends whole.
    outcome: Outcome,
    /// The request's body may still be on its way.
    upload: Upload,
    client: Dialect,
    pub(super) http_2: bool,
    framer: Framer,
    /// A model was asked: its dialect says how a stream ends.
    inference: bool,
    /// End of a body whose end HTTP does not mark; absent where it does.
    tail: Option<BytesMut>,
    /// To hand out before anything else.
    next: Option<Bytes>,
    idle: Duration,
    deadline: Option<Instant>,
    last_data: Instant,
    /// When data was last handed out, if nobody has asked for more since.
    handed_out: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// All that the client is to have is out, and has to be written before the failure shows.
    Ending(&'static str),
    /// Since so many flushes of its connection.
    Flushing(&'static str, u64),
    Failing(&'static str),
    Ended,
}

/// What [`body`] needs beside the parts of the answer.
#[derive(Debug)]
pub(super) struct Terms {
    pub outcome: Outcome,
    pub upload: Upload,
    pub client: Dialect,
    /// The client's connection is HTTP/2.
    pub http_2: bool,
    pub framing: Framing,
    /// The path is one of those that ask a model.
    pub inference: bool,
    /// The backend marks the end by closing only.
    pub until_close: bool,
    pub idle: Duration,
    pub deadline: Option<Instant>,
    /// When the first byte came.
    pub now: Instant,
}

impl Relay {
    pub(super) fn new(
        first: Option<Bytes>,
        connection: Connection,
        upstream: Rc<Upstream>,
        flight: Flight,
        account: Box<Account>,
        terms: Terms,
    ) -> Self {
        let mut relay = Self {
            connection: Some(connection),
            upstream,
            flight,
            account,
            outcome: terms.outcome,
            upload: terms.upload,
            client: terms.client,
            http_2: terms.http_2,
            framer: Framer::new(terms.framing),
            inference: terms.inference,
            tail: terms.until_close.then(BytesMut::new),
            next: None,
            idle: terms.idle,
            deadline: terms.deadline,
            last_data: terms.now,
            handed_out: Some(terms.now),
            timer: None,
            state: State::Open,
        };
        let empty = first.is_none();
        relay.next = first.and_then(|data| relay.framed(data));
        if relay.is_done() || empty {
            relay.end_whole(terms.now);
        } else if relay.framer.framing() != Framing::Opaque && relay.outcome == Outcome::Success {
            relay.flight.first_byte(terms.now);
        }
        relay
    }

    /// What of this may go out now.
    fn framed(&mut self, data: Bytes) -> Option<Bytes> {
        if let Some(tail) = &mut self.tail {
            tail.extend_from_slice(&data);
            let surplus = tail.len().saturating_sub(stream::TAIL);
            let _ = tail.split_to(surplus);
        }
        Some(self.framer.push(data)).filter(|data| !data.is_empty())
    }

    /// The body ended as HTTP says it should.
    fn end_whole(&mut self, now: Instant) {
        let rest = self.framer.finish();
        let is_cut = self.tail.as_ref().is_some_and(|tail| {
            let framing = self.framer.framing();
            !(stream::looks_finished(framing, tail) || !self.inference && rest.is_empty())
        });
        if is_cut {
            let before = self.next.take();
            self.break_off(Cause::Truncated, now);
            self.prepend(before);
            return;
        }
        if !rest.is_empty() {
            let before = self.next.replace(rest);
            self.prepend(before);
        }
        self.flight.finish(self.outcome, now);
        self.account.answered(&self.upstream, &self.outcome, now);
        if let Some(connection) = self.connection.take() {
            self.upstream.pool.put_back(connection, now);
        }
        self.state = State::Ended;
    }

    /// Puts data in front of what is handed out next.
    fn prepend(&mut self, before: Option<Bytes>) {
        let Some(before) = before else {
            return;
        };
        let after = self.next.take().unwrap_or_default();
        self.next = Some([before, after].concat().into());
    }

    /// The answer cannot be finished. Nothing of it can be taken back, so the client is told.
    fn break_off(&mut self, cause: Cause, now: Instant) {
        let (outcome, reason) = (cause.outcome(), cause.code());
        self.flight.finish(outcome, now);
        self.account.attempt_ended(&self.upstream, &outcome);
        self.account.broke_off(now, reason);
        self.account
            .shared()
            .metrics
            .broken_streams
            .get_or_create(&ReasonLabels { reason })
            .inc();
        self.connection = None;
        let message = broken_off(cause, self.upstream.info.endpoint.id.as_str());
        let error = ErrorBody {
            status: cause.status(),
            reason,
            message: &message,
            request_id: self.account.request_id(),
        };
        let event = stream::broken(self.client, self.framer.framing(), &error);
        self.next = Some(event).filter(|event| !event.is_empty());
        self.state = State::Ending(reason);
    }

    /// All that is ready now, or the end, or nothing yet.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            self.over_time(Instant::now());
            return Poll::Ready(());
        }
        while let Poll::Ready(data) = self.poll_connection(cx) {
            let now = Instant::now();
            self.last_data = now;
            match data {
                Ok(Some(data)) => {
                    self.next = self.framed(data);
                    if self.is_done() {
                        self.end_whole(now);
                    }
                }
                Ok(None) => self.end_whole(now),
                // The client's fault, not the backend's.
                Err(connection::Error::Unfinished)
                    if self.upload.progress() == Progress::Stalled =>
                {
                    self.break_off(Cause::BodyTimeout, now);
                }
                Err(connection::Error::Unfinished) => {
                    self.break_off(Cause::BodyUnreadable, now);
                }
                Err(error) => {
                    self.upstream.pool.broke_off(&error);
                    self.break_off(Cause::Truncated, now);
                }
            }
            if self.next.is_some() || self.state != State::Open {
                return Poll::Ready(());
            }
        }
        self.silence(cx)
    }

    fn is_done(&self) -> bool {
        self.connection.as_ref().is_none_or(Connection::is_done)
    }

    fn poll_connection(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, connection::Error>> {
        match &mut self.connection {
            Some(connection) => connection.poll_data(cx),
            None => Poll::Ready(Ok(None)),
        }
    }

    /// The route's own limit has passed. As before the first byte, it says nothing of the backend.
    fn over_time(&mut self, now: Instant) {
        self.break_off(Cause::RequestTimeout, now);
    }

    /// Nothing came: how long for?
    fn silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let idle_at = self.last_data + self.idle;
            let at = self
                .deadline
                .map_or(idle_at, |deadline| deadline.min(idle_at));
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if now < at {
                // Set for an earlier silence, broken since.
                timer.as_mut().reset(at.into());
                continue;
            }
            if self.deadline.is_some_and(|deadline| now >= deadline) {
                self.over_time(now);
                return Poll::Ready(());
            }
            // While the backend waits for the client, the client's own limit runs.
            self.last_data = self.upload.waits_since(self.last_data);
            if now.saturating_duration_since(self.last_data) >= self.idle {
                self.break_off(Cause::StreamIdleTimeout, now);
                return Poll::Ready(());
            }
        }
    }
}

impl StallCheck for RefCell<Relay> {
    fn check_stall(&self, now: Instant, limit: Duration) {
        let Ok(mut relay) = self.try_borrow_mut() else {
            return;
        };
        let stalled = relay
            .handed_out
            .is_some_and(|at| now.saturating_duration_since(at) >= limit);
        if stalled && relay.state == State::Open {
            relay.break_off(Cause::ClientStalled, now);
        }
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.handed_out = None;
        loop {
            if let Some(data) = self.next.take() {
                self.handed_out = Some(self.last_data);
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            match self.state {
                State::Ended => return Poll::Ready(None),
                State::Ending(reason) if self.http_2 => {
                    // Its frames go out by themselves; one pause lets them.
                    self.state = State::Failing(reason);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                // hyper writes only when a body has nothing more to give, and with the failure
                // drops what a slow client has not taken yet.
                State::Ending(reason) => {
                    self.state = State::Flushing(reason, self.account.caller.connection.flushes());
                }
                State::Flushing(reason, since) => {
                    if !self.account.caller.connection.is_flushed_since(since, cx) {
                        return Poll::Pending;
                    }
                    self.state = State::Failing(reason);
                }
                State::Failing(reason) => {
                    self.state = State::Ended;
                    return Poll::Ready(Some(Err(Broken(reason))));
                }
                State::Open => {
                    if self.advance(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Ended && self.next.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // The head says it, where the backend did: `Content-Length` passes untouched.
        SizeHint::default()
    }
}
