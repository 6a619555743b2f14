//! Forms (`multipart/form-data`), as files are sent with: in any cut of the bytes, out the same
//! facts as from a JSON body. Only parts that routing reads are kept, within bounds; files are
//! passed over where they lie.

use memchr::memmem::{self, Finder};

use crate::scan::{Facts, MAX_VALUE, Problem};

/// Longest boundary, bytes; RFC 2046 allows 70.
const MAX_BOUNDARY: usize = 200;

/// Longest head of a part, bytes.
pub const MAX_HEAD: usize = 8 * 1024;

/// Longest run of blanks after a boundary, bytes.
const MAX_PADDING: usize = 64;

/// Incremental scanner of a form. One that breaks off gives what was found until then.
#[derive(Debug)]
pub struct Form {
    /// What stands between two parts: a line that begins with the boundary.
    delimiter: Finder<'static>,
    state: State,
    /// Of a head or a value that is not whole, or the end of what was passed over, in which a
    /// delimiter may begin.
    held: Vec<u8>,
    seen_model: bool,
    seen_stream: bool,
    facts: Facts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first boundary, where nothing else may stand: readers of forms would pass over
    /// it, and readers that never look at the type of a body would read nothing else.
    Start,
    /// In a part that nobody reads.
    Pass,
    /// After what may be a delimiter: the rest of its line says so. It may end a value.
    Delimiter(Option<Field>),
    Head,
    Value(Field),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Model,
    Stream,
}

impl Form {
    /// For a body of this `Content-Type`; none if it is no form.
    pub fn of(content_type: &str) -> Option<Self> {
        let (essence, parameters) = content_type.split_once(';')?;
        if !essence.trim().eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        let boundary = parameter(parameters, "boundary")?;
        if boundary.is_empty() || boundary.len() > MAX_BOUNDARY {
            return None;
        }
        Some(Self {
            delimiter: Finder::new(&format!("\r\n--{boundary}")).into_owned(),
            state: State::Start,
            held: Vec::new(),
            seen_model: false,
            seen_stream: false,
            facts: Facts::default(),
        })
    }

    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = match self.state {
                State::Start => self.start(rest)?,
                State::Pass => self.pass(rest),
                State::Delimiter(after) => self.delimiter(after, rest),
                State::Head => self.head(rest)?,
                State::Value(field) => self.value(field, rest)?,
                State::Done => break,
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
        self.held.len()
    }

    /// Takes bytes up to the end of the first boundary.
    fn start(&mut self, bytes: &[u8]) -> Result<usize, Problem> {
        // The first one needs no line before it.
        let first = self.delimiter.needle().get(2..).unwrap_or_default();
        for (at, byte) in bytes.iter().enumerate() {
            if self.held.is_empty() && byte.is_ascii_whitespace() {
                continue;
            }
            self.held.push(*byte);
            if !first.starts_with(&self.held) {
                return Err(Problem::NotAForm);
            }
            if self.held.len() == first.len() {
                self.held.clear();
                self.state = State::Delimiter(None);
                return Ok(at + 1);
            }
        }
        Ok(bytes.len())
    }

    /// Looks for the next delimiter without keeping more than could be the beginning of one.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let (length, before) = (self.delimiter.needle().len(), self.held.len());
        // One that begins in what is held ends in the first bytes of what came.
        let near = bytes.get(..length - 1).unwrap_or(bytes);
        self.held.extend_from_slice(near);
        if let Some(at) = self.delimiter.find(&self.held) {
            self.held.clear();
            self.state = State::Delimiter(None);
            return (at + length).saturating_sub(before);
        }
        if near.len() < bytes.len() {
            self.held.clear();
            if let Some(at) = self.delimiter.find(bytes) {
                self.state = State::Delimiter(None);
                return at + length;
            }
            self.held.extend_from_slice(bytes);
        }
        let surplus = self.held.len().saturating_sub(length - 1);
        self.held.drain(..surplus);
        bytes.len()
    }

    /// Takes bytes until it is known whether the boundary before them ends there: a longer word
    /// that begins like it belongs to the part.
    fn delimiter(&mut self, after: Option<Field>, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            self.held.push(*byte);
            self.state = match after_boundary(&self.held) {
                AfterBoundary::Open => continue,
                AfterBoundary::Last => State::Done,
                AfterBoundary::Part => {
                    // The head begins with the end of this line.
                    self.held = b"\r\n".to_vec();
                    State::Head
                }
                AfterBoundary::Data => {
                    // A value with such a line in it names no model that there could be.
                    match after {
                        Some(Field::Model) => self.facts.model = None,
                        Some(Field::Stream) => self.facts.stream = None,
                        None => {}
                    }
                    State::Pass
                }
            };
            return at + 1;
        }
        bytes.len()
    }

    /// Takes bytes up to the end of the part's head.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, Problem> {
        let before = self.held.len();
        // As many in all, however they are cut.
        let near = bytes.get(..MAX_HEAD + 1 - before).unwrap_or(bytes);
        self.held.extend_from_slice(near);
        let Some(at) = memmem::find(&self.held, b"\r\n\r\n") else {
            if self.held.len() > MAX_HEAD {
                return Err(Problem::PartHeadTooLong);
            }
            return Ok(near.len());
        };
        let field = field(self.held.get(..at).unwrap_or_default());
        self.held.clear();
        self.state = match field {
            Some(field) => {
                self.seen(field)?;
                State::Value(field)
            }
            None => State::Pass,
        };
        Ok((at + 4).saturating_sub(before))
    }

    fn seen(&mut self, field: Field) -> Result<(), Problem> {
        let (seen, name) = match field {
            Field::Model => (&mut self.seen_model, "model"),
            Field::Stream => (&mut self.seen_stream, "stream"),
        };
        if std::mem::replace(seen, true) {
            return Err(Problem::DuplicateKey(name));
        }
        Ok(())
    }

    /// Takes bytes up to the end of the part.
    fn value(&mut self, field: Field, bytes: &[u8]) -> Result<usize, Problem> {
        let (length, before) = (self.delimiter.needle().len(), self.held.len());
        let near = bytes.get(..MAX_VALUE + length).unwrap_or(bytes);
        self.held.extend_from_slice(near);
        let Some(at) = self.delimiter.find(&self.held) else {
            if self.held.len() > MAX_VALUE + length {
                return Err(Problem::ModelTooLong);
            }
            return Ok(near.len());
        };
        let text = self.held.get(..at).unwrap_or_default();
        if text.len() > MAX_VALUE {
            return Err(Problem::ModelTooLong);
        }
        let text = std::str::from_utf8(text).unwrap_or_default().trim();
        match field {
            Field::Model if !text.is_empty() => self.facts.model = Some(text.to_owned()),
            Field::Stream => self.facts.stream = text.parse().ok(),
            Field::Model => {}
        }
        self.held.clear();
        self.state = State::Delimiter(Some(field));
        Ok((at + length).saturating_sub(before))
    }
}

/// What the bytes after a boundary make of it (RFC 2046, 5.1.1).
enum AfterBoundary {
    /// More are needed.
    Open,
    /// A part follows.
    Part,
    /// No part follows.
    Last,
    /// It was none.
    Data,
}

fn after_boundary(bytes: &[u8]) -> AfterBoundary {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let blanks = bytes.iter().take_while(|byte| is_blank(byte)).count();
    match bytes.get(blanks..).unwrap_or_default() {
        b"" | b"\r" if blanks <= MAX_PADDING => AfterBoundary::Open,
        b"\r\n" => AfterBoundary::Part,
        b"-" if blanks == 0 => AfterBoundary::Open,
        b"--" if blanks == 0 => AfterBoundary::Last,
        _ => AfterBoundary::Data,
    }
}

/// Which field a part with this head is, if it is one that routing reads. A file is none.
fn field(head: &[u8]) -> Option<Field> {
    let head = std::str::from_utf8(head).ok()?;
    let disposition = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_it = name.trim().eq_ignore_ascii_case("content-disposition");
        is_it.then_some(value)
    })?;
    let (_, parameters) = disposition.split_once(';')?;
    let is_file = |name| parameter(parameters, name).is_some();
    if is_file("filename") || is_file("filename*") {
        return None;
    }
    match parameter(parameters, "name")?.as_str() {
        "model" => Some(Field::Model),
        "stream" => Some(Field::Stream),
        _ => None,
    }
}

/// The value of `wanted` among `a=b; c="d"`. One without a value has none.
fn parameter(parameters: &str, wanted: &str) -> Option<String> {
    let mut rest = parameters;
    while !rest.is_empty() {
        let (name, after) = rest.split_at(rest.find(['=', ';']).unwrap_or(rest.len()));
        let Some(after) = after.strip_prefix('=') else {
            rest = after.strip_prefix(';').unwrap_or_default();
            continue;
        };
        let after = after.trim_start_matches([' ', '\t']);
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let (value, next) = after.split_at(after.find(';').unwrap_or(after.len()));
                (value.trim().to_owned(), next)
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        // Up to the next one, whatever stands between.
        rest = next.split_once(';').map_or("", |(_, rest)| rest);
    }
    None
}

/// Text up to the closing quote, and what follows it.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests;
