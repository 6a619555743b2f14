//! HTTP/1.1 as a client of backends speaks it, without I/O: bytes in, meaning out.
//!
//! ```text
//! Lines (request head) ─▶ bytes ─▶ backend ─▶ bytes ─▶ Answer ─▶ Head, data, end
//! ```
//!
//! hyper's client is made for a task of its own that keeps two buffers, a channel and a parsed
//! copy of all headers for each connection. A proxy needs none of these: the request's lines are
//! written from the client's headers, an answer is read into one room that all connections of a
//! thread share, and who waits for the answer moves the connection. That is a third of the CPU of
//! a request and half the memory of an open stream (`dataplane/DECISIONS.md`).
//!
//! Reading heads is httparse's part, as it is in hyper.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod answer;
mod framing;
mod head;

pub use self::{
    answer::Answer,
    framing::{Length, MalformedChunks},
    head::{Head, Lines, MAX_HEAD, MalformedHead},
};
