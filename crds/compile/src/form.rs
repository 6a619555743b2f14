//! The forms of an object: the newest, and the one that was accepted last, which is used while the
//! newest is refused.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use kube::{Resource, core::object::HasSpec};

use crate::Kind;

/// An object of ours, or why it is none.
#[derive(Clone, Debug)]
pub enum Form<K> {
    /// Metadata trimmed to what compile reads; no status.
    Object(Arc<K>),
    Unreadable(Box<Unreadable>),
}

/// An object of which only the metadata could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    pub kind: Kind,
    pub name: String,
    pub uid: Option<String>,
    pub generation: i64,
    pub labels: BTreeMap<String, String>,
    pub message: String,
}

impl<K: Resource> Form<K> {
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::Object(object) => object.meta().uid.as_deref(),
            Self::Unreadable(object) => object.uid.as_deref(),
        }
    }

    /// `None` outside of a cluster.
    pub fn generation(&self) -> Option<i64> {
        match self {
            Self::Object(object) => object.meta().generation,
            Self::Unreadable(object) => Some(object.generation),
        }
    }

    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        match self {
            Self::Object(object) => object.meta().labels.as_ref(),
            Self::Unreadable(object) => Some(&object.labels),
        }
    }

    pub fn object(&self) -> Option<&Arc<K>> {
        match self {
            Self::Object(object) => Some(object),
            Self::Unreadable(_) => None,
        }
    }
}

/// Metadata and spec: the status is no part of it.
impl<K: Resource + HasSpec<Spec: PartialEq>> PartialEq for Form<K> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Object(one), Self::Object(other)) => {
                one.meta() == other.meta() && one.spec() == other.spec()
            }
            (Self::Unreadable(one), Self::Unreadable(other)) => one == other,
            _ => false,
        }
    }
}

/// One kind's objects by name.
#[derive(Debug)]
pub(crate) struct Forms<K> {
    pub(crate) newest: BTreeMap<String, Form<K>>,
    /// Of objects that are in `newest` and of the same uid, as far as this process has seen one.
    pub(crate) accepted: BTreeMap<String, Arc<K>>,
    /// Objects whose first form this process has seen, as long as no form of them was in the table:
    /// what data planes hold under such a name is not of this object.
    unused: BTreeSet<String>,
}

impl<K> Default for Forms<K> {
    fn default() -> Self {
        Self {
            newest: BTreeMap::new(),
            accepted: BTreeMap::new(),
            unused: BTreeSet::new(),
        }
    }
}

impl<K: Resource + HasSpec<Spec: PartialEq>> Forms<K> {
    /// `None` deletes it. What was there before, if that was something else.
    pub(crate) fn set(&mut self, name: &str, form: Option<Form<K>>) -> SetOutcome<Form<K>> {
        let Some(form) = form else {
            self.accepted.remove(name);
            self.unused.remove(name);
            let before = self.newest.remove(name);
            return before.map_or(SetOutcome::Unchanged, |before| {
                SetOutcome::Changed(Some(before))
            });
        };
        // Another object of that name.
        if let Entry::Occupied(accepted) = self.accepted.entry(name.to_owned())
            && accepted.get().meta().uid.as_deref() != form.uid()
        {
            accepted.remove();
        }
        let before = self.newest.get(name);
        let is_other = before.is_some_and(|before| before.uid() != form.uid());
        // Of one that was edited before it was seen here, another process may have accepted a form.
        if form.generation() == Some(1) {
            if is_other {
                self.unused.insert(name.to_owned());
            }
        } else if is_other || before.is_none() {
            self.unused.remove(name);
        }
        if self.newest.get(name) == Some(&form) {
            return SetOutcome::Unchanged;
        }
        SetOutcome::Changed(self.newest.insert(name.to_owned(), form))
    }

    /// The object that is [set](Self::set) next has been made since this process knows all others.
    pub(crate) fn note_created(&mut self, name: &str) {
        if !self.newest.contains_key(name) {
            self.unused.insert(name.to_owned());
        }
    }

    /// A form of it is in the table.
    pub(crate) fn note_used(&mut self, name: &str) {
        self.unused.remove(name);
    }

    /// Whether data planes may hold a form of it, also one that this process has never seen.
    pub(crate) fn may_be_in_use(&self, name: &str) -> bool {
        !self.unused.contains(name)
    }

    /// All forms of it of which one may be in the table.
    pub(crate) fn of(&self, name: &str) -> impl Iterator<Item = &Arc<K>> {
        let newest = self.newest.get(name).and_then(Form::object);
        newest.into_iter().chain(self.accepted.get(name))
    }
}

/// What became of a value that was set.
pub(crate) enum SetOutcome<T> {
    Unchanged,
    Changed(Option<T>),
}
