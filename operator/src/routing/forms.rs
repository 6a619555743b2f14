//! The forms of a namespace's objects: the newest, and the last one that was accepted, which is
//! used while the newest is refused. Pure.
//!
//! What was accepted is known from the verdicts of this process alone; after a restart, data planes
//! are told to keep what they hold of an object that is refused.

use std::{collections::BTreeMap, sync::Arc};

use compile::{Kind, Unreadable, Verdict};
use kube::Resource;

use super::item::Decoded;

/// One kind's objects by name.
#[derive(Debug)]
pub(super) struct Forms<K> {
    pub(super) newest: BTreeMap<String, Decoded<K>>,
    /// Of objects that are in `newest` and of the same uid.
    pub(super) accepted: BTreeMap<String, Arc<K>>,
}

impl<K> Default for Forms<K> {
    fn default() -> Self {
        Self {
            newest: BTreeMap::new(),
            accepted: BTreeMap::new(),
        }
    }
}

impl<K: Resource> Forms<K> {
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.accepted.remove(name);
        self.newest.remove(name).is_some()
    }

    /// Whether it is another object of that name than the one whose form was accepted.
    pub(super) fn forget_if_replaced(&mut self, name: &str) {
        let uid = self.newest.get(name).and_then(Decoded::uid);
        let known = self.accepted.get(name);
        if known.is_some_and(|known| known.meta().uid.as_deref() != uid) {
            self.accepted.remove(name);
        }
    }

    /// All forms of which one may be in the table.
    pub(super) fn each(&self) -> impl Iterator<Item = &K> {
        let newest = self.newest.values().filter_map(|form| match form {
            Decoded::Object(object) => Some(&**object),
            Decoded::Undecodable { .. } => None,
        });
        newest.chain(self.accepted.values().map(|object| &**object))
    }

    /// Newest forms that can be read.
    pub(super) fn readable(&self) -> Vec<Arc<K>> {
        let newest = self.newest.values().filter_map(|form| match form {
            Decoded::Object(object) => Some(object.clone()),
            Decoded::Undecodable { .. } => None,
        });
        newest.collect()
    }

    pub(super) fn unreadable(&self, kind: Kind) -> impl Iterator<Item = Unreadable> {
        self.newest
            .iter()
            .filter_map(move |(name, form)| match form {
                Decoded::Object(_) => None,
                Decoded::Undecodable {
                    uid,
                    generation,
                    labels,
                    message,
                } => Some(Unreadable {
                    kind,
                    name: name.clone(),
                    uid: uid.clone(),
                    generation: *generation,
                    labels: labels.clone(),
                    message: message.clone(),
                }),
            })
    }

    /// Remembers what was accepted.
    pub(super) fn learn(&mut self, verdicts: &[Verdict], kind: Kind) {
        let accepted = verdicts
            .iter()
            .filter(|verdict| verdict.kind == kind && verdict.accepted.is_ok());
        for verdict in accepted {
            if let Some(Decoded::Object(object)) = self.newest.get(&verdict.name) {
                self.accepted.insert(verdict.name.clone(), object.clone());
            }
        }
    }
}
