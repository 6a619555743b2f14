//! YAML (and JSON, which is YAML) as a tree that knows its lines. In: a file's text. Out: its
//! documents, each by itself, so that a slip in one does not hide the others.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number};
use serde_saphyr::Spanned;

/// No `Debug`: a document may be a Secret.
pub(super) struct Node {
    /// From 1.
    pub(super) line: u32,
    pub(super) value: Value,
}

pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key stands.
    pub(super) line: u32,
    pub(super) value: Node,
}

/// Why a document is none.
pub(super) struct SyntaxError {
    pub(super) line: u32,
    pub(super) message: String,
}

impl Node {
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn find(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// With its article, for messages.
    pub(super) fn type_name(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Members without a value are left out, as the API server prunes them.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => number.clone().into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => {
                let present = entries.iter().filter(|entry| !entry.value.is_null());
                let members = present.map(|entry| (entry.key.clone(), entry.value.to_json()));
                members.collect::<Map<_, _>>().into()
            }
        }
    }
}

/// The documents of `text` that hold something, lines counted from the start of `text`.
pub(super) fn documents(text: &str) -> Vec<Result<Node, SyntaxError>> {
    split(text)
        .into_iter()
        .filter_map(|(first_line, text)| parse(first_line, text).transpose())
        .collect()
}

/// At `---` lines: they end a document wherever they stand, block scalars and quotes included
/// (YAML 1.2, 9.1.2).
fn split(text: &str) -> Vec<(u32, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (line, content) in (0..).zip(text.split_inclusive('\n')) {
        let marker = content
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && at > start {
            parts.push((start_line, text.get(start..at).unwrap_or_default()));
            (start, start_line) = (at, line);
        }
        at += content.len();
    }
    parts.push((start_line, text.get(start..).unwrap_or_default()));
    parts
}

fn parse(lines_before: u32, text: &str) -> Result<Option<Node>, SyntaxError> {
    // Directives (`%YAML 1.2`) stand before the `---` of their document and change nothing here.
    let empty = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "---" || line == "..."
    };
    if text.lines().all(empty) {
        return Ok(None);
    }
    let options = serde_saphyr::options! {
        // A snippet could show a Secret.
        with_snippet: false,
        strict_booleans: true,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Tree>>(text, options) {
        Ok(tree) => {
            let mut node = node(tree);
            shift(&mut node, lines_before);
            Ok((!node.is_null()).then_some(node))
        }
        Err(error) => Err(SyntaxError {
            line: lines_before + error.location().map_or(1, |at| at.line() as u32),
            message: plain(&error),
        }),
    }
}

/// The first line of an error without the place, which stands in the note.
fn plain(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let first = first.split(" at line ").next().unwrap_or_default();
    // Advice for programmers.
    let first = first.split(", set ").next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    match first
        .strip_prefix("line ")
        .and_then(|rest| rest.split_once(": "))
    {
        Some((place, message))
            if place
                .chars()
                .all(|c| !c.is_alphabetic() || "column".contains(c)) =>
        {
            message.to_owned()
        }
        _ => first.to_owned(),
    }
}

fn shift(node: &mut Node, by: u32) {
    node.line += by;
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| shift(item, by)),
        Value::Map(entries) => {
            for entry in entries {
                entry.line += by;
                shift(&mut entry.value, by);
            }
        }
        _ => {}
    }
}

fn node(tree: Spanned<Tree>) -> Node {
    Node {
        line: tree.referenced.line() as u32,
        value: tree.value.0,
    }
}

/// Reads any value by what it is in the text.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor).map(Tree)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    /// A whole one (`80.0`, `8e1`) is the number it is, as `kubectl` sends it.
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        const EXACT: f64 = (1_u64 << 53) as f64;
        if value.fract() == 0.0 && value.abs() <= EXACT {
            return Ok(Value::Number((value as i64).into()));
        }
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Tree>>()? {
            items.push(node(item));
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<Tree>>()? {
            let line = key.referenced.line() as u32;
            let key = match key.value.0 {
                Value::Text(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(value) => value.to_string(),
                _ => return Err(A::Error::custom("a key must be a plain word")),
            };
            let value = node(map.next_value::<Spanned<Tree>>()?);
            entries.push(Entry { key, line, value });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Node> {
        documents(text)
            .into_iter()
            .map(|document| document.unwrap_or_else(|e| panic!("{}: {}", e.line, e.message)))
            .collect()
    }

    fn line_of(node: &Node, path: &[&str]) -> (u32, u32) {
        let entry = node.find(path[0]).unwrap();
        match &path[1..] {
            [] => (entry.line, entry.value.line),
            rest => line_of(&entry.value, rest),
        }
    }

    #[test]
    fn keys_and_values_know_their_lines_across_documents() {
        let text = "# head\n---\na: 1\n---\n# c\nspec:\n  list:\n  - x: yes\n    y: 2\n  text: |\n    \
                    ab\n  last:\n    deep\n";
        let nodes = read(text);
        assert_eq!(nodes.len(), 2);
        assert_eq!(line_of(&nodes[0], &["a"]), (3, 3));
        assert_eq!(line_of(&nodes[1], &["spec", "text"]).0, 10);
        assert_eq!(line_of(&nodes[1], &["spec", "last"]), (12, 13));
        let Value::List(items) = &nodes[1]
            .find("spec")
            .unwrap()
            .value
            .find("list")
            .unwrap()
            .value
            .value
        else {
            panic!("a list");
        };
        assert_eq!(line_of(&items[0], &["y"]), (9, 9));
    }

    #[test]
    fn json_has_lines_too() {
        let nodes = read("{\n  \"a\": 1,\n\t\"b\": {\"c\":\n  [true, null]}}\n");
        assert_eq!(line_of(&nodes[0], &["b", "c"]), (3, 4));
        assert_eq!(
            nodes[0].to_json().to_string(),
            r#"{"a":1,"b":{"c":[true,null]}}"#
        );
    }

    #[test]
    fn values_keep_the_type_they_have_in_the_text() {
        let nodes =
            read("a: 1\nb: '1'\nc: true\nd: 1.5\ne:\nf: \"503\"\ng: yes\nh: 10s\n8080: x\n");
        assert_eq!(
            nodes[0].to_json(),
            serde_json::json!({"a": 1, "b": "1", "c": true, "d": 1.5, "f": "503", "g": "yes",
                "h": "10s", "8080": "x"})
        );
    }

    #[test]
    fn documents_of_nothing_are_no_documents() {
        assert!(read("").is_empty());
        assert!(read("---\n# only a comment\n---\n---\nnull\n").is_empty());
        assert_eq!(read("%YAML 1.2\n---\na: 1\n").len(), 1);
    }

    #[test]
    fn a_slip_in_one_document_leaves_the_others() {
        let documents = documents("a: 1\n---\nb: [1\nc: }\n---\nd: 1\n");
        assert_eq!(documents.len(), 3);
        let error = documents[1].as_ref().err().unwrap();
        assert!((3..=5).contains(&error.line), "{}", error.line);
        assert!(documents[0].is_ok() && documents[2].is_ok());
    }

    #[test]
    fn a_syntax_error_speaks_to_whoever_wrote_the_file() {
        for (text, line, message) in [
            ("a: 'x\n", 1, "unclosed quote"),
            ("a: 1\na: 2\n", 2, "duplicate mapping key: a"),
            (
                "a: b: c\n",
                1,
                "mapping values are not allowed in this context",
            ),
        ] {
            let error = documents(text).remove(0).err().unwrap();
            assert_eq!((error.line, error.message.as_str()), (line, message));
        }
    }

    #[test]
    fn a_syntax_error_shows_nothing_of_the_text() {
        for text in [
            "kind: Secret\ndata:\n  token: hunter2\n bad\n",
            "token: \"hunter2\n",
            "token: hunter2\ntoken: hunter2\n",
            "token: !hunter2 [\n",
        ] {
            let error = documents(text).remove(0).err().unwrap();
            assert!(!error.message.contains("hunter2"), "{}", error.message);
            assert!(!error.message.contains("line"), "{}", error.message);
        }
    }

    #[test]
    fn anchors_and_merges_are_resolved() {
        let nodes = read("base: &b {x: 1}\nuse: *b\nmerge:\n  <<: *b\n  y: 2\n");
        assert_eq!(nodes[0].to_json()["use"]["x"], 1);
        assert_eq!(
            nodes[0].to_json()["merge"],
            serde_json::json!({"x": 1, "y": 2})
        );
    }
}
