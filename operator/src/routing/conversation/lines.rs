//! The lines of a data plane, each of bounded length, at a bounded rate.

use std::{sync::Arc, time::Duration};

use dataplane_protocol::{
    frame::Decoder,
    sync::{MAX_REPORT_LINE, ToOperator},
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::EndReason;
use crate::routing::sessions::Sessions;

/// A hello is some hundred bytes. Whoever has not said it yet gets no room for more.
const MAX_HELLO_LINE: usize = 16 << 10;
/// Lines that are read at once, and how long each further one takes to become free again. A data
/// plane sends its instances in a burst when it has come, then once a second what is new. Whoever
/// sends more is read as slowly as this, and waits in its own buffers.
const BURST: u32 = 1000;
const LINE_EVERY: Duration = Duration::from_millis(20);

/// The data plane's lines, each of bounded length.
pub(super) struct Lines {
    body: Incoming,
    decoder: Decoder,
    /// From the first byte of a line to its last.
    limit: Duration,
    /// When the line began that has no end yet.
    begun: Option<Instant>,
    /// When all the lines read so far will have been paid for; see [`BURST`].
    paid: Instant,
    share: Share,
}

/// What all data planes of a namespace may say together.
pub(super) struct Share {
    pub(super) sessions: Arc<Sessions>,
    pub(super) namespace: String,
}

impl Lines {
    pub(super) fn new(body: Incoming, limit: Duration, share: Share) -> Self {
        Self {
            body,
            decoder: Decoder::new(MAX_HELLO_LINE),
            limit,
            begun: None,
            paid: Instant::now(),
            share,
        }
    }

    /// After its hello a data plane may send long lines.
    pub(super) fn allow_reports(&mut self) {
        self.decoder.allow(MAX_REPORT_LINE);
    }

    pub(super) async fn next(&mut self) -> Result<ToOperator, EndReason> {
        loop {
            if let Some(line) = self.decoder.next()? {
                self.begun = None;
                self.pace().await;
                return Ok(line);
            }
            if self.decoder.unfinished() > 0 {
                self.begun.get_or_insert_with(Instant::now);
            }
            let frame = match self.begun {
                Some(begun) => timeout_at(begun + self.limit, self.body.frame())
                    .await
                    .map_err(|_| EndReason::Unfinished)?,
                None => self.body.frame().await,
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(EndReason::Broken(error)),
                None => return Err(EndReason::Closed),
            };
            if let Some(bytes) = frame.data_ref() {
                self.decoder.push(bytes);
            }
        }
    }

    /// Waits while more lines came than may, see [`BURST`]; of this one, or of its namespace.
    async fn pace(&mut self) {
        let now = Instant::now();
        self.paid = self.paid.max(now) + LINE_EVERY;
        let own = self.paid.checked_sub(LINE_EVERY * BURST);
        let shared = self.share.sessions.pace(&self.share.namespace, now);
        if let Some(until) = own.max(shared)
            && until > now
        {
            sleep_until(until).await;
        }
    }
}
