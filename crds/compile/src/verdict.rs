//! What became of one object. Status conditions, `check` and logs all print these.

use std::fmt;

use crds::Reason;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rpds::RedBlackTreeMapSync;

use crate::{Kind, Unreadable};

/// Verdicts by kind and name. A clone costs nothing.
pub type Verdicts = RedBlackTreeMapSync<(Kind, String), Verdict>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub kind: Kind,
    pub name: String,
    /// Of the object that was judged; none outside a cluster.
    pub uid: Option<String>,
    /// Its generation; 0 outside a cluster.
    pub generation: i64,
    /// `Accepted`: whether it is in the table.
    pub accepted: Result<(), Problem>,
    /// `ResolvedRefs`: a broken reference leaves out what it names, not the whole object.
    pub resolved_refs: Result<(), Problem>,
    /// `Ready` of an OllaRoute: whether some address can take its requests.
    pub reachable: Result<(), Problem>,
    /// Ready addresses found for an LlmEndpoint, also where they are not used for want of its
    /// credential; 0 for a route.
    pub instances: u32,
    /// Generation of an older form that is in the table instead of one that was not accepted, or
    /// that waits for a list.
    pub in_use: Option<i64>,
}

impl Verdict {
    /// Before anything is known against it.
    pub fn good(kind: Kind, name: &str, meta: &ObjectMeta) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            uid: meta.uid.clone(),
            generation: meta.generation.unwrap_or_default(),
            accepted: Ok(()),
            resolved_refs: Ok(()),
            reachable: Ok(()),
            instances: 0,
            in_use: None,
        }
    }

    pub(crate) fn unreadable(object: &Unreadable) -> Self {
        let message = object.message.clone();
        Self {
            kind: object.kind,
            name: object.name.clone(),
            uid: object.uid.clone(),
            generation: object.generation,
            accepted: Err(Problem::new(Reason::Undecodable, "", message)),
            resolved_refs: Ok(()),
            reachable: Ok(()),
            instances: 0,
            in_use: None,
        }
    }

    /// The verdict on a form that is refused or waits for a list, where `older` is on the one that
    /// is used instead, if that is accepted.
    pub(crate) fn with_in_use(mut self, older: &Self) -> Self {
        if older.accepted.is_err() {
            return self;
        }
        let in_use = older.generation;
        match (&mut self.accepted, &mut self.resolved_refs) {
            (Err(problem), references) => {
                problem.append(&format!("generation {in_use} remains in use"));
                references.clone_from(&older.resolved_refs);
            }
            (Ok(()), Err(problem)) => {
                problem.append(&format!("generation {in_use} remains in use"));
            }
            (Ok(()), Ok(())) => return self,
        }
        self.instances = older.instances;
        self.in_use = Some(in_use);
        self
    }
}

/// Why not, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: Reason,
    /// Field path the message is about, such as `spec.service.port`; empty for the object.
    pub field: String,
    /// What is wrong and what to do, without the field.
    pub message: String,
    /// What else is wrong with the object.
    pub others: Vec<Problem>,
}

impl Problem {
    /// To the last of its messages.
    fn append(&mut self, more: &str) {
        let last = self.others.last_mut().map(|last| &mut last.message);
        let last = last.unwrap_or(&mut self.message);
        *last = format!("{last}; {more}");
    }

    /// This one and the others, each by itself.
    pub fn each(&self) -> impl Iterator<Item = ProblemText<'_>> {
        let all = std::iter::once(self).chain(&self.others);
        all.map(ProblemText)
    }

    /// Field and message of each.
    pub fn parts(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = std::iter::once(self).chain(&self.others);
        all.map(|one| (one.field.as_str(), one.message.as_str()))
    }

    pub(crate) fn new(reason: Reason, field: &str, message: impl Into<String>) -> Self {
        Self {
            reason,
            field: field.to_owned(),
            message: message.into(),
            others: Vec::new(),
        }
    }

    /// A value that the schema lets pass but that makes no sense.
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new(Reason::Invalid, field, message)
    }
}

/// Of names or problems in one message: statuses hold 32 KiB a message, and people less.
const MOST: usize = 10;

/// Names for a message.
pub(crate) fn some_of(names: &[String]) -> String {
    let shown = names.get(..MOST).unwrap_or(names).join(", ");
    match names.len().checked_sub(MOST) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

/// All in one line: `field: message; field: message`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, one) in self.each().enumerate().take(MOST) {
            let joint = if at == 0 { "" } else { "; " };
            write!(f, "{joint}{one}")?;
        }
        match (self.others.len() + 1).saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// One problem, without the others.
#[derive(Debug)]
pub struct ProblemText<'a>(&'a Problem);

impl fmt::Display for ProblemText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(problem) = self;
        if problem.field.is_empty() {
            f.write_str(&problem.message)
        } else {
            write!(f, "{}: {}", problem.field, problem.message)
        }
    }
}

/// Problems of one object while it is looked at, so that all of them are told in one go.
#[derive(Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    /// The value, or nothing once its problem is noted.
    pub(crate) fn take<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.0.push(problem)).ok()
    }

    /// `made`, which is there when nothing was noted.
    pub(crate) fn end<T>(self, made: Option<T>) -> Result<T, Problem> {
        let mut all = self.0.into_iter();
        match (all.next(), made) {
            (None, Some(made)) => Ok(made),
            (None, None) => Err(Problem::invalid("spec", "is invalid")),
            (Some(mut first), _) => {
                // One that was joined already stays flat.
                first.others.extend(all.flat_map(|mut problem| {
                    let others = std::mem::take(&mut problem.others);
                    std::iter::once(problem).chain(others)
                }));
                Err(first)
            }
        }
    }
}
