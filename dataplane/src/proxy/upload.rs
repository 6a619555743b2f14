//! Bodies on their way to a backend.

use std::{
    cell::Cell,
    future::Future as _,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::{chunks::Chunks, kept::Allowance, linger, pace::Pace};

/// How far a body is that is passed on while it comes; shared by the attempt and the body.
/// Absent where all of it is here before anything is sent.
#[derive(Clone, Debug)]
pub(super) struct Upload(Option<Rc<Cell<(Progress, std::time::Instant)>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// What has come is the backend's to take.
    Passing,
    /// The backend has taken it: the client has more to send.
    Awaited,
    Whole,
    /// The client broke off: not the backend's fault.
    Left,
    /// The client was silent for too long.
    Stalled,
}

impl Upload {
    /// `whole`: all of it is here before anything is sent.
    pub(super) fn new(whole: bool) -> Self {
        let begins = || (Progress::Passing, std::time::Instant::now());
        Self((!whole).then(|| Rc::new(Cell::new(begins()))))
    }

    pub(super) fn progress(&self) -> Progress {
        self.0.as_ref().map_or(Progress::Whole, |cell| cell.get().0)
    }

    /// Since when the backend could have answered, as far as the upload goes, if that is later
    /// than `start`: the time that it waited for the client is not its own.
    pub(super) fn waits_since(&self, start: std::time::Instant) -> std::time::Instant {
        match self.0.as_ref().map(|cell| cell.get()) {
            None => start,
            Some((Progress::Awaited, _)) => std::time::Instant::now(),
            Some((_, moved)) => start.max(moved),
        }
    }

    fn set(&self, progress: Progress) {
        if let Some(cell) = &self.0 {
            cell.set((progress, std::time::Instant::now()));
        }
    }
}

/// What is sent to a backend: the chunks that were kept, then what the client still sends.
#[derive(Debug)]
pub(super) struct Outgoing {
    chunks: Chunks,
    /// The next of them.
    next: usize,
    /// Bytes of those that are left.
    left: u64,
    rest: Option<Box<Rest>>,
}

/// A body that can be sent once: part of it is here, the rest is still to come.
#[derive(Debug)]
pub(super) struct Once {
    pub chunks: Chunks,
    /// What `chunks` take of the memory for bodies.
    pub kept: Allowance,
    pub rest: Incoming,
    pub version: Version,
    pub pace: Pace,
}

#[derive(Debug)]
struct Rest {
    /// Present until it is dropped.
    body: Option<Incoming>,
    version: Version,
    kept: Allowance,
    upload: Upload,
    pace: Pace,
    timer: Pin<Box<Sleep>>,
}

/// The client's part of the exchange failed.
#[derive(Debug, thiserror::Error)]
#[error("the client's body did not come whole")]
pub(super) struct Unfinished;

impl Outgoing {
    pub(super) fn whole(chunks: Chunks) -> Self {
        let left = chunks.as_slice().iter().map(|chunk| chunk.len() as u64);
        Self {
            left: left.sum(),
            chunks,
            next: 0,
            rest: None,
        }
    }

    pub(super) fn passing(body: Once, upload: Upload) -> Self {
        let rest = Rest {
            body: Some(body.rest),
            version: body.version,
            kept: body.kept,
            upload,
            pace: body.pace,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        };
        Self {
            rest: Some(Box::new(rest)),
            ..Self::whole(body.chunks)
        }
    }
}

impl Rest {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unfinished>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let deadline = self.pace.deadline();
                if self.timer.deadline() != deadline {
                    self.timer.as_mut().reset(deadline);
                }
                let late = self.timer.as_mut().poll(cx).is_ready();
                self.upload.set(if late {
                    Progress::Stalled
                } else {
                    Progress::Awaited
                });
                return if late {
                    Poll::Ready(Some(Err(Unfinished)))
                } else {
                    Poll::Pending
                };
            }
        };
        if let Some(Ok(frame)) = &frame {
            self.pace.came(frame.data_ref().map_or(0, Bytes::len));
        }
        self.upload.set(match frame {
            Some(Err(_)) => Progress::Left,
            Some(Ok(_)) if !body.is_end_stream() => Progress::Passing,
            Some(Ok(_)) | None => Progress::Whole,
        });
        Poll::Ready(frame.map(|frame| frame.map_err(|_| Unfinished)))
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        // A body that will not be sent to its end: nothing is waited for.
        if matches!(
            self.upload.progress(),
            Progress::Passing | Progress::Awaited
        ) {
            self.upload.set(Progress::Whole);
            // Its client is to see the answer that came early, or why there is none.
            if let Some(body) = self.body.take() {
                linger::discard(self.version, body);
            }
        }
    }
}

impl Rest {
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Unfinished;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unfinished>>> {
        let this = &mut *self;
        while let Some(chunk) = this.chunks.take(this.next) {
            this.next += 1;
            this.left = this.left.saturating_sub(chunk.len() as u64);
            if let Some(rest) = &mut this.rest {
                // Sent once and no more.
                rest.kept.give_back(chunk.len());
            }
            if !chunk.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
        }
        match &mut this.rest {
            Some(rest) => rest.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.rest.as_ref().is_none_or(|rest| rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let Some(body) = self.rest.as_ref().and_then(|rest| rest.body.as_ref()) else {
            return SizeHint::with_exact(self.left);
        };
        let mut hint = body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + self.left);
        }
        hint.set_lower(hint.lower() + self.left);
        hint
    }
}
