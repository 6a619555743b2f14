//! The client's request comes in: its body is read, kept for a retry as far as the bounds
//! allow, and scanned for its model on the way.

use std::{cell::RefCell, rc::Rc};

use dataplane_core::Cause;
use dialect::{
    multipart::Form,
    scan::{Facts, Problem, Scanner},
};
use futures::FutureExt as _;
use http::{HeaderMap, Version, header::CONTENT_TYPE};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::{
    Caller,
    chunks::Chunks,
    error::ProxyError,
    kept::{Allowance, Collector},
    linger,
    pace::Pace,
    upload::{Once, Outgoing, Upload},
};
use crate::client::wake;

/// A request's body after [`read`].
#[derive(Debug)]
pub(super) struct Intake {
    pub facts: Facts,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// All of it is here.
    Replayable { chunks: Chunks, _kept: Allowance },
    /// Over the bounds: absent once it is being sent.
    Once(RefCell<Option<Once>>),
}

impl Intake {
    /// Whether the request can be sent again from the start.
    pub(super) fn is_replayable(&self) -> bool {
        matches!(self.body, Body::Replayable { .. })
    }

    /// No backend gets the rest.
    pub(super) fn discard_rest(&self, version: Version) {
        if let Body::Once(body) = &self.body
            && let Some(body) = body.take()
        {
            linger::discard(version, body.rest);
        }
    }

    /// The body for one more attempt; none where it can be sent once and was.
    pub(super) fn outgoing(&self, upload: &Upload) -> Option<Outgoing> {
        match &self.body {
            Body::Replayable { chunks, .. } => Some(Outgoing::whole(chunks.clone())),
            Body::Once(body) => Some(Outgoing::passing(body.take()?, upload.clone())),
        }
    }
}

/// Finds what routing reads, in the kind of body that came.
enum BodyScanner {
    Json(Scanner),
    /// Boxed: rare.
    Form(Box<Form>),
}

impl BodyScanner {
    /// By what the client calls it.
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
    caller: &Rc<Caller>,
    version: Version,
    headers: &HeaderMap,
    mut body: Incoming,
) -> Result<Intake, ProxyError> {
    let mut kept = Collector::new(
        caller.connection.clone(),
        caller.shared().settings.replay_bytes,
    );
    if body.is_end_stream() {
        return Ok(intake(Facts::default(), kept, None));
    }
    let limit = caller.shared().settings.body_idle;
    let mut scanner = None;
    let mut pace = Pace::new(limit);
    loop {
        // Mostly it is here: then no clock is needed, and taking the last of it asks for no more.
        let (ready, woken) = wake::quietly(|| body.frame().now_or_never());
        // On HTTP/2 it gives room to other streams.
        if woken && (version == Version::HTTP_2 || !body.is_end_stream()) {
            caller.connection.wakes.wake();
        }
        let frame = match ready {
            Some(frame) => Ok(frame),
            None => tokio::time::timeout_at(pace.deadline(), body.frame()).await,
        };
        let frame = match frame {
            Err(_) => return Err(ProxyError::BodyTimeout { limit }),
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(bad(
                    Cause::BodyUnreadable.code(),
                    format!("the client aborted the request body: {error}"),
                ));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers of a request mean nothing to the backends.
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        pace.came(chunk.len());
        let scanner = scanner.get_or_insert_with(|| BodyScanner::of(headers));
        if let Err(problem) = scanner.push(&chunk) {
            linger::discard(version, body);
            return Err(refused(problem));
        }
        kept.push(chunk);
        if !kept.is_within_bounds() || body.is_end_stream() {
            break;
        }
    }
    let rest = if kept.is_within_bounds() {
        None
    } else {
        caller.shared().metrics.unkept_bodies.inc();
        Some((body, version, pace))
    };
    let facts = scanner.map(BodyScanner::finish).unwrap_or_default();
    Ok(intake(facts, kept, rest))
}

fn intake(facts: Facts, kept: Collector, rest: Option<(Incoming, Version, Pace)>) -> Intake {
    let (chunks, kept) = kept.finish();
    let body = match rest {
        None => Body::Replayable {
            chunks,
            _kept: kept,
        },
        Some((rest, version, pace)) => Body::Once(RefCell::new(Some(Once {
            chunks,
            kept,
            rest,
            version,
            pace,
        }))),
    };
    Intake { facts, body }
}

fn refused(problem: Problem) -> ProxyError {
    match problem {
        Problem::DuplicateKey(key) => bad(
            "duplicate_key",
            format!("the request has \"{key}\" more than once at its top level: send it once"),
        ),
        Problem::NotUtf8 => bad(
            "invalid_encoding",
            "the request's JSON is not UTF-8: encode it as UTF-8".to_owned(),
        ),
        Problem::ModelTooLong => bad(
            "model_too_long",
            format!(
                "the request's \"model\" is longer than {} bytes",
                dialect::scan::MAX_VALUE
            ),
        ),
        Problem::NotAForm => bad(
            "invalid_form",
            "the request's Content-Type is multipart/form-data, but its body does not begin with \
             the boundary"
                .to_owned(),
        ),
        Problem::PartHeadTooLong => bad(
            "part_head_too_long",
            format!(
                "the headers of a form part are longer than {} bytes",
                dialect::multipart::MAX_HEAD
            ),
        ),
    }
}

pub(super) fn bad(reason: &'static str, message: String) -> ProxyError {
    ProxyError::BadRequest { reason, message }
}
