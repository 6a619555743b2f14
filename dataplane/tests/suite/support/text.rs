//! HTTP/1.1 as bytes, read by hand: a library would hide what the tests are about.

/// Header lines in order, names in lower case.
pub(crate) type Headers = Vec<(String, String)>;

/// Start line and headers of what stands before `\r\n\r\n` in `bytes`, and its length.
pub(crate) fn head(bytes: &[u8]) -> Option<(String, Headers, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let start = lines.next()?.to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some((start, headers, end + 4))
}

/// The values of `name`, in order.
pub(crate) fn values<'a>(headers: &'a Headers, name: &str) -> Vec<&'a str> {
    let named = headers.iter().filter(|(have, _)| have == name);
    named.map(|(_, value)| value.as_str()).collect()
}

pub(crate) fn value<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    values(headers, name).first().copied()
}

/// How a body's end is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Known(usize),
    Chunked,
    UntilClose,
}

impl Length {
    pub(crate) fn of(headers: &Headers, otherwise: Self) -> Self {
        if value(headers, "transfer-encoding") == Some("chunked") {
            return Self::Chunked;
        }
        value(headers, "content-length")
            .and_then(|text| text.parse().ok())
            .map_or(otherwise, Self::Known)
    }
}

/// Takes what can be taken of a body from the front of `buffer`.
#[derive(Debug)]
pub(crate) struct Body {
    length: Length,
    /// Taken so far.
    seen: usize,
    pub(crate) ended: bool,
}

impl Body {
    pub(crate) fn new(length: Length) -> Self {
        Self {
            length,
            seen: 0,
            ended: length == Length::Known(0),
        }
    }

    pub(crate) fn take(&mut self, buffer: &mut Vec<u8>) -> Vec<u8> {
        let mut out = Vec::new();
        match self.length {
            Length::Known(length) => {
                let rest = (length - self.seen).min(buffer.len());
                out.extend(buffer.drain(..rest));
                self.seen += out.len();
                self.ended = self.seen == length;
            }
            Length::UntilClose => out.append(buffer),
            Length::Chunked => {
                while !self.ended
                    && let Some((chunk, used)) = chunk(buffer)
                {
                    buffer.drain(..used);
                    self.ended = chunk.is_empty();
                    out.extend(chunk);
                }
            }
        }
        out
    }
}

/// The first whole chunk and what it takes with its framing.
fn chunk(buffer: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = buffer.windows(2).position(|two| two == b"\r\n")?;
    let size = String::from_utf8_lossy(&buffer[..line]).into_owned();
    let size = usize::from_str_radix(&size, 16).unwrap();
    let end = line + 2 + size + 2;
    (buffer.len() >= end).then(|| (buffer[line + 2..end - 2].to_vec(), end))
}
