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
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn scan(body: &str) -> Result<Facts, Problem> {
        let mut scanner = Scanner::new();
        scanner.push(body.as_bytes())?;
        Ok(scanner.finish())
    }

    fn model(body: &str) -> Option<String> {
        scan(body).unwrap().model
    }

    #[test]
    fn the_top_level_model_is_found_wherever_it_stands() {
        assert_eq!(model(r#"{"model":"m"}"#).as_deref(), Some("m"));
        assert_eq!(
            model(r#" { "messages" : [ ] , "model" : " m " } "#).as_deref(),
            Some("m")
        );
        assert_eq!(
            model(r#"{"n":1,"x":null,"model":"a/b:c"}"#).as_deref(),
            Some("a/b:c")
        );
    }

    #[test]
    fn a_model_inside_a_message_or_a_tool_is_not_the_model() {
        assert_eq!(
            model(r#"{"messages":[{"model":"x","content":"{\"model\":\"y\"}"}]}"#),
            None
        );
        assert_eq!(
            model(r#"{"tools":[{"f":{"model":"x"}}],"model":"m"}"#).as_deref(),
            Some("m")
        );
    }

    #[test]
    fn escaped_keys_and_values_mean_the_same() {
        assert_eq!(
            model(r#"{"\u006dodel":"a\u0062\"c"}"#).as_deref(),
            Some("ab\"c")
        );
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_in_any_case_and_spelling() {
        for body in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","Model":"b"}"#,
            r#"{"model":null,"\u006dodel":"b"}"#,
        ] {
            assert_eq!(scan(body), Err(Problem::DuplicateKey("model")), "{body}");
        }
        let twice = scan(r#"{"stream":true,"x":1,"stream":false}"#);
        assert_eq!(twice, Err(Problem::DuplicateKey("stream")));
    }

    #[test]
    fn the_stream_flag_is_read() {
        assert_eq!(scan(r#"{"stream":true}"#).unwrap().stream, Some(true));
        assert_eq!(scan(r#"{"stream": false }"#).unwrap().stream, Some(false));
        assert_eq!(scan(r#"{"stream":"yes"}"#).unwrap().stream, None);
    }

    #[test]
    fn what_is_no_object_is_not_judged() {
        for body in [
            "",
            "[1,2]",
            "hello",
            "{",
            "{\"model",
            "null",
            "{\"model\":\"a",
        ] {
            assert_eq!(scan(body).unwrap(), Facts::default(), "{body}");
        }
    }

    #[test]
    fn a_document_in_a_wider_encoding_is_refused_not_overlooked() {
        let text = " {\"model\":\"m\"}";
        let utf16: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> = utf16.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = utf16.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        let utf32: Vec<u8> = text
            .chars()
            .flat_map(|c| u32::from(c).to_le_bytes())
            .collect();
        for bytes in [
            little.clone(),
            little[2..].to_vec(),
            big.clone(),
            big[2..].to_vec(),
            [&[0xff, 0xfe][..], &little].concat(),
            [&[0xfe, 0xff][..], &big].concat(),
            utf32,
        ] {
            let mut scanner = Scanner::new();
            assert_eq!(scanner.push(&bytes), Err(Problem::NotUtf8), "{bytes:?}");
        }
        // Sound and pictures are no documents.
        for bytes in [&b"\xff\xfb\x90{\0"[..], b"\0\0\0 ftypisom", b"\x89PNG\r\n"] {
            let mut scanner = Scanner::new();
            assert_eq!(scanner.push(bytes), Ok(()), "{bytes:?}");
        }
    }

    #[test]
    fn an_endless_model_name_is_refused() {
        let body = format!(r#"{{"model":"{}"}}"#, "x".repeat(MAX_VALUE + 1));
        assert_eq!(scan(&body), Err(Problem::ModelTooLong));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("model|stream|[a-z\"\\\\]{0,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_split_finds_what_a_parser_finds(
            rest in prop::collection::btree_map("[a-l]{1,8}", value(), 0..6),
            name in ".{1,20}",
            stream in any::<bool>(),
            cut in 1..9_usize,
            pretty in any::<bool>(),
        ) {
            let mut object: serde_json::Map<String, Value> = rest.into_iter().collect();
            object.insert("model".into(), json!(name));
            object.insert("stream".into(), json!(stream));
            let value = Value::Object(object);
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            let mut scanner = Scanner::new();
            for part in text.as_bytes().chunks(cut) {
                scanner.push(part).unwrap();
            }
            let facts = scanner.finish();
            let name = name.trim();
            prop_assert_eq!(facts.model.as_deref(), (!name.is_empty()).then_some(name));
            prop_assert_eq!(facts.stream, Some(stream));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut scanner = Scanner::new();
            let _ = scanner.push(&bytes);
            scanner.finish();
        }
    }
}
