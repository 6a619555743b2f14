//! What turns the table in use into the next, and whether that one can be used: at a cost that
//! depends on what changed, not on what the table holds besides.

use std::collections::BTreeSet;

use crate::{EndpointId, Resource, ResourceKey, resource::ResourceSet};

/// Content, not messages: what a keep covers has not changed, and an instance whose endpoint is
/// not there is no part of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Of the table.
    pub namespace: String,
    /// Sorted by key.
    pub upserts: Vec<Resource>,
    /// Sorted.
    pub removes: Vec<ResourceKey>,
}

impl ResourceSet {
    /// The change from this table to `newer`, when the two differ under no other keys than these.
    pub(crate) fn change_to(
        &self,
        newer: &Self,
        namespace: String,
        mut keys: BTreeSet<ResourceKey>,
    ) -> Change {
        let appeared: Vec<EndpointId> = keys
            .iter()
            .filter_map(|key| match key {
                ResourceKey::Endpoint(id) => Some(id).filter(|_| self.get(key).is_none()),
                _ => None,
            })
            .cloned()
            .collect();
        for endpoint in &appeared {
            keys.extend(newer.instance_keys(endpoint));
        }
        let mut change = Change {
            namespace,
            ..Change::default()
        };
        for key in keys {
            match (self.in_use(&key), newer.in_use(&key)) {
                (before, Some(after)) if before != Some(after) => {
                    change.upserts.push(after.clone());
                }
                (Some(_), None) => change.removes.push(key),
                _ => {}
            }
        }
        change
    }

    fn in_use(&self, key: &ResourceKey) -> Option<&Resource> {
        if let ResourceKey::Instance(endpoint, _) = key {
            self.get(&ResourceKey::Endpoint(endpoint.clone()))?;
        }
        self.get(key)
    }
}
