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
use dataplane_core::{Cause, Failure, Outcome};
use dataplane_protocol::table::Timeouts;
use http::{HeaderValue, Method, header::RETRY_AFTER};
use tokio::time::{Sleep, sleep, timeout};

use super::body::{Outgoing, Progress, Upload};
use crate::{
    http1::{Head, Lines},
    upstream::{Connection, Upstream},
};

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

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub cause: Cause,
    pub outcome: Outcome,
}

impl Failed {
    const fn connect(cause: Cause) -> Self {
        Self {
            cause,
            outcome: Outcome::Failure(Failure::Connect),
        }
    }

    const RESET: Self = Self {
        cause: Cause::Reset,
        outcome: Outcome::Failure(Failure::Reset),
    };

    const TIMEOUT: Self = Self {
        cause: Cause::FirstTokenTimeout,
        outcome: Outcome::Failure(Failure::FirstTokenTimeout),
    };

    /// Its health check failed meanwhile: that has been counted where it was seen.
    const UNHEALTHY: Self = Self {
        cause: Cause::Unhealthy,
        outcome: Outcome::Cancelled,
    };
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
    make: impl Fn() -> Message,
) -> Result<Box<Answer>, Failed> {
    let exchange = async {
        // A pooled connection may be stale; what must run once only gets a new one.
        if terms.repeatable
            && let Some(mut connection) = upstream.checkout()
        {
            match first_byte(&mut connection, &make, terms).await {
                // The backend closed an idle connection just as we used it: that says nothing
                // about the backend, and nothing was answered.
                Err(failed)
                    if failed == Failed::RESET
                        && !connection.has_answered()
                        && terms.began.elapsed() < STALE => {}
                result => return result.map(|begun| begun.with(connection)),
            }
        }
        let mut connection = connect(upstream, terms.timeouts).await?;
        let begun = first_byte(&mut connection, &make, terms).await?;
        Ok(begun.with(connection))
    };
    tokio::select! {
        biased;
        result = exchange => result,
        () = upstream.cut.beyond(terms.outages) => Err(Failed::UNHEALTHY),
    }
}

async fn connect(upstream: &Upstream, timeouts: &Timeouts) -> Result<Connection, Failed> {
    // Boxed: rare and, with its handshakes, larger than all the rest of a request.
    let connecting = Box::pin(upstream.connect());
    let limit = Duration::from_millis(timeouts.connect_ms);
    let (cause, error) = match timeout(limit, connecting).await {
        Ok(Ok(connection)) => {
            upstream.reached();
            return Ok(connection);
        }
        Ok(Err(error)) => (Cause::ConnectFailure, error),
        Err(_) => {
            let error = format!("no connection within {limit:?}");
            (Cause::ConnectTimeout, io::Error::other(error))
        }
    };
    upstream.not_reached(&error);
    Err(Failed::connect(cause))
}

async fn first_byte(
    connection: &mut Connection,
    make: &impl Fn() -> Message,
    terms: &Terms<'_>,
) -> Result<Begun, Failed> {
    let limit_ms = if terms.stream {
        Some(terms.timeouts.first_token_ms)
    } else {
        terms.timeouts.first_token_whole_ms
    };
    let mut answer = std::pin::pin!(exchange(connection, make));
    let Some(limit_ms) = limit_ms else {
        return answer.await;
    };
    let limit = Duration::from_millis(limit_ms);
    loop {
        tokio::select! {
            biased;
            answer = answer.as_mut() => return answer,
            // Boxed: most requests have no such limit, and it is large.
            () = Box::pin(sleep(limit)) => {}
        }
        // While the backend waits for the client, the clock does not run.
        if terms.upload.progress() != Progress::Awaited {
            return Err(Failed::TIMEOUT);
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
    connection: &mut Connection,
    make: &impl Fn() -> Message,
) -> Result<Begun, Failed> {
    let Message { method, head, body } = make();
    connection.send(method, head, body);
    let (head, first) = poll_fn(|cx| connection.poll_head(cx))
        .await
        .map_err(|error| {
            tracing::debug!(%error, "no answer");
            Failed::RESET
        })?;
    let first = if !first.is_empty() {
        Some(first)
    } else if connection.is_done() {
        None
    } else {
        let first = poll_fn(|cx| connection.poll_data(cx)).await;
        first.map_err(|error| {
            tracing::debug!(%error, "closed before the first byte");
            Failed::RESET
        })?
    };
    Ok(Begun { head, first })
}

/// Resolves when the time has come, or never.
pub(super) async fn reached(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

/// What an answer's status says, where it says something other than success.
pub(super) fn judge(answer: &Answer) -> Option<(Cause, Outcome)> {
    let status = answer.head.status.as_u16();
    let mut headers = answer.head.headers.iter();
    let after = headers.find(|(name, _)| *name == RETRY_AFTER);
    let after = after.map(|(_, value)| value);
    let outcome = match status {
        429 => Outcome::Saturated {
            retry_after: after.and_then(seconds),
        },
        503 if after.is_some() => Outcome::Saturated {
            retry_after: after.and_then(seconds),
        },
        500.. => Outcome::Failure(Failure::Status(status)),
        _ => return None,
    };
    Some((Cause::Status(status), outcome))
}

/// `Retry-After` in seconds; dates are rare and mean the default.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    value
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_secs)
}

#[cfg(test)]
mod tests;
