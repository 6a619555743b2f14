//! One JSON document per line, with a bound on its length. No I/O.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use serde::{Serialize, de::DeserializeOwned};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "a line of over {limit_bytes} bytes: the peer does not speak this protocol, or its table is too large"
    )]
    TooLong { limit_bytes: usize },
    #[error("a line that is not what was expected: {source}")]
    Malformed {
        #[from]
        source: serde_json::Error,
    },
}

/// `message` as one line, its end included.
pub fn encode<T: Serialize>(message: &T, limit_bytes: usize) -> Result<Bytes, Error> {
    let mut line = serde_json::to_vec(message)?;
    if line.len() > limit_bytes {
        return Err(Error::TooLong { limit_bytes });
    }
    line.push(b'\n');
    Ok(line.into())
}

/// Collects bytes and hands out documents. Any cut of the bytes gives the same documents.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    /// Bytes at the front already searched for a line's end.
    searched: usize,
    limit_bytes: usize,
}

impl Decoder {
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            limit_bytes,
        }
    }

    /// From now on lines may be this long.
    pub fn allow(&mut self, limit_bytes: usize) {
        self.limit_bytes = limit_bytes;
    }

    /// Bytes of a line whose end has not come.
    pub fn unfinished(&self) -> usize {
        self.buffer.len()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next document, or `None` until more bytes come. After an error the decoder is of no
    /// more use: close the stream. Empty lines are skipped.
    #[expect(
        clippy::should_implement_trait,
        reason = "no iterator: it may fail and go on later"
    )]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(at) = memchr(b'\n', unsearched).map(|at| at + self.searched) else {
                self.searched = self.buffer.len();
                if self.searched > self.limit_bytes {
                    return Err(Error::TooLong {
                        limit_bytes: self.limit_bytes,
                    });
                }
                return Ok(None);
            };
            let line = self.buffer.split_to(at);
            self.buffer.advance(1);
            self.searched = 0;
            if line.len() > self.limit_bytes {
                return Err(Error::TooLong {
                    limit_bytes: self.limit_bytes,
                });
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(serde_json::from_slice(&line)?));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Revision, sync::ToOperator};

    fn ack(revision: u128) -> ToOperator {
        ToOperator::Ack {
            revision: Revision(revision),
        }
    }

    #[test]
    fn a_line_over_the_limit_is_refused_before_it_is_complete() {
        let mut decoder = Decoder::new(8);
        decoder.push(b"123456789");
        assert!(matches!(
            decoder.next::<ToOperator>(),
            Err(Error::TooLong { limit_bytes: 8 })
        ));
    }

    #[test]
    fn what_cannot_be_sent_is_refused_by_the_sender() {
        assert!(matches!(encode(&"too long", 4), Err(Error::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_documents(
            revisions in prop::collection::vec(any::<u128>(), 0..8),
            cut in 1..7_usize,
        ) {
            let mut bytes = b"\n".to_vec();
            for revision in &revisions {
                bytes.extend_from_slice(&encode(&ack(*revision), 1 << 10).unwrap());
            }
            let mut decoder = Decoder::new(1 << 10);
            let mut seen = Vec::new();
            for part in bytes.chunks(cut) {
                decoder.push(part);
                while let Some(message) = decoder.next::<ToOperator>().unwrap() {
                    seen.push(message);
                }
            }
            prop_assert_eq!(seen, revisions.into_iter().map(ack).collect::<Vec<_>>());
        }
    }
}
