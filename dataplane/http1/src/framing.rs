//! Where an answer's body ends: counted, in chunks, or with the connection.

/// How an answer's body ends, as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After so many bytes.
    Known(u64),
    Chunked,
    UntilClose,
}

/// Bytes of a body's extensions and trailers. Nothing is done with either: backends are not told
/// that anybody takes trailers (`TE` is not passed on).
const MAX_EXTRA: usize = 8 * 1024;

/// Finds a body in what comes after the head.
#[derive(Debug)]
pub(super) enum Framing {
    Known(u64),
    Chunked(Chunked),
    UntilClose,
}

/// The chunked coding (RFC 9112, 7.1), read byte by byte where it is not data.
#[derive(Debug)]
pub(super) struct Chunked {
    at: At,
    /// Bytes of extensions and trailers so far: what is not data must not go on for ever.
    extra: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In a chunk's size, of which there were so many digits.
    Size {
        size: u64,
        digits: u8,
    },
    /// After it.
    Extension {
        size: u64,
    },
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataEnd,
    DataEndLf,
    /// At the start of a line after the last chunk.
    Trailer,
    InTrailer,
    TrailersEnd,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body's chunks are malformed")]
pub struct MalformedChunks;

impl Framing {
    pub(super) fn new(length: Length) -> Self {
        match length {
            Length::Known(bytes) => Self::Known(bytes),
            Length::Chunked => Self::Chunked(Chunked {
                at: At::Size { size: 0, digits: 0 },
                extra: 0,
            }),
            Length::UntilClose => Self::UntilClose,
        }
    }

    /// The next piece of the body at the start of `input`, which is moved on. Empty: more input
    /// is needed, or the body is done; then what is left of `input` is not of it.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<&'a [u8], MalformedChunks> {
        match self {
            Self::UntilClose => Ok(std::mem::take(input)),
            Self::Known(left) => Ok(take(input, left)),
            Self::Chunked(chunked) => chunked.next(input),
        }
    }

    /// The body is here whole.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::UntilClose => false,
            Self::Known(left) => *left == 0,
            Self::Chunked(chunked) => chunked.at == At::Done,
        }
    }

    /// Whether the connection's end is the body's.
    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilClose)
    }
}

/// As much of `input` as `left` allows.
fn take<'a>(input: &mut &'a [u8], left: &mut u64) -> &'a [u8] {
    let bytes = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    let (data, rest) = input.split_at(bytes);
    *left -= bytes as u64;
    *input = rest;
    data
}

impl Chunked {
    fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<&'a [u8], MalformedChunks> {
        loop {
            if let At::Data { left } = &mut self.at {
                let data = take(input, left);
                if *left == 0 {
                    self.at = At::DataEnd;
                }
                if !data.is_empty() {
                    return Ok(data);
                }
            }
            if self.at == At::Done {
                return Ok(&[]);
            }
            let Some((byte, rest)) = input.split_first() else {
                return Ok(&[]);
            };
            *input = rest;
            self.at = self.step(*byte)?;
        }
    }

    /// A byte that is not data.
    fn step(&mut self, byte: u8) -> Result<At, MalformedChunks> {
        Ok(match (self.at, byte) {
            (At::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < 16 => {
                let digit = char::from(byte).to_digit(16).ok_or(MalformedChunks)?;
                At::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (At::Size { digits: 0, .. }, _) => return Err(MalformedChunks),
            (At::Size { size, .. } | At::Extension { size }, b';' | b' ' | b'\t') => {
                self.count()?;
                At::Extension { size }
            }
            (At::Size { size, .. } | At::Extension { size }, b'\r') => At::SizeEnd { size },
            (At::Extension { size }, _) if byte != b'\n' => {
                self.count()?;
                At::Extension { size }
            }
            (At::SizeEnd { size: 0 } | At::InTrailer, b'\n') => At::Trailer,
            (At::SizeEnd { size }, b'\n') => At::Data { left: size },
            (At::DataEnd, b'\r') => At::DataEndLf,
            (At::DataEndLf, b'\n') => At::Size { size: 0, digits: 0 },
            (At::Trailer, b'\r') => At::TrailersEnd,
            (At::TrailersEnd, b'\n') => At::Done,
            (At::Trailer | At::InTrailer, _) => {
                self.count()?;
                At::InTrailer
            }
            _ => return Err(MalformedChunks),
        })
    }

    fn count(&mut self) -> Result<(), MalformedChunks> {
        self.extra += 1;
        if self.extra > MAX_EXTRA {
            return Err(MalformedChunks);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body, whether it is done, and what is left over.
    type Read = (Vec<u8>, bool, Vec<u8>);

    fn read(length: Length, bytes: &[u8], cut: usize) -> Result<Read, MalformedChunks> {
        let mut framing = Framing::new(length);
        let mut body = Vec::new();
        let mut over = Vec::new();
        for mut piece in bytes.chunks(cut) {
            loop {
                let data = framing.next(&mut piece)?;
                body.extend_from_slice(data);
                if data.is_empty() {
                    break;
                }
            }
            over.extend_from_slice(piece);
        }
        Ok((body, framing.is_done(), over))
    }

    fn chunked(text: &str) -> Result<Read, MalformedChunks> {
        let whole = read(Length::Chunked, text.as_bytes(), usize::MAX)?;
        let bytewise = read(Length::Chunked, text.as_bytes(), 1)?;
        assert_eq!(whole, bytewise, "{text:?}");
        Ok(whole)
    }

    #[test]
    fn a_counted_body_ends_after_its_bytes() {
        let (body, done, over) = read(Length::Known(3), b"abcd", 2).unwrap();
        assert_eq!((&*body, done, &*over), (&b"abc"[..], true, &b"d"[..]));
        let (_, done, _) = read(Length::Known(3), b"ab", 2).unwrap();
        assert!(!done);
        let (_, done, _) = read(Length::Known(0), b"", 1).unwrap();
        assert!(done);
    }

    #[test]
    fn a_body_that_ends_with_its_connection_is_never_done_by_itself() {
        let (body, done, _) = read(Length::UntilClose, b"abc", 2).unwrap();
        assert_eq!((&*body, done), (&b"abc"[..], false));
    }

    #[test]
    fn chunks_are_joined_without_their_marks() {
        let text = "3\r\nabc\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\n\r\nHTTP";
        let (body, done, over) = chunked(text).unwrap();
        assert_eq!(body, b"abc0123456789");
        assert!(done);
        assert_eq!(over, b"HTTP");
    }

    #[test]
    fn a_body_without_its_last_chunk_is_not_done() {
        for text in [
            "",
            "3\r\nab",
            "3\r\nabc",
            "3\r\nabc\r\n",
            "0\r\n",
            "0\r\n\r",
            "0\r\nx: y\r\n",
        ] {
            assert!(!chunked(text).unwrap().1, "{text:?}");
        }
    }

    #[test]
    fn trailers_are_no_part_of_the_body() {
        let text = "1\r\na\r\n0\r\nx-took: 3\r\nx-cost: 4\r\n\r\n+";
        let (body, done, over) = chunked(text).unwrap();
        assert_eq!((&*body, done, &*over), (&b"a"[..], true, &b"+"[..]));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for text in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "0x3\r\nabc",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "11111111111111111\r\n",
            "3;a\n\r\nabc",
            "0\r\n\rx",
        ] {
            assert!(chunked(text).is_err(), "{text:?}");
        }
        let endless = format!("1;{}", "x".repeat(MAX_EXTRA));
        assert!(chunked(&endless).is_err());
        let endless = format!("0\r\nx: {}", "x".repeat(MAX_EXTRA));
        assert!(chunked(&endless).is_err());
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_body(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..9),
            cut in 1..50_usize,
        ) {
            let mut wire = Vec::new();
            for part in &parts {
                wire.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                wire.extend_from_slice(part);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let (body, done, over) = read(Length::Chunked, &wire, cut).unwrap();
            prop_assert_eq!(body, parts.concat());
            prop_assert!(done);
            prop_assert!(over.is_empty());
        }

        #[test]
        fn nothing_that_comes_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(Length::Chunked, &bytes, 7);
        }
    }
}
