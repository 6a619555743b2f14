//! A map of an Olla file. In: a tree and a key. Out: the value in the type that was asked for;
//! notes where it has another. Go reads these files loosely, so a number may stand for a text.

use crds::Duration;

use super::{
    super::{
        note::Notes,
        schema,
        yaml::{Entry, Node, Value},
    },
    period,
};

pub(super) struct Section<'a> {
    path: String,
    /// Of the map; where it is absent, of the one around it.
    pub(super) line: u32,
    entries: &'a [Entry],
}

impl<'a> Section<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self {
            path: String::new(),
            line: node.line,
            entries: node.entries(),
        }
    }

    pub(super) fn open(path: String, node: &'a Node, notes: &mut Notes<'_>) -> Self {
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            let message = format!("must be a map, not {}", node.type_name());
            notes.error(node.line, &path, message);
        }
        Self {
            path,
            line: node.line,
            entries: node.entries(),
        }
    }

    /// A map inside this one; empty where it is absent.
    pub(super) fn section(&self, key: &str, notes: &mut Notes<'_>) -> Self {
        match self.find(key) {
            Some(entry) => {
                let inner = Self::open(self.field(key), &entry.value, notes);
                Self {
                    line: entry.line,
                    ..inner
                }
            }
            None => Self {
                path: self.field(key),
                line: self.line,
                entries: &[],
            },
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn entries(&self) -> &'a [Entry] {
        self.entries
    }

    /// A key without a value counts as absent.
    pub(super) fn find(&self, key: &str) -> Option<&'a Entry> {
        let mut entries = self.entries.iter();
        entries.find(|entry| entry.key == key && !entry.value.is_null())
    }

    /// The path of a member, for notes.
    pub(super) fn field(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn line_of(&self, key: &str) -> u32 {
        self.find(key).map_or(self.line, |entry| entry.line)
    }

    pub(super) fn text(&self, key: &str, notes: &mut Notes<'_>) -> Option<String> {
        let entry = self.find(key)?;
        let text = scalar(&entry.value);
        if text.is_none() {
            self.wrong(entry, "a string", notes);
        }
        text
    }

    pub(super) fn texts(&self, key: &str, notes: &mut Notes<'_>) -> Vec<String> {
        let Some(entry) = self.find(key) else {
            return Vec::new();
        };
        let items = match &entry.value.value {
            Value::List(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>(),
            _ => None,
        };
        items.unwrap_or_else(|| {
            self.wrong(entry, "a list of strings", notes);
            Vec::new()
        })
    }

    pub(super) fn flag(&self, key: &str, notes: &mut Notes<'_>) -> Option<bool> {
        let entry = self.find(key)?;
        match &entry.value.value {
            Value::Bool(value) => return Some(*value),
            // What YAML 1.1 and so Go take beside.
            Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" => return Some(true),
                "no" | "off" => return Some(false),
                _ => {}
            },
            _ => {}
        }
        self.wrong(entry, "true or false", notes);
        None
    }

    pub(super) fn number(
        &self,
        key: &str,
        min: u32,
        max: u32,
        notes: &mut Notes<'_>,
    ) -> Option<u32> {
        let entry = self.find(key)?;
        let number = match &entry.value.value {
            Value::Number(number) => number.as_u64().and_then(|number| number.try_into().ok()),
            _ => None,
        };
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            let message = format!("must be a whole number from {min} to {max}");
            notes.error(entry.line, &self.field(key), message);
        }
        number
    }

    /// Zero, which switches a limit off in Olla, leaves the default in force, with a warning.
    pub(super) fn duration(&self, key: &str, notes: &mut Notes<'_>) -> Option<Duration> {
        let entry = self.find(key)?;
        let text = scalar(&entry.value).unwrap_or_default();
        match period::parse(&text) {
            None => {
                let message = format!("`{text}` is not a duration; write it like 500ms, 5s, 1m30s");
                notes.error(entry.line, &self.field(key), message);
                None
            }
            Some(0) => {
                let message = "0 switches nothing off here; the default is used";
                notes.warn(entry.line, &self.field(key), message);
                None
            }
            Some(millis) => Some(period::format(millis)),
        }
    }

    /// One of the `known` words, with `_`, `-` or nothing between their parts, in any case.
    pub(super) fn word<T: Copy>(
        &self,
        key: &str,
        known: &[(&str, T)],
        notes: &mut Notes<'_>,
    ) -> Option<T> {
        let plain = |word: &str| word.replace(['_', '-'], "").to_ascii_lowercase();
        let text = self.text(key, notes)?;
        let found = known.iter().find(|(word, _)| plain(word) == plain(&text));
        if found.is_none() {
            let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
            let message = format!("`{text}` must be one of {}", words.join(", "));
            notes.error(self.line_of(key), &self.field(key), message);
        }
        found.map(|(_, value)| *value)
    }

    /// Warns of each key that is not among `taken`: of Olla's that have no counterpart here yet,
    /// of those that have no effect in Olla either, and of unknown ones.
    pub(super) fn report_rest(
        &self,
        taken: &[&str],
        not_yet: &[&str],
        inert: &[&str],
        notes: &mut Notes<'_>,
    ) {
        for entry in self.entries {
            let key = entry.key.as_str();
            let message = if taken.contains(&key) {
                continue;
            } else if not_yet.contains(&key) {
                "not taken over".to_owned()
            } else if inert.contains(&key) {
                "not taken over; it has no effect in Olla either".to_owned()
            } else {
                let all = [taken, not_yet].concat();
                format!(
                    "unknown field, skipped{}",
                    schema::hint(key, all.into_iter())
                )
            };
            notes.warn(entry.line, &self.field(key), message);
        }
    }

    fn wrong(&self, entry: &Entry, wanted: &str, notes: &mut Notes<'_>) {
        let message = format!("must be {wanted}, not {}", entry.value.type_name());
        notes.error(entry.line, &self.field(&entry.key), message);
    }
}

fn scalar(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}
