//! What stands between `Begin` and `Commit` takes effect as one. In: those lines, and what is held.
//! Out: the set and the table that they make, if it is the one that the operator means. Pure.

use crate::{Resource, ResourceKey, Revision, RoutingTable, resource::ResourceSet};

/// A table on its way.
#[derive(Debug)]
pub struct Transaction {
    namespace: String,
    set: ResourceSet,
}

/// The lines made another table than the operator has: ask for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the changes up to revision {meant} gave revision {made}")]
pub struct Mismatch {
    pub meant: Revision,
    pub made: Revision,
}

impl Transaction {
    /// `full`: from nothing; else from what `held` has.
    pub fn begin(held: &ResourceSet, namespace: String, full: bool) -> Self {
        let set = if full {
            ResourceSet::default()
        } else {
            held.clone()
        };
        Self { namespace, set }
    }

    pub fn upsert(&mut self, resource: Resource) {
        self.set.upsert(resource);
    }

    pub fn keep(&mut self, key: &ResourceKey, held: &ResourceSet) {
        self.set.keep(key, held);
    }

    pub fn remove(&mut self, key: &ResourceKey) {
        self.set.remove(key);
    }

    pub fn commit(
        mut self,
        held: &ResourceSet,
        revision: Revision,
    ) -> Result<(ResourceSet, RoutingTable), Mismatch> {
        self.set.settle(held);
        let made = self.set.revision();
        if made != revision {
            let meant = revision;
            return Err(Mismatch { meant, made });
        }
        let table = self.set.to_table(&self.namespace);
        Ok((self.set, table))
    }
}
