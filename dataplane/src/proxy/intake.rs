//! The client's request comes in: its body is read, kept for a retry as far as the bounds
//! allow, and scanned for its model on the way.

use std::{cell::RefCell, rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use dataplane_core::Cause;
use futures::FutureExt as _;
use http::{HeaderMap, Version, header::CONTENT_TYPE};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;
use translate::{
    multipart::Form,
    scan::{Facts, Problem, Scanner},
};

use super::linger;
use crate::{
    backend::upload::{Chunks, Outgoing, Upload},
    bell,
    downstream::Downstream,
    error::ProxyError,
};

/// A request's body after [`read`].
#[derive(Debug)]
pub(super) struct Intake {
    pub facts: Facts,
    /// What has been read.
    chunks: RefCell<Chunks>,
    kept: Kept,
    /// What of a body over the bounds has not been read yet: it can be sent once only.
    rest: RefCell<Option<Box<Incoming>>>,
}

impl Intake {
    fn new(facts: Facts, mut kept: Kept, rest: Option<Incoming>) -> Self {
        Self {
            facts,
            chunks: RefCell::new(kept.take()),
            kept,
            rest: RefCell::new(rest.map(Box::new)),
        }
    }

    /// Whether the request can be sent again from the start.
    pub(super) fn is_replayable(&self) -> bool {
        self.kept.complete
    }

    /// No backend gets the rest.
    pub(super) fn discard_rest(&self, version: Version) {
        if let Some(rest) = self.rest.take() {
            linger::discard(version, *rest);
        }
    }

    /// The body for one more attempt.
    pub(super) fn outgoing(&self, upload: &Upload) -> Outgoing {
        match self.rest.take() {
            None => Outgoing::whole(self.chunks.borrow().clone()),
            Some(rest) => {
                let limit = self.kept.from.shared.settings.body_idle;
                Outgoing::passing(self.chunks.take(), *rest, upload.clone(), limit)
            }
        }
    }
}

/// Chunks as they came, counted against the process's allowance until dropped.
#[derive(Debug)]
pub(super) struct Kept {
    from: Rc<Downstream>,
    first: Bytes,
    more: Vec<Bytes>,
    /// Short chunks, copied together.
    short: BytesMut,
    bytes: usize,
    /// The chunks are the whole body.
    pub complete: bool,
}

/// A chunk shorter than this is copied to its neighbours: each chunk of its own costs some 64
/// bytes and keeps the whole buffer that it was read into.
const SHORT: usize = 4096;

/// Copied chunks become one when they reach this.
const JOINED: usize = 64 * 1024;

impl Kept {
    fn new(from: Rc<Downstream>) -> Self {
        Self {
            from,
            first: Bytes::new(),
            more: Vec::new(),
            short: BytesMut::new(),
            bytes: 0,
            complete: true,
        }
    }

    /// No longer complete once a bound is passed; the chunk is still there to be sent.
    fn push(&mut self, chunk: Bytes) {
        let shared = &self.from.shared;
        let within = self.bytes + chunk.len() <= shared.settings.replay_bytes;
        let kept = shared.keep(&self.from.client, chunk.len());
        if kept {
            self.bytes += chunk.len();
        }
        self.complete = within && kept;
        if self.first.is_empty() {
            // Most bodies are one chunk.
            self.first = chunk;
        } else if chunk.len() < SHORT {
            self.short.extend_from_slice(&chunk);
            if self.short.len() >= JOINED {
                self.end();
            }
        } else {
            self.end();
            self.more.push(chunk);
        }
    }

    /// Closes the joined chunk.
    fn end(&mut self) {
        if !self.short.is_empty() {
            self.more.push(self.short.split().freeze());
        }
    }

    /// Takes what has come so far.
    fn take(&mut self) -> Chunks {
        self.end();
        let first = std::mem::take(&mut self.first);
        if self.more.is_empty() {
            return Chunks::One(first);
        }
        let more = std::mem::take(&mut self.more);
        Chunks::Many(std::iter::once(first).chain(more).collect())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let from = &self.from;
        from.shared.release(&from.client, self.bytes);
    }
}

/// What a body must bring in each span of the longest silence, bytes a second: what is kept for
/// those who send it more slowly would be kept for hours.
const SLOWEST: u128 = 1024;

/// Whether a body comes fast enough.
#[derive(Debug)]
struct Pace {
    until: Instant,
    /// Bytes that are still to come until then.
    due: usize,
}

impl Pace {
    fn new(span: Duration) -> Self {
        Self {
            until: Instant::now() + span,
            due: (span.as_millis() * SLOWEST / 1000) as usize,
        }
    }

    /// More has come: true if that is enough for this span.
    fn is_met(&mut self, bytes: usize) -> bool {
        self.due = self.due.saturating_sub(bytes);
        self.due == 0
    }
}

/// Finds what routing reads, in the kind of body that came.
enum BodyScanner {
    Json(Scanner),
    /// Boxed: rare.
    Form(Box<Form>),
}

impl BodyScanner {
    /// By what the client calls it: what stands before the first part of a form may look like JSON,
    /// and backends pass over it.
    fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE);
        let form = kind.and_then(|kind| Form::of(kind.to_str().ok()?));
        form.map_or_else(
            || Self::Json(Scanner::new()),
            |form| Self::Form(Box::new(form)),
        )
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        match self {
            Self::Json(scanner) => scanner.push(bytes),
            Self::Form(form) => form.push(bytes),
        }
    }

    fn finish(self) -> Facts {
        match self {
            Self::Json(scanner) => scanner.finish(),
            Self::Form(form) => form.finish(),
        }
    }
}

/// Reads the body, whole where the bounds allow.
pub(super) async fn read(
    from: &Rc<Downstream>,
    version: Version,
    headers: &HeaderMap,
    mut body: Incoming,
) -> Result<Intake, ProxyError> {
    let mut kept = Kept::new(from.clone());
    if body.is_end_stream() {
        return Ok(Intake::new(Facts::default(), kept, None));
    }
    let limit = from.shared.settings.body_idle;
    let mut scanner = None;
    let mut pace = None;
    loop {
        // Mostly it is here: then no clock is needed, and taking the last of it asks for no more.
        let (ready, rang) = bell::hushed(|| body.frame().now_or_never());
        // On HTTP/2 it gives room to other streams.
        if rang && (version == Version::HTTP_2 || !body.is_end_stream()) {
            from.bell.ring();
        }
        let frame = match ready {
            Some(frame) => Ok(frame),
            None => {
                let pace: &mut Pace = pace.get_or_insert_with(|| Pace::new(limit));
                tokio::time::timeout_at(pace.until, body.frame()).await
            }
        };
        let frame = match frame {
            Err(_) => return Err(ProxyError::BodyTimeout { limit }),
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(bad(
                    Cause::BodyUnreadable.code(),
                    format!("the request's body broke off: {error}"),
                ));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers of a request mean nothing to the backends.
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        if pace.as_mut().is_some_and(|pace| pace.is_met(chunk.len())) {
            pace = None;
        }
        let scanner = scanner.get_or_insert_with(|| BodyScanner::of(headers));
        if let Err(problem) = scanner.push(&chunk) {
            linger::discard(version, body);
            return Err(refused(problem));
        }
        kept.push(chunk);
        if !kept.complete || body.is_end_stream() {
            break;
        }
    }
    let rest = if kept.complete { None } else { Some(body) };
    if rest.is_some() {
        from.shared.metrics.unkept_bodies.inc();
    }
    let facts = scanner.map(BodyScanner::finish).unwrap_or_default();
    Ok(Intake::new(facts, kept, rest))
}

fn refused(problem: Problem) -> ProxyError {
    match problem {
        Problem::DuplicateKey(key) => bad(
            "duplicate_key",
            format!("the request has \"{key}\" twice at its top level: send it once"),
        ),
        Problem::NotUtf8 => bad(
            "invalid_encoding",
            "the request's JSON is not UTF-8: send it as UTF-8".to_owned(),
        ),
        Problem::ModelTooLong => bad(
            "model_too_long",
            format!(
                "the request's \"model\" is over {} bytes long",
                translate::scan::MAX_VALUE
            ),
        ),
        Problem::PartHeadTooLong => bad(
            "part_head_too_long",
            format!(
                "the headers of one part of the form are over {} bytes long",
                translate::multipart::MAX_HEAD
            ),
        ),
    }
}

pub(super) fn bad(reason: &'static str, message: String) -> ProxyError {
    ProxyError::BadRequest { reason, message }
}
