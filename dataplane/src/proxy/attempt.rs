//! One attempt at one instance: connect, send, and wait for the first byte of its answer. Until
//! then nothing has gone to the client, so whatever fails here can be tried elsewhere.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dataplane_core::{Cause, Outcome, classify};
use dataplane_protocol::table::Timeouts;
use http::{Method, header::RETRY_AFTER};
use http1::{Head, Lines};
use serving::descriptors;
use tokio::time::{Sleep, sleep_until, timeout};

use super::{
    upload::{Outgoing, Upload},
    upstream::{Connection, Upstream},
};
use crate::backend::connection::Error;

/// An answer whose first byte is here (or that has none).
#[derive(Debug)]
pub(super) struct Answer {
    pub head: Head,
    pub first: Option<Bytes>,
    pub connection: Connection,
}

/// A request as it goes to a backend.
pub(super) struct Message {
    pub method: Method,
    pub head: Lines,
    pub body: Outgoing,
}

/// What one attempt goes by.
pub(super) struct Terms<'a> {
    pub timeouts: &'a Timeouts,
    /// The client asked for a stream.
    pub stream: bool,
    pub upload: &'a Upload,
    /// The same request may be sent twice: it changes nothing, and all of it is kept.
    pub repeatable: bool,
    /// Ends once the instance has gone unhealthy more often than this.
    pub outages: u32,
    /// When its instance was picked.
    pub began: Instant,
}

/// A connection that was closed while it was idle breaks at once when it is used. What breaks
/// later may have broken because of the request.
const STALE: Duration = Duration::from_secs(1);

/// `make` builds the request anew, for a second connection if the first was stale.
pub(super) async fn run(
    upstream: &Rc<Upstream>,
    terms: &Terms<'_>,
    make: impl Fn() -> Option<Message>,
) -> Result<Box<Answer>, Cause> {
    let exchange = async {
        // A pooled connection may be stale; what must run once only gets a new one.
        if terms.repeatable
            && let Some(mut connection) = upstream.pool.checkout()
        {
            match first_byte(upstream, &mut connection, &make, terms).await {
                // The backend closed an idle connection just as we used it: that says nothing
                // about the backend, and nothing was answered.
                Err(Cause::Reset)
                    if !connection.has_answered() && terms.began.elapsed() < STALE => {}
                result => return result.map(|begun| begun.with(connection)),
            }
        }
        let mut connection = connect(upstream, terms.timeouts).await?;
        let begun = first_byte(upstream, &mut connection, &make, terms).await?;
        Ok(begun.with(connection))
    };
    tokio::select! {
        biased;
        result = exchange => result,
        () = upstream.outage.beyond(terms.outages) => Err(Cause::Unhealthy),
    }
}

async fn connect(upstream: &Upstream, timeouts: &Timeouts) -> Result<Connection, Cause> {
    // Boxed: rare and, with its handshakes, larger than all the rest of a request.
    let connecting = Box::pin(upstream.pool.connect());
    let limit = Duration::from_millis(timeouts.connect_ms);
    let (cause, error) = match timeout(limit, connecting).await {
        Ok(Ok(connection)) => {
            upstream.pool.reached();
            return Ok(connection);
        }
        Ok(Err(error)) if descriptors::are_used_up(&error) => (Cause::NoDescriptors, error),
        Ok(Err(error)) => (Cause::ConnectFailure, error),
        Err(_) => {
            let error = format!("no connection within {limit:?}");
            (Cause::ConnectTimeout, io::Error::other(error))
        }
    };
    upstream.pool.not_reached(&error);
    Err(cause)
}

async fn first_byte(
    upstream: &Upstream,
    connection: &mut Connection,
    make: &impl Fn() -> Option<Message>,
    terms: &Terms<'_>,
) -> Result<Begun, Cause> {
    let limit_ms = if terms.stream {
        Some(terms.timeouts.first_token_ms)
    } else {
        terms.timeouts.first_token_whole_ms
    };
    let mut answer = std::pin::pin!(exchange(upstream, connection, make));
    let Some(limit_ms) = limit_ms else {
        return answer.await;
    };
    let limit = Duration::from_millis(limit_ms);
    let mut since = Instant::now();
    loop {
        tokio::select! {
            biased;
            answer = answer.as_mut() => return answer,
            // Boxed: most requests have no such limit, and it is large.
            () = Box::pin(sleep_until((since + limit).into())) => {}
        }
        // While the backend waits for the client, the clock does not run.
        since = terms.upload.waits_since(since);
        if since.elapsed() >= limit {
            return Err(Cause::FirstTokenTimeout);
        }
    }
}

/// An answer that has begun.
struct Begun {
    head: Head,
    first: Option<Bytes>,
}

impl Begun {
    fn with(self, connection: Connection) -> Box<Answer> {
        let Self { head, first } = self;
        Box::new(Answer {
            head,
            first,
            connection,
        })
    }
}

async fn exchange(
    upstream: &Upstream,
    connection: &mut Connection,
    make: &impl Fn() -> Option<Message>,
) -> Result<Begun, Cause> {
    // A body that can be sent once was sent: nobody asks for it again.
    let Some(Message { method, head, body }) = make() else {
        return Err(Cause::BodyUnreadable);
    };
    connection.send(method, head, body);
    let (head, first) = poll_fn(|cx| connection.poll_head(cx))
        .await
        .map_err(|error| broke_off(upstream, &error))?;
    let first = if !first.is_empty() {
        Some(first)
    } else if connection.is_done() {
        None
    } else {
        let first = poll_fn(|cx| connection.poll_data(cx)).await;
        first.map_err(|error| broke_off(upstream, &error))?
    };
    Ok(Begun { head, first })
}

fn broke_off(upstream: &Upstream, error: &Error) -> Cause {
    upstream.pool.broke_off(error);
    match error {
        Error::Head(_) | Error::Chunks => Cause::Malformed,
        Error::Io(_) | Error::Closed | Error::Unfinished => Cause::Reset,
    }
}

/// Resolves when the time has come, or never.
pub(super) async fn reached(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

/// What an answer's status says, where it is more than an answer.
pub(super) fn judge(answer: &Answer) -> Option<(Cause, Outcome)> {
    let mut headers = answer.head.headers.iter();
    let after = headers.find(|(name, _)| *name == RETRY_AFTER);
    // One that is no text asks to be left alone all the same.
    let after = after.map(|(_, value)| value.to_str().unwrap_or_default());
    classify::answer(answer.head.status.as_u16(), after)
}

#[cfg(test)]
mod tests;
