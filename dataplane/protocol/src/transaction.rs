//! What stands between `Begin` and `Commit` takes effect as one. In: those lines, and what is held.
//! Out: the set that they make, if it is the one that the operator means, and how the table in use
//! becomes the one of that set. Pure.

use std::collections::BTreeSet;

use crate::{Resource, ResourceKey, Revision, RoutingTable, change::Change, resource::ResourceSet};

/// A table on its way.
#[derive(Debug)]
pub struct Transaction {
    namespace: String,
    set: ResourceSet,
    /// All keys under which the set may differ from what is held; absent: any.
    touched: Option<BTreeSet<ResourceKey>>,
}

/// The lines made another table than the operator has: ask for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the changes up to revision {meant} gave revision {made}")]
pub struct Mismatch {
    pub meant: Revision,
    pub made: Revision,
}

/// A transaction that came whole.
#[derive(Debug)]
pub struct Commit {
    pub namespace: String,
    pub set: ResourceSet,
    pub update: Update,
}

/// How the table in use becomes the one that was committed.
#[derive(Debug)]
pub enum Update {
    Whole(RoutingTable),
    Change(Change),
}

impl Transaction {
    /// `full`: from nothing; else from what `held` has.
    pub fn begin(held: &ResourceSet, namespace: String, full: bool) -> Self {
        let (set, touched) = if full {
            (ResourceSet::default(), None)
        } else {
            (held.clone(), Some(BTreeSet::new()))
        };
        Self {
            namespace,
            set,
            touched,
        }
    }

    pub fn upsert(&mut self, resource: Resource) {
        self.touch(resource.key());
        self.set.upsert(resource);
    }

    pub fn keep(&mut self, key: &ResourceKey, held: &ResourceSet) {
        self.touch(key.clone());
        self.set.keep(key, held);
    }

    pub fn remove(&mut self, key: &ResourceKey) {
        self.touch(key.clone());
        self.set.remove(key);
    }

    fn touch(&mut self, key: ResourceKey) {
        if let Some(touched) = &mut self.touched {
            touched.insert(key);
        }
    }

    pub fn commit(mut self, held: &ResourceSet, revision: Revision) -> Result<Commit, Mismatch> {
        self.set.settle(held);
        let made = self.set.revision();
        if made != revision {
            let meant = revision;
            return Err(Mismatch { meant, made });
        }
        let Self {
            namespace,
            set,
            touched,
        } = self;
        let update = match touched {
            None => Update::Whole(set.to_table(&namespace)),
            Some(mut keys) => {
                // What was kept may be let go of without a word of its own.
                keys.extend(held.kept_keys().chain(set.kept_keys()).cloned());
                Update::Change(held.change_to(&set, namespace.clone(), keys))
            }
        };
        Ok(Commit {
            namespace,
            set,
            update,
        })
    }
}

impl Commit {
    /// Says what keeps it from being used, when what is held can be.
    pub fn check(&self) -> Result<(), String> {
        match &self.update {
            Update::Whole(table) => table.check(),
            Update::Change(change) => self.set.check(change),
        }
    }
}
