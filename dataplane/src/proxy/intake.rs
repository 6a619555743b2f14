//! The client's request comes in: its body is read, kept for a retry as far as the bounds
//! allow, and scanned for its model on the way.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use translate::scan::{Facts, Problem, Scanner};

use super::body::BODY_IDLE;
use crate::{error::ProxyError, state::Shared};

/// A request's body after [`read`].
#[derive(Debug)]
pub(super) struct Intake {
    pub facts: Facts,
    pub body: Kept,
    /// What of a body over the bounds has not been read yet: it can be sent once only.
    pub rest: Option<Incoming>,
}

impl Intake {
    /// Whether the request can be sent again from the start.
    pub(super) fn is_replayable(&self) -> bool {
        self.body.complete
    }
}

/// Chunks as they came, counted against the process's allowance until dropped.
#[derive(Debug)]
pub(super) struct Kept {
    shared: Arc<Shared>,
    pub chunks: VecDeque<Bytes>,
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
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            chunks: VecDeque::new(),
            short: BytesMut::new(),
            bytes: 0,
            complete: true,
        }
    }

    /// No longer complete once a bound is passed; the chunk is still there to be sent.
    fn push(&mut self, chunk: Bytes) {
        let within = self.bytes + chunk.len() <= self.shared.settings.replay_bytes;
        let kept = self.shared.keep(chunk.len());
        if kept {
            self.bytes += chunk.len();
        }
        self.complete = within && kept;
        if self.chunks.is_empty() && self.short.is_empty() {
            // Most bodies are one chunk.
            self.chunks.push_back(chunk);
            return;
        }
        if chunk.len() < SHORT {
            self.short.extend_from_slice(&chunk);
            if self.short.len() >= JOINED {
                self.end();
            }
        } else {
            self.end();
            self.chunks.push_back(chunk);
        }
    }

    /// Closes the joined chunk.
    fn end(&mut self) {
        if !self.short.is_empty() {
            self.chunks.push_back(self.short.split().freeze());
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.shared.release(self.bytes);
    }
}

/// Reads the body, whole where the bounds allow.
pub(super) async fn read(shared: &Arc<Shared>, mut body: Incoming) -> Result<Intake, ProxyError> {
    let mut kept = Kept::new(shared.clone());
    if body.is_end_stream() {
        return Ok(Intake {
            facts: Facts::default(),
            body: kept,
            rest: None,
        });
    }
    let mut scanner = Scanner::new();
    loop {
        let frame = match tokio::time::timeout(BODY_IDLE, body.frame()).await {
            Err(_) => return Err(ProxyError::BodyTimeout { limit: BODY_IDLE }),
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(bad(
                    "body_unreadable",
                    format!("the request's body broke off: {error}"),
                ));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers of a request mean nothing to the backends.
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        scanner.push(&chunk).map_err(refused)?;
        kept.push(chunk);
        if !kept.complete {
            break;
        }
    }
    kept.end();
    let rest = if kept.complete { None } else { Some(body) };
    if rest.is_some() {
        shared.metrics.unkept_bodies.inc();
    }
    Ok(Intake {
        facts: scanner.finish(),
        body: kept,
        rest,
    })
}

fn refused(problem: Problem) -> ProxyError {
    match problem {
        Problem::DuplicateKey(key) => bad(
            "duplicate_key",
            format!("the request's JSON has \"{key}\" twice at its top level: send it once"),
        ),
        Problem::ModelTooLong => bad(
            "model_too_long",
            format!(
                "the request's \"model\" is over {} bytes long",
                translate::scan::MAX_VALUE
            ),
        ),
    }
}

pub(super) fn bad(reason: &'static str, message: String) -> ProxyError {
    ProxyError::BadRequest { reason, message }
}
