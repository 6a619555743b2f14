//! What there is to say about files: one line each, as a compiler would, so that editors jump
//! there.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something was left out; a reader that has a good table already should keep it.
    Error,
    /// Everything that could be used was.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// Prints as `file:line: field: message`, without the parts that it does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub severity: Severity,
    /// [`Source::name`](super::Source::name).
    pub source: String,
    /// From 1.
    pub line: Option<u32>,
    /// Path such as `spec.timeouts.firstToken`; empty for the document.
    pub field: String,
    /// What is wrong and what to do, without the field. Never a secret value.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Notes on one file while it is read.
pub(super) struct Notes<'a> {
    source: &'a str,
    list: Vec<Note>,
}

impl<'a> Notes<'a> {
    pub(super) fn on(source: &'a str) -> Self {
        Self {
            source,
            list: Vec::new(),
        }
    }

    pub(super) fn source(&self) -> &'a str {
        self.source
    }

    pub(super) fn error(&mut self, line: u32, field: &str, message: impl Into<String>) {
        self.add(Severity::Error, line, field, message.into());
    }

    pub(super) fn warn(&mut self, line: u32, field: &str, message: impl Into<String>) {
        self.add(Severity::Warning, line, field, message.into());
    }

    /// Number of errors so far: what adds none while it is read may be used.
    pub(super) fn errors(&self) -> usize {
        let errors = self.list.iter();
        errors
            .filter(|note| note.severity == Severity::Error)
            .count()
    }

    /// Number of notes so far.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether one of the notes after the first `from` is about this field, or about an unknown
    /// field in it: the one that is meant is then missing only by that slip.
    pub(super) fn told_of(&self, field: &str, from: usize) -> bool {
        let mut later = self.list.iter().skip(from);
        later.any(|note| {
            let outer = note.field.rsplit_once('.').map(|(outer, _)| outer);
            let slip = note.message.starts_with("unknown field") && outer == Some(field);
            note.field == field || slip
        })
    }

    pub(super) fn into_list(self) -> Vec<Note> {
        self.list
    }

    fn add(&mut self, severity: Severity, line: u32, field: &str, message: String) {
        self.list.push(Note {
            severity,
            source: self.source.to_owned(),
            line: (line > 0).then_some(line),
            field: field.to_owned(),
            message,
        });
    }
}
