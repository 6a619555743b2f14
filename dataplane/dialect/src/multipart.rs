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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=xyz";

    fn part(disposition: &str, body: &str) -> String {
        format!("--xyz\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{body}\r\n")
    }

    fn scan(parts: &[String], cut: usize) -> Result<Facts, Problem> {
        let body = parts.concat() + "--xyz--\r\n";
        let mut form = Form::of(TYPE).unwrap();
        for bytes in body.as_bytes().chunks(cut) {
            form.push(bytes)?;
        }
        Ok(form.finish())
    }

    #[test]
    fn the_model_is_found_before_and_after_the_file() {
        let file = part(
            "name=\"file\"; filename=\"a.wav\"",
            "RIFF\r\n--xy\r\n--x\0yz",
        );
        let model = part("name=\"model\"", "whisper-1");
        let stream = part("name=stream", "true");
        for parts in [
            [model.clone(), file.clone(), stream.clone()],
            [stream, file, model],
        ] {
            for cut in 1..40 {
                let facts = scan(&parts, cut).unwrap();
                assert_eq!(facts.model.as_deref(), Some("whisper-1"), "{cut}");
                assert_eq!(facts.stream, Some(true), "{cut}");
            }
        }
    }

    #[test]
    fn what_only_looks_like_the_model_is_not_it() {
        for parts in [
            [part("name=\"file\"; filename=\"model\"", "x")],
            [part("name=\"model\"; filename=\"x\"", "in a file")],
            [part("name=\"model\"; filename*=utf-8''x", "in a file")],
            [part("name=\"models\"", "x")],
            [part("name=\"a; name=model\"", "x")],
            [part("name=\"prompt\"", "name=\"model\"\r\n\r\nx")],
        ] {
            assert_eq!(scan(&parts, 7).unwrap(), Facts::default(), "{parts:?}");
        }
    }

    #[test]
    fn a_line_that_begins_like_the_boundary_belongs_to_its_part() {
        let inside =
            "RIFF\r\n--xyzzy\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nin the file";
        let file = part("name=\"file\"; filename=\"a.wav\"", inside);
        let model = part("name=\"model\"", "whisper-1");
        for parts in [[file.clone(), model.clone()], [model, file]] {
            for cut in [1, 2, 7, 1000] {
                let facts = scan(&parts, cut).unwrap();
                assert_eq!(facts.model.as_deref(), Some("whisper-1"), "{cut}");
            }
        }
        let odd = part("name=\"model\"", "a\r\n--xyzb");
        assert_eq!(scan(&[odd], 3).unwrap(), Facts::default());
    }

    #[test]
    fn nothing_stands_before_the_first_boundary() {
        for (body, is_form) in [
            ("--xyz\r\n", true),
            ("\r\n--xyz\r\n", true),
            ("--xyz--", true),
            ("", true),
            ("{\"model\":\"a\"}\r\n--xyz\r\n", false),
            ("preamble\r\n--xyz\r\n", false),
            ("--xy\r\n", false),
        ] {
            for cut in [1, 3, 100] {
                let mut form = Form::of(TYPE).unwrap();
                let mut chunks = body.as_bytes().chunks(cut);
                let result = chunks.try_for_each(|bytes| form.push(bytes));
                assert_eq!(result.is_ok(), is_form, "{body:?} {cut}");
            }
        }
    }

    #[test]
    fn a_boundary_may_be_followed_by_blanks() {
        let body = "--xyz \t\r\nContent-Disposition: form-data; name=model\r\n\r\nm\r\n--xyz--";
        let mut form = Form::of(TYPE).unwrap();
        form.push(body.as_bytes()).unwrap();
        assert_eq!(form.finish().model.as_deref(), Some("m"));
    }

    #[test]
    fn a_parameter_without_a_value_hides_none_after_it() {
        for disposition in [
            "x; name=\"model\"",
            "name = model",
            "y=\"a;b\"; name=model;",
            "NAME=\"model\"",
        ] {
            let facts = scan(&[part(disposition, "m")], 5).unwrap();
            assert_eq!(facts.model.as_deref(), Some("m"), "{disposition}");
        }
    }

    #[test]
    fn a_head_that_is_too_long_is_refused_however_it_is_cut() {
        let long = |spare: usize| {
            let disposition = format!("name=\"model\"; x=\"{}\"", "a".repeat(spare));
            [part(&disposition, "m")]
        };
        for cut in [1, 1000, 100_000] {
            assert_eq!(
                scan(&long(9_000), cut),
                Err(Problem::PartHeadTooLong),
                "{cut}"
            );
            let facts = scan(&long(8_000), cut).unwrap();
            assert_eq!(facts.model.as_deref(), Some("m"), "{cut}");
        }
    }

    #[test]
    fn a_model_that_stands_twice_or_has_no_end_is_refused() {
        let model = part("name=\"model\"", "a");
        let twice = scan(&[model.clone(), model], 5);
        assert_eq!(twice, Err(Problem::DuplicateKey("model")));
        let long = part("name=\"model\"", &"x".repeat(MAX_VALUE + 300));
        for cut in [1, 100, 10_000] {
            assert_eq!(
                scan(std::slice::from_ref(&long), cut),
                Err(Problem::ModelTooLong)
            );
        }
    }

    #[test]
    fn a_file_is_not_held() {
        let mut form = Form::of(TYPE).unwrap();
        let head = part("name=\"file\"; filename=\"a\"", "");
        form.push(head.as_bytes()).unwrap();
        let much = vec![b'x'; 100_000];
        for _ in 0..100 {
            form.push(&much).unwrap();
            assert!(form.held.len() < 200, "{}", form.held.len());
        }
    }

    #[test]
    fn only_a_form_with_a_boundary_is_one() {
        for (kind, is_form) in [
            ("multipart/form-data; boundary=\"a b\"", true),
            ("Multipart/Form-Data;charset=utf-8;BOUNDARY=x", true),
            ("multipart/form-data", false),
            ("multipart/form-data; boundary=", false),
            ("multipart/mixed; boundary=x", false),
            ("application/json; boundary=x", false),
        ] {
            assert_eq!(Form::of(kind).is_some(), is_form, "{kind}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_no_cut_matters(
            bytes in prop::collection::vec(
                prop::sample::select(&b"\r\n--xyz-Content-Disposition: form-data; name=\"model\"a"[..]),
                0..300,
            ),
            cut in 1..50_usize,
        ) {
            let body = [b"--xyz\r\nContent-Disposition: form-data; name=model\r\n\r\n", &bytes[..]].concat();
            let mut whole = Form::of(TYPE).unwrap();
            let at_once = whole.push(&body).map(|()| whole.finish());
            let mut form = Form::of(TYPE).unwrap();
            let mut result = Ok(());
            for part in body.chunks(cut) {
                result = result.and_then(|()| form.push(part));
            }
            prop_assert_eq!(result.map(|()| form.finish()), at_once);
        }
    }
}
