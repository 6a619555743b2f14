//! Request body in (any cut of its bytes), model and stream flag out.
//!
//! Only the top level of a JSON object counts: a `model` inside a message or a tool's schema is
//! not the model. Nothing is parsed into a tree and nothing is copied but the two values, because
//! prompts reach megabytes. Keys are compared without regard to ASCII case, as Go backends do;
//! a key that routing reads and that stands there twice is refused, because backends would take
//! the last one and we the first.

use std::borrow::Cow;

use memchr::memchr2;

/// What routing wants to know of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Trimmed; absent when there is none, or it is no string, or it is empty.
    pub model: Option<String>,
    pub stream: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The key stands twice at the top level.
    DuplicateKey(&'static str),
    /// A model name of over [`MAX_VALUE`] bytes.
    ModelTooLong,
    /// A part of a form whose head is over [`multipart::MAX_HEAD`](crate::multipart::MAX_HEAD)
    /// bytes long: a model could stand in it unseen.
    PartHeadTooLong,
    /// A form that does not begin with its boundary: who reads it otherwise sees another model.
    NotAForm,
    /// UTF-16 or UTF-32, which some backends read all the same: its model would go unseen.
    NotUtf8,
}

/// Longest model name, bytes; far above any in use.
pub const MAX_VALUE: usize = 1024;

/// Keys longer than this are none of ours, even when every byte is escaped (`\u006d…`).
const MAX_KEY: usize = 64;

/// Incremental scanner. A body that is not a JSON object, or breaks off, gives what was found
/// until then: the backend judges it.
#[derive(Debug, Default)]
pub struct Scanner {
    state: State,
    /// Open brackets below the top level.
    depth: u32,
    /// The last byte was a backslash inside a string.
    escaped: bool,
    /// What came before the object are bytes of a wider encoding.
    wide: bool,
    /// Raw text of the key or value being kept.
    kept: Vec<u8>,
    key: Key,
    seen_model: bool,
    seen_stream: bool,
    facts: Facts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    /// After `{` or `,`: a key or the end.
    BeforeKey,
    InKey,
    AfterKey,
    BeforeValue,
    InString,
    InScalar,
    /// Inside an object or array value.
    Nested,
    NestedString,
    AfterValue,
    /// The object ended, or this is none.
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    Model,
    Stream,
    #[default]
    Other,
}

impl Key {
    fn of(name: &[u8]) -> Self {
        if name.eq_ignore_ascii_case(b"model") {
            Self::Model
        } else if name.eq_ignore_ascii_case(b"stream") {
            Self::Stream
        } else {
            Self::Other
        }
    }
}

impl Scanner {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            let used = match self.state {
                State::Done => break,
                State::InKey | State::InString | State::NestedString => self.string(rest)?,
                State::InScalar => self.scalar(rest),
                State::Nested => self.nested(rest),
                _ if byte.is_ascii_whitespace() => 1,
                _ => self.structure(byte, rest)?,
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    pub fn finish(self) -> Facts {
        self.facts
    }

    #[cfg(test)]
    pub(crate) fn bytes_held(&self) -> usize {
        self.kept.len()
    }

    /// `byte`, with which `rest` begins, at the top level and outside strings; with it a string
    /// that is here whole and has no escapes, as nearly all are.
    fn structure(&mut self, byte: u8, rest: &[u8]) -> Result<usize, Problem> {
        self.state = match (self.state, byte) {
            (State::Start, b'{') if self.wide => return Err(Problem::NotUtf8),
            (State::BeforeKey, 0) => return Err(Problem::NotUtf8),
            (State::Start, b'{') | (State::AfterValue, b',') => State::BeforeKey,
            (State::BeforeKey, b'"') => {
                if let Some(key) = plain(rest) {
                    self.key_ended(Key::of(key))?;
                    self.state = State::AfterKey;
                    return Ok(key.len() + 2);
                }
                self.kept.clear();
                State::InKey
            }
            (State::AfterKey, b':') => State::BeforeValue,
            (State::BeforeValue, b'"') => {
                if let Some(value) = plain(rest) {
                    if self.key == Key::Model {
                        self.model_ended(value)?;
                    }
                    self.state = State::AfterValue;
                    return Ok(value.len() + 2);
                }
                self.kept.clear();
                State::InString
            }
            (State::BeforeValue, b'{' | b'[') => {
                self.depth = 1;
                State::Nested
            }
            (State::BeforeValue, _) => {
                self.kept.clear();
                self.kept.push(byte);
                State::InScalar
            }
            // A byte-order mark is not JSON, but harmless.
            (State::Start, 0xef | 0xbb | 0xbf) => State::Start,
            // One of a wider encoding, or half of a character in it.
            (State::Start, 0 | 0xfe | 0xff) => {
                self.wide = true;
                State::Start
            }
            _ => State::Done,
        };
        Ok(1)
    }

    /// Bytes of a number or word, up to its end or that of `bytes`.
    fn scalar(&mut self, bytes: &[u8]) -> usize {
        let ends = |byte: &u8| matches!(byte, b',' | b'}') || byte.is_ascii_whitespace();
        let end = bytes.iter().position(ends).unwrap_or(bytes.len());
        let room = MAX_KEY.saturating_sub(self.kept.len());
        let kept = bytes.get(..end.min(room)).unwrap_or_default();
        self.kept.extend_from_slice(kept);
        if end == bytes.len() {
            return end;
        }
        if self.key == Key::Stream {
            match self.kept.as_slice() {
                b"true" => self.facts.stream = Some(true),
                b"false" => self.facts.stream = Some(false),
                _ => {}
            }
        }
        self.state = State::AfterValue;
        end
    }

    /// Bytes of a string, up to its end or that of `bytes`.
    fn string(&mut self, bytes: &[u8]) -> Result<usize, Problem> {
        if self.escaped {
            self.escaped = false;
            self.keep(bytes.get(..1).unwrap_or_default())?;
            return Ok(1);
        }
        let Some(at) = end_or_escape(bytes) else {
            self.keep(bytes)?;
            return Ok(bytes.len());
        };
        let end = bytes.get(at) == Some(&b'"');
        self.keep(bytes.get(..at + usize::from(!end)).unwrap_or_default())?;
        if end {
            self.string_ended()?;
        } else {
            self.escaped = true;
        }
        Ok(at + 1)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        match self.state {
            State::InKey if self.kept.len() <= MAX_KEY * 6 => self.kept.extend_from_slice(
                bytes
                    .get(..bytes.len().min(MAX_KEY * 6 + 1))
                    .unwrap_or_default(),
            ),
            State::InString if self.key == Key::Model => {
                if self.kept.len() + bytes.len() > MAX_VALUE {
                    return Err(Problem::ModelTooLong);
                }
                self.kept.extend_from_slice(bytes);
            }
            _ => {}
        }
        Ok(())
    }

    fn string_ended(&mut self) -> Result<(), Problem> {
        self.state = match self.state {
            State::InKey => {
                let key = unescape(&self.kept);
                self.key_ended(key.map_or(Key::Other, |key| Key::of(key.as_bytes())))?;
                State::AfterKey
            }
            State::InString => {
                if self.key == Key::Model {
                    let raw = std::mem::take(&mut self.kept);
                    self.model_ended(&raw)?;
                }
                State::AfterValue
            }
            _ => State::Nested,
        };
        Ok(())
    }

    fn model_ended(&mut self, raw: &[u8]) -> Result<(), Problem> {
        if raw.len() > MAX_VALUE {
            return Err(Problem::ModelTooLong);
        }
        self.facts.model = unescape(raw)
            .map(|model| model.trim().to_owned())
            .filter(|model| !model.is_empty());
        Ok(())
    }

    fn key_ended(&mut self, key: Key) -> Result<(), Problem> {
        self.key = key;
        let (seen, name) = match key {
            Key::Model => (&mut self.seen_model, "model"),
            Key::Stream => (&mut self.seen_stream, "stream"),
            Key::Other => return Ok(()),
        };
        if std::mem::replace(seen, true) {
            return Err(Problem::DuplicateKey(name));
        }
        Ok(())
    }

    /// Bytes inside an object or array value, up to its end or a string that is not plain.
    fn nested(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'"' => match bytes.get(at..).and_then(plain) {
                    Some(string) => at += string.len() + 1,
                    None => {
                        self.state = State::NestedString;
                        return at + 1;
                    }
                },
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.state = State::AfterValue;
                        return at + 1;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        at
    }
}

/// What stands between the quote with which `bytes` begins and the next one. None if that is not
/// here, or there are escapes.
fn plain(bytes: &[u8]) -> Option<&[u8]> {
    let text = bytes.get(1..)?;
    let end = end_or_escape(text)?;
    if text.get(end) == Some(&b'"') {
        text.get(..end)
    } else {
        None
    }
}

/// Where a string's next quote or backslash stands.
fn end_or_escape(bytes: &[u8]) -> Option<usize> {
    // Keys, roles and names are mostly shorter than what a wide search costs to set up.
    const SHORT: usize = 16;
    let near = bytes.get(..SHORT).unwrap_or(bytes).iter();
    for (at, byte) in near.enumerate() {
        if matches!(byte, b'"' | b'\\') {
            return Some(at);
        }
    }
    Some(memchr2(b'"', b'\\', bytes.get(SHORT..)?)? + SHORT)
}

/// Text of a JSON string from what stood between its quotes.
fn unescape(raw: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(raw).ok()?;
    if !text.contains('\\') {
        return Some(Cow::Borrowed(text));
    }
    let text = serde_json::from_str(&format!("\"{text}\"")).ok()?;
    Some(Cow::Owned(text))
}

#[cfg(test)]
mod tests;
