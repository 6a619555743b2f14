//! Heads: a request's as it is written, an answer's as it is read.

use std::{fmt, io::Write as _};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::framing::Length;

/// Longest head of an answer, bytes. Twice what a request's may have: servers repeat its target in
/// redirects, and no client is to make a backend's answer one that cannot be read.
pub const MAX_HEAD: usize = 64 * 1024;

/// Most header lines of an answer.
const MAX_LINES: usize = 100;

/// A request's head, line by line.
pub struct Lines(Vec<u8>);

/// Without the lines: one holds a credential.
impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines({} bytes)", self.0.len())
    }
}

impl Lines {
    /// With a request line whose target is these parts. What would end it early is escaped.
    pub fn new(method: &Method, target: &[&str]) -> Self {
        let mut lines = Vec::with_capacity(1024);
        lines.extend_from_slice(method.as_str().as_bytes());
        lines.push(b' ');
        for byte in target.iter().flat_map(|part| part.bytes()) {
            if byte <= b' ' || byte == 0x7f {
                let _ = write!(lines, "%{byte:02X}");
            } else {
                lines.push(byte);
            }
        }
        lines.extend_from_slice(b" HTTP/1.1\r\n");
        Self(lines)
    }

    pub fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.0.extend_from_slice(name.as_str().as_bytes());
        self.0.extend_from_slice(b": ");
        self.0.extend_from_slice(value.as_bytes());
        self.0.extend_from_slice(b"\r\n");
    }

    /// How long the body is, and the end of the head. Absent: it comes in chunks.
    pub fn end(mut self, method: &Method, length: Option<u64>) -> Vec<u8> {
        // A request whose method gives a body a meaning says that it has none (RFC 9110, 8.6).
        let says_none = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        match length {
            None => self
                .0
                .extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
            Some(0) if !says_none => self.0.extend_from_slice(b"\r\n"),
            Some(length) => {
                self.0.extend_from_slice(b"content-length: ");
                let digits = itoa::Buffer::new().format(length).to_owned();
                self.0.extend_from_slice(digits.as_bytes());
                self.0.extend_from_slice(b"\r\n\r\n");
            }
        }
        self.0
    }
}

/// An answer's head.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    /// All lines, in their order.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub length: Length,
    /// The backend takes another request on this connection.
    pub keep_alive: bool,
}

/// What the bytes read so far are.
#[derive(Debug)]
pub(super) enum Parsed {
    Partial,
    /// An answer's head, and how many bytes it took, those of interim answers among them.
    Answer(Head, usize),
}

/// Not the answer of an HTTP/1 server.
#[derive(Debug, thiserror::Error)]
pub enum MalformedHead {
    #[error("{0}")]
    Head(#[from] httparse::Error),
    #[error("the head is over {MAX_HEAD} bytes long")]
    TooLong,
    #[error("no status code")]
    Status,
    #[error("Content-Length is not one number")]
    ContentLength,
    #[error("Transfer-Encoding other than chunked, or in an answer of HTTP/1.0")]
    TransferEncoding,
    #[error("it switches protocols unasked")]
    Switch,
}

/// Reads an answer's head from the start of `bytes`. Interim answers (100, 103) are passed over.
pub(super) fn parse(bytes: &Bytes, method: &Method) -> Result<Parsed, MalformedHead> {
    let mut start = 0;
    loop {
        let rest = bytes.slice(start..);
        match parse_one(&rest, method)? {
            // Interim answers count: they must not come for ever.
            None if bytes.len() >= MAX_HEAD => return Err(MalformedHead::TooLong),
            None => return Ok(Parsed::Partial),
            Some((_, len)) if start + len > MAX_HEAD => return Err(MalformedHead::TooLong),
            // Upgrade is never asked for: the header is hop-by-hop.
            Some((head, _)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                return Err(MalformedHead::Switch);
            }
            Some((head, len)) if head.status.is_informational() => start += len,
            Some((head, len)) => return Ok(Parsed::Answer(head, start + len)),
        }
    }
}

fn parse_one(bytes: &Bytes, method: &Method) -> Result<Option<(Head, usize)>, MalformedHead> {
    let mut lines = [const { std::mem::MaybeUninit::uninit() }; MAX_LINES];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        bytes,
        &mut lines,
    )?;
    let httparse::Status::Complete(len) = status else {
        return Ok(None);
    };
    let status = parsed
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(MalformedHead::Status)?;
    let http_1_1 = parsed.version == Some(1);
    let mut headers = Vec::with_capacity(parsed.headers.len());
    let mut told = Told::default();
    for line in parsed.headers.iter() {
        // httparse has checked what http checks again here.
        let name = HeaderName::from_bytes(line.name.as_bytes())
            .map_err(|_| httparse::Error::HeaderName)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value))
            .map_err(|_| httparse::Error::HeaderValue)?;
        told.hear(&name, &value)?;
        headers.push((name, value));
    }
    let head = Head {
        length: told.length(status, method, http_1_1)?,
        keep_alive: told.keeps_alive(http_1_1),
        status,
        headers,
    };
    Ok(Some((head, len)))
}

/// What the lines say of the body and the connection.
#[derive(Debug, Default)]
struct Told {
    content_length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl Told {
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), MalformedHead> {
        if *name == CONTENT_LENGTH {
            let number = digits(value.as_bytes()).ok_or(MalformedHead::ContentLength)?;
            let before = self.content_length.replace(number);
            if before.is_some_and(|before| before != number) {
                return Err(MalformedHead::ContentLength);
            }
        } else if *name == TRANSFER_ENCODING {
            // The header ends here, so nobody after us could undo another coding.
            let chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            if !chunked || std::mem::replace(&mut self.chunked, true) {
                return Err(MalformedHead::TransferEncoding);
            }
        } else if *name == CONNECTION {
            for word in words(value) {
                self.close |= word.eq_ignore_ascii_case(b"close");
                self.keep_alive |= word.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }

    /// RFC 9112, 6.3.
    fn length(
        &self,
        status: StatusCode,
        method: &Method,
        http_1_1: bool,
    ) -> Result<Length, MalformedHead> {
        let without = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || *method == Method::HEAD;
        Ok(match self.content_length {
            _ if without => Length::Known(0),
            _ if self.chunked && !http_1_1 => return Err(MalformedHead::TransferEncoding),
            _ if self.chunked => Length::Chunked,
            Some(length) => Length::Known(length),
            None => Length::UntilClose,
        })
    }

    fn keeps_alive(&self, http_1_1: bool) -> bool {
        // Both lengths are a sign of somebody who wants them read differently (RFC 9112, 6.3).
        let ambiguous = self.chunked && self.content_length.is_some();
        !self.close && !ambiguous && (http_1_1 || self.keep_alive)
    }
}

/// The members of a comma-separated list.
fn words(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let members = value.as_bytes().split(|byte| *byte == b',');
    members.map(<[u8]>::trim_ascii)
}

/// Digits and nothing else: no sign, as `str::parse` would take.
fn digits(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<(Head, usize)>, MalformedHead> {
        read_for(&Method::POST, text)
    }

    fn read_for(method: &Method, text: &str) -> Result<Option<(Head, usize)>, MalformedHead> {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        Ok(match parse(&bytes, method)? {
            Parsed::Partial => None,
            Parsed::Answer(head, len) => Some((head, len)),
        })
    }

    fn length(lines: &str) -> Length {
        let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        read(&text).unwrap().unwrap().0.length
    }

    fn keeps_alive(text: &str) -> bool {
        read(text).unwrap().unwrap().0.keep_alive
    }

    #[test]
    fn a_head_is_read_once_it_is_here_whole() {
        let text = "HTTP/1.1 429 Slow Down\r\nRetry-After: 3\r\nx: a\r\nx: b\r\n\r\nbody";
        let end = text.len() - "body".len();
        for cut in 1..end {
            assert!(read(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let (head, len) = read(text).unwrap().unwrap();
        assert_eq!(len, end);
        assert_eq!(head.status, StatusCode::TOO_MANY_REQUESTS);
        let lines: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(lines, [("retry-after", "3"), ("x", "a"), ("x", "b")]);
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
        assert!(read(text).unwrap().is_none());
        let text = format!("{text}HTTP/1.1 204 No Content\r\n\r\n");
        let (head, len) = read(&text).unwrap().unwrap();
        assert_eq!(head.status, StatusCode::NO_CONTENT);
        assert_eq!(len, text.len());
    }

    #[test]
    fn the_length_is_what_the_lines_say() {
        assert_eq!(length("content-length: 12\r\n"), Length::Known(12));
        let twice = "content-length: 3\r\ncontent-length: 3\r\n";
        assert_eq!(length(twice), Length::Known(3));
        assert_eq!(length("transfer-encoding: Chunked\r\n"), Length::Chunked);
        assert_eq!(length(""), Length::UntilClose);
        // A length beside chunks means nothing.
        let both = "content-length: 5\r\ntransfer-encoding: chunked\r\n";
        assert_eq!(length(both), Length::Chunked);
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        for (method, status) in [
            (Method::HEAD, "200 OK"),
            (Method::GET, "304 Not Modified"),
            (Method::POST, "204 No Content"),
        ] {
            let text = format!("HTTP/1.1 {status}\r\ncontent-length: 9\r\n\r\n");
            let (head, _) = read_for(&method, &text).unwrap().unwrap();
            assert_eq!(head.length, Length::Known(0), "{method} {status}");
        }
    }

    #[test]
    fn a_connection_is_kept_only_where_both_sides_mean_it() {
        assert!(keeps_alive("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
        assert!(!keeps_alive(
            "HTTP/1.1 200 OK\r\nconnection: x, Close\r\n\r\n"
        ));
        assert!(!keeps_alive(
            "HTTP/1.1 200 OK\r\nconnection: close\r\nconnection: keep-alive\r\n\r\n"
        ));
        assert!(!keeps_alive("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n"));
        assert!(keeps_alive(
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n"
        ));
        // Somebody may read the other length.
        assert!(!keeps_alive(
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
        ));
    }

    #[test]
    fn what_can_be_read_two_ways_is_refused() {
        for lines in [
            "content-length: 1\r\ncontent-length: 2\r\n",
            "content-length: 1, 1\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: gzip\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "content-length: +1\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999\r\n",
            "x : a\r\n",
            "x: a\r\n folded\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
            assert!(read(&text).is_err(), "{lines:?}");
        }
        for text in [
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 99 Odd\r\n\r\n",
            "220 mail.example ESMTP\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_head_has_bounds() {
        let long = |bytes| format!("HTTP/1.1 200 OK\r\nx: {}\r\n", "a".repeat(bytes));
        assert!(
            read(&format!("{}\r\n", long(MAX_HEAD - 64)))
                .unwrap()
                .is_some()
        );
        assert!(read(&format!("{}\r\n", long(MAX_HEAD))).is_err());
        // It need not be whole for that.
        assert!(read(&long(MAX_HEAD)).is_err());
        assert!(read(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_HEAD / 20)).is_err());
        let many = "x: a\r\n".repeat(MAX_LINES + 1);
        assert!(read(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).is_err());
    }

    #[test]
    fn a_request_says_how_its_body_ends() {
        let head = |method: Method, length| {
            let mut lines = Lines::new(&method, &["/base", "/v1/x", "?", "y=1"]);
            lines.add(&http::header::HOST, &HeaderValue::from_static("h"));
            String::from_utf8(lines.end(&method, length)).unwrap()
        };
        assert_eq!(
            head(Method::POST, Some(7)),
            "POST /base/v1/x?y=1 HTTP/1.1\r\nhost: h\r\ncontent-length: 7\r\n\r\n"
        );
        assert!(head(Method::POST, None).ends_with("\r\ntransfer-encoding: chunked\r\n\r\n"));
        assert!(head(Method::POST, Some(0)).ends_with("\r\ncontent-length: 0\r\n\r\n"));
        assert!(head(Method::GET, Some(0)).ends_with("host: h\r\n\r\n"));
    }

    #[test]
    fn no_target_ends_the_request_line() {
        let lines = Lines::new(&Method::GET, &["/a b", "\r\nx: y\u{7f}é"]);
        let text = String::from_utf8(lines.end(&Method::GET, Some(0))).unwrap();
        assert_eq!(text, "GET /a%20b%0D%0Ax:%20y%7Fé HTTP/1.1\r\n\r\n");
    }
}
