//! A connection to a backend, moved by whoever waits for the answer on it.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use futures::task::noop_waker_ref;
use http::Method;
use http_body::Body;
use http1::{Answer, Head, Lines, MalformedChunks, MalformedHead};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Parts of a request that go out by one write. A large body is many parts, and one that is kept
/// has them all here.
const PARTS: usize = 16;

/// Bytes taken by one read.
const READ: usize = 32 * 1024;

thread_local! {
    /// What is read goes through here, so that a connection that waits holds no room of its own.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// Why there is no answer, or not the rest of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it closed the connection")]
    Closed,
    #[error("it does not speak HTTP/1.1: {0}")]
    Head(String),
    #[error("the chunks of its answer are malformed")]
    Chunks,
    /// The request could not be sent whole for a reason on our side.
    #[error("the request's body did not come whole")]
    Unfinished,
}

impl From<MalformedHead> for Error {
    fn from(malformed: MalformedHead) -> Self {
        Self::Head(malformed.to_string())
    }
}

impl From<MalformedChunks> for Error {
    fn from(_: MalformedChunks) -> Self {
        Self::Chunks
    }
}

/// One exchange after the other: [`Self::send`], [`Self::poll_head`], [`Self::poll_data`] until
/// the body [is done](Self::is_done), and again if [it may be](Self::is_reusable).
pub(crate) struct Connection<I, B> {
    io: I,
    /// The request until it is sent whole. Boxed: mostly it is at once.
    sending: Option<Box<Sending<B>>>,
    reading: Answer,
}

struct Sending<B> {
    /// The head, later what stands between chunks; goes out before `chunk`.
    lead: Vec<u8>,
    /// Of `lead`.
    written: usize,
    chunk: Bytes,
    /// What follows `chunk` and is here already; none where chunks have marks between them.
    more: VecDeque<Bytes>,
    body: B,
    /// The body's length was not known beforehand.
    chunked: bool,
    /// Of the body, so far.
    chunks: u64,
    /// Nothing comes after `chunk` and `more`.
    ended: bool,
}

impl<I: AsyncRead + AsyncWrite + Unpin, B: Body<Data = Bytes> + Unpin> Connection<I, B> {
    pub(crate) fn new(io: I) -> Self {
        Self {
            io,
            sending: None,
            reading: Answer::new(Method::GET),
        }
    }

    /// Begins an exchange. `head` lacks nothing but the body's length.
    pub(crate) fn send(&mut self, method: Method, head: Lines, body: B) {
        let length = body.size_hint().exact();
        self.sending = Some(Box::new(Sending {
            lead: head.end(&method, length),
            written: 0,
            chunk: Bytes::new(),
            more: VecDeque::new(),
            chunked: length.is_none(),
            chunks: 0,
            ended: body.is_end_stream() && length.is_some(),
            body,
        }));
        self.reading = Answer::new(method);
    }

    /// The answer's head, and what has come of its body with it.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Head, Bytes), Error>> {
        self.send_on(cx)?;
        let Self { io, reading, .. } = self;
        loop {
            let read = |bytes: &[u8]| (bytes.is_empty(), reading.head(bytes));
            match ready!(poll_read(io, cx, read))? {
                (true, _) => return Poll::Ready(Err(Error::Closed)),
                (false, head) => {
                    if let Some(answer) = head? {
                        return Poll::Ready(Ok(answer));
                    }
                }
            }
        }
    }

    /// All that is here of the answer's body and not yet taken, or its end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        self.send_on(cx)?;
        let Self { io, reading, .. } = self;
        loop {
            if let Some(malformed) = reading.malformed() {
                return Poll::Ready(Err(malformed.into()));
            }
            if reading.is_done() {
                return Poll::Ready(Ok(None));
            }
            let read = |bytes: &[u8]| (bytes.is_empty(), reading.data(bytes));
            match ready!(poll_read(io, cx, read))? {
                (true, _) if reading.ends_here() => {}
                (true, _) => return Poll::Ready(Err(Error::Closed)),
                // Marks between chunks.
                (false, data) if data.is_empty() => {}
                (false, data) => return Poll::Ready(Ok(Some(data))),
            }
        }
    }

    /// The answer's body is here whole.
    pub(crate) fn is_done(&self) -> bool {
        self.reading.is_done()
    }

    /// Something of an answer has come.
    pub(crate) fn has_answered(&self) -> bool {
        self.reading.has_begun()
    }

    /// Another exchange may follow the one that is done.
    pub(crate) fn is_reusable(&self) -> bool {
        self.sending.is_none() && self.reading.keeps_alive()
    }

    /// Sees what came while nobody asked for anything: a close, most likely. Whatever it is, the
    /// connection is of no more use. Nobody is woken for what comes later.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(noop_waker_ref());
        poll_read(&mut self.io, &mut cx, |_| ()).is_pending()
    }

    /// Sends what can be sent now.
    fn send_on(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let Some(sending) = &mut self.sending else {
            return Ok(());
        };
        match sending.poll(&mut self.io, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Error::Unfinished)) => return Err(Error::Unfinished),
            // A backend that takes no more may have answered before.
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "the backend takes no more of the request");
                self.reading.let_go();
            }
        }
        self.sending = None;
        Ok(())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B> {
    fn poll<I: AsyncWrite + Unpin>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        loop {
            let waits = self.fill(cx)?.is_pending();
            while let rest = self.lead.get(self.written..).unwrap_or_default()
                && !(rest.is_empty() && self.chunk.is_empty())
            {
                let mut parts = [IoSlice::new(&[]); PARTS];
                let here = [rest, &self.chunk].into_iter();
                let here = here.chain(self.more.iter().map(|chunk| &chunk[..]));
                let mut count = 0;
                for (part, bytes) in parts.iter_mut().zip(here) {
                    *part = IoSlice::new(bytes);
                    count += 1;
                }
                let parts = parts.get(..count).unwrap_or_default();
                let written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, parts))?;
                if written == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                }
                self.wrote(written);
            }
            if self.ended || waits {
                // TLS may hold some of it back.
                ready!(Pin::new(&mut *io).poll_flush(cx))?;
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    /// Puts what is here of the body in place. Pending: nothing of it has come yet.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.ended && self.has_room() {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending if self.chunk.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            };
            let data = match frame {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(_)) => return Poll::Ready(Err(Error::Unfinished)),
                None => {
                    self.ended = true;
                    self.mark(format_args!("0\r\n\r\n"));
                    break;
                }
            };
            if data.is_empty() {
                continue;
            }
            self.mark(format_args!("{:x}\r\n", data.len()));
            if self.chunk.is_empty() {
                self.chunk = data;
            } else {
                self.more.push_back(data);
            }
            self.ended = !self.chunked && self.body.is_end_stream();
        }
        Poll::Ready(Ok(()))
    }

    fn has_room(&self) -> bool {
        self.chunk.is_empty() || !self.chunked && self.more.len() + 2 < PARTS
    }
}

impl<B> Sending<B> {
    /// Takes off what has gone out.
    fn wrote(&mut self, bytes: usize) {
        let of_lead = bytes.min(self.lead.len() - self.written);
        self.written += of_lead;
        let mut left = bytes - of_lead;
        loop {
            let of_chunk = left.min(self.chunk.len());
            self.chunk.advance(of_chunk);
            left -= of_chunk;
            if !self.chunk.is_empty() {
                return;
            }
            match self.more.pop_front() {
                Some(next) => self.chunk = next,
                None => return,
            }
        }
    }

    /// Puts a chunk's mark before what comes next.
    fn mark(&mut self, mark: fmt::Arguments<'_>) {
        if !self.chunked {
            return;
        }
        // The head may not be out yet; what came later is.
        if self.written == self.lead.len() {
            self.lead.clear();
            self.written = 0;
        }
        if self.chunks > 0 {
            self.lead.extend_from_slice(b"\r\n");
        }
        self.chunks += 1;
        let _ = self.lead.write_fmt(mark);
    }
}

/// Reads once. No bytes: the other side has closed.
fn poll_read<I: AsyncRead + Unpin, T>(
    io: &mut I,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    ROOM.with_borrow_mut(|room| {
        let mut room = ReadBuf::new(room);
        ready!(Pin::new(io).poll_read(cx, &mut room))?;
        Poll::Ready(Ok(take(room.filled())))
    })
}

impl<I, B> fmt::Debug for Connection<I, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("sending", &self.sending.is_some())
            .field("done", &self.reading.is_done())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
