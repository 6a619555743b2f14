//! The parts of a body that are in memory, and what they take of the memory that there is for
//! them.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::chunks::Chunks;
use crate::client::connection::Connection;

/// A chunk shorter than this is copied to its neighbours: each chunk of its own costs some 64
/// bytes and keeps the whole buffer that it was read into.
const SHORT: usize = 4096;

/// Copied chunks become one when they reach this.
const JOINED: usize = 64 * 1024;

/// Bytes taken of what this process and one client of it may keep, given back when dropped.
#[derive(Debug)]
pub(super) struct Allowance {
    connection: Rc<Connection>,
    bytes: usize,
}

impl Allowance {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        Self {
            connection,
            bytes: 0,
        }
    }

    /// False where that is more than is left.
    fn take(&mut self, bytes: usize) -> bool {
        let taken = self.connection.share.keep(bytes);
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Not more than was taken.
    pub(super) fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.connection.share.release(bytes);
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.give_back(self.bytes);
        }
    }
}

/// Chunks as they come.
#[derive(Debug)]
pub(super) struct Collector {
    allowance: Allowance,
    first: Bytes,
    more: Vec<Bytes>,
    /// Short chunks, copied together.
    short: BytesMut,
    bytes: usize,
    /// How many of them may be kept.
    longest: usize,
    within: bool,
}

impl Collector {
    /// Keeps no body of more than `longest` bytes.
    pub(super) fn new(connection: Rc<Connection>, longest: usize) -> Self {
        Self {
            allowance: Allowance::new(connection),
            longest,
            first: Bytes::new(),
            more: Vec::new(),
            short: BytesMut::new(),
            bytes: 0,
            within: true,
        }
    }

    /// Whether all of it may be kept.
    pub(super) fn is_within_bounds(&self) -> bool {
        self.within
    }

    /// The chunk that passes a bound is still there to be sent.
    pub(super) fn push(&mut self, chunk: Bytes) {
        let kept = self.allowance.take(chunk.len());
        self.bytes += chunk.len();
        self.within = kept && self.bytes <= self.longest;
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

    pub(super) fn finish(mut self) -> (Chunks, Allowance) {
        self.end();
        let chunks = if self.more.is_empty() {
            Chunks::One(self.first)
        } else {
            let first = std::iter::once(self.first);
            Chunks::Many(first.chain(self.more).collect())
        };
        (chunks, self.allowance)
    }
}
