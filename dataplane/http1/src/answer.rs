//! An answer as its bytes come in: first its head, then its body.

use bytes::Bytes;
use http::Method;

use super::{
    framing::{Framing, Length, MalformedChunks},
    head::{self, Head, MalformedHead, Parsed},
};

#[derive(Debug)]
pub struct Answer {
    /// What was asked with: an answer to HEAD has no body.
    method: Method,
    /// Of a head that is not whole.
    partial: Bytes,
    /// Something of an answer has come.
    begun: bool,
    framing: Framing,
    /// The connection may be used for another exchange.
    keep_alive: bool,
    /// Came after data that had to be handed out first.
    malformed: Option<MalformedChunks>,
}

impl Answer {
    pub fn new(method: Method) -> Self {
        Self {
            method,
            partial: Bytes::new(),
            begun: false,
            framing: Framing::new(Length::Known(0)),
            keep_alive: true,
            malformed: None,
        }
    }

    /// The head, if it is whole with these bytes, and what they hold of the body.
    pub fn head(&mut self, bytes: &[u8]) -> Result<Option<(Head, Bytes)>, MalformedHead> {
        self.begun |= !bytes.is_empty();
        let bytes = if self.partial.is_empty() {
            Bytes::copy_from_slice(bytes)
        } else {
            [&*std::mem::take(&mut self.partial), bytes].concat().into()
        };
        match head::parse(&bytes, &self.method)? {
            Parsed::Partial => {
                self.partial = bytes;
                Ok(None)
            }
            Parsed::Answer(head, len) => {
                self.keep_alive &= head.keep_alive;
                self.framing = Framing::new(head.length);
                let rest = bytes.slice(len..);
                let data = self.take(&rest, |data| rest.slice_ref(data));
                Ok(Some((head, data)))
            }
        }
    }

    /// What these bytes hold of the body.
    pub fn data(&mut self, bytes: &[u8]) -> Bytes {
        self.take(bytes, Bytes::copy_from_slice)
    }

    /// All data in `input` as one, by `own` where it is one piece.
    fn take(&mut self, mut input: &[u8], own: impl Fn(&[u8]) -> Bytes) -> Bytes {
        let first = self.piece(&mut input);
        let mut next = self.piece(&mut input);
        let data = if next.is_empty() {
            own(first)
        } else {
            let mut joined = Vec::with_capacity(first.len() + next.len() + input.len());
            joined.extend_from_slice(first);
            while !next.is_empty() {
                joined.extend_from_slice(next);
                next = self.piece(&mut input);
            }
            joined.into()
        };
        // Nobody asked for what comes after the answer.
        self.keep_alive &= input.is_empty();
        data
    }

    fn piece<'a>(&mut self, input: &mut &'a [u8]) -> &'a [u8] {
        if self.malformed.is_some() {
            return &[];
        }
        self.framing.next(input).unwrap_or_else(|malformed| {
            self.malformed = Some(malformed);
            &[]
        })
    }

    /// What was wrong with the body, once all data before it is handed out.
    pub fn malformed(&self) -> Option<MalformedChunks> {
        self.malformed
    }

    /// The body is here whole, and well.
    pub fn is_done(&self) -> bool {
        self.framing.is_done() && self.malformed.is_none()
    }

    /// The backend closed. True if that is the end of the body.
    pub fn ends_here(&mut self) -> bool {
        self.keep_alive = false;
        if self.framing.ends_with_connection() {
            self.framing = Framing::new(Length::Known(0));
        }
        self.is_done()
    }

    pub fn has_begun(&self) -> bool {
        self.begun
    }

    pub fn keeps_alive(&self) -> bool {
        self.is_done() && self.keep_alive
    }

    /// The connection ends with this exchange.
    pub fn let_go(&mut self) {
        self.keep_alive = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `text` in pieces of `cut` bytes: the status, the body, and the state afterwards.
    fn read(text: &str, cut: usize) -> (Option<u16>, String, Answer) {
        let mut reading = Answer::new(Method::POST);
        let mut status = None;
        let mut body = Vec::new();
        for piece in text.as_bytes().chunks(cut) {
            if status.is_some() {
                body.extend_from_slice(&reading.data(piece));
            } else if let Some((head, data)) = reading.head(piece).unwrap() {
                status = Some(head.status.as_u16());
                body.extend_from_slice(&data);
            }
        }
        (status, String::from_utf8(body).unwrap(), reading)
    }

    #[test]
    fn an_answer_in_any_pieces_is_the_same() {
        let counted = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd";
        let chunked = "HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n\
                       1\r\na\r\n3\r\nbcd\r\n0\r\n\r\n";
        for (text, expected) in [(counted, 200), (chunked, 503)] {
            for cut in 1..=text.len() {
                let (status, body, reading) = read(text, cut);
                assert_eq!((status, &*body), (Some(expected), "abcd"), "{cut}");
                assert!(reading.keeps_alive(), "{cut}");
            }
        }
    }

    #[test]
    fn what_comes_after_an_answer_ends_the_connection() {
        for cut in [1, 1000] {
            let text = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\n";
            let (_, body, reading) = read(text, cut);
            assert_eq!(body, "a");
            assert!(reading.is_done());
            assert!(!reading.keeps_alive());
        }
    }

    #[test]
    fn data_before_malformed_chunks_is_not_lost() {
        let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                    3\r\nabc\r\n3\r\ndef\r\nxyz\r\n";
        for cut in [1, 1000] {
            let (_, body, reading) = read(text, cut);
            assert_eq!(body, "abcdef");
            assert!(reading.malformed().is_some());
            assert!(!reading.is_done());
            assert!(!reading.keeps_alive());
        }
    }

    #[test]
    fn a_close_ends_only_a_body_that_has_no_other_end() {
        let (_, body, mut reading) = read("HTTP/1.1 200 OK\r\n\r\nabc", 1000);
        assert_eq!(body, "abc");
        assert!(!reading.is_done());
        assert!(reading.ends_here());
        assert!(!reading.keeps_alive());
        let (_, _, mut reading) = read("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", 1000);
        assert!(!reading.ends_here());
    }

    proptest! {
        #[test]
        fn nothing_that_comes_makes_it_panic(
            tail in prop::collection::vec(any::<u8>(), 0..300),
            cut in 1..300_usize,
        ) {
            let mut reading = Answer::new(Method::GET);
            let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
            text.extend_from_slice(&tail);
            let mut begun = false;
            for piece in text.chunks(cut) {
                if begun {
                    let _ = reading.data(piece);
                } else {
                    match reading.head(piece) {
                        Ok(head) => begun = head.is_some(),
                        Err(_) => break,
                    }
                }
            }
        }
    }
}
