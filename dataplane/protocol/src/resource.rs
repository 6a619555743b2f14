//! A table as resources that mirror the user's objects, so that one changed object is one
//! small message. Children name their parents: an instance belongs to an endpoint.
//!
//! What the operator does not know at this moment is a *keep*: the holder leaves the resource
//! under that key as it is, and one that holds none goes without.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    EndpointId, InstanceId, ResourceKey, Revision, RoutingTable,
    table::{Endpoint, EndpointSet, Instance, Profile, Route},
};

/// One piece of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    Profile(Arc<Profile>),
    Endpoint(Arc<Endpoint>),
    Set(Arc<EndpointSet>),
    Instance {
        endpoint: EndpointId,
        instance: Arc<Instance>,
    },
    Route(Arc<Route>),
}

impl Resource {
    pub fn key(&self) -> ResourceKey {
        match self {
            Self::Profile(profile) => ResourceKey::Profile(profile.name.clone()),
            Self::Endpoint(endpoint) => ResourceKey::Endpoint(endpoint.id.clone()),
            Self::Set(set) => ResourceKey::Set(set.id.clone()),
            Self::Instance { endpoint, instance } => {
                ResourceKey::Instance(endpoint.clone(), instance.id.clone())
            }
            Self::Route(route) => ResourceKey::Route(route.id.clone()),
        }
    }
}

impl RoutingTable {
    /// What tells this table's content from any other's.
    pub fn revision(&self) -> Revision {
        ResourceSet::of(self).revision()
    }
}

/// A table in pieces, each with the hash of its JSON text: what two ends compare. A clone costs
/// nothing and shares all that stays the same.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    items: RedBlackTreeMapSync<ResourceKey, Item>,
    /// Sum of the items' hashes.
    revision: Revision,
    /// What is held under keeps. In use, and no part of the revision.
    kept: RedBlackTreeMapSync<ResourceKey, Resource>,
}

#[derive(Clone, Debug)]
enum Item {
    Known { hash: u128, resource: Resource },
    Keep,
}

/// What turns one set into another, in the order in which it is to be applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub upserts: Vec<Resource>,
    pub keeps: Vec<ResourceKey>,
    pub removes: Vec<ResourceKey>,
}

impl ResourceSet {
    pub fn of(table: &RoutingTable) -> Self {
        let mut set = Self::default();
        for resource in resources_of(table) {
            set.upsert(resource);
        }
        for key in &table.keep {
            set.set_keep(key.clone());
        }
        set
    }

    /// What a data plane holds that uses `table`: what the table has under its keeps is kept.
    pub fn held(table: &RoutingTable) -> Self {
        let plain = Self::of(&RoutingTable {
            keep: BTreeSet::new(),
            ..table.clone()
        });
        let mut held = plain.clone();
        for key in &table.keep {
            held.keep(key, &plain);
        }
        held.settle(&plain);
        held
    }

    /// The table these pieces make for `namespace`.
    pub fn to_table(&self, namespace: &str) -> RoutingTable {
        let mut table = RoutingTable {
            namespace: namespace.to_owned(),
            keep: self.keeps().cloned().collect(),
            ..RoutingTable::default()
        };
        let mut instances: BTreeMap<EndpointId, Vec<Instance>> = BTreeMap::new();
        for resource in self.known().chain(self.kept.values()) {
            match resource {
                Resource::Profile(profile) => {
                    table.profiles.insert(profile.name.clone(), profile.clone());
                }
                Resource::Endpoint(endpoint) => {
                    table
                        .endpoints
                        .insert(endpoint.id.clone(), endpoint.clone());
                }
                Resource::Set(set) => {
                    table.sets.insert(set.id.clone(), set.clone());
                }
                Resource::Instance { endpoint, instance } => {
                    let list = instances.entry(endpoint.clone()).or_default();
                    list.push((**instance).clone());
                }
                Resource::Route(route) => table.routes.push(route.clone()),
            }
        }
        for endpoint in table.endpoints.keys() {
            let mut list = instances.remove(endpoint).unwrap_or_default();
            list.sort_by(|a, b| a.id.cmp(&b.id));
            table.instances.insert(endpoint.clone(), Arc::new(list));
        }
        table.routes.sort_by_cached_key(|route| route.precedence());
        table
    }

    pub fn upsert(&mut self, resource: Resource) {
        let (key, hash) = (resource.key(), hash_of(&resource));
        self.insert(key, Item::Known { hash, resource });
    }

    /// Whether it was there.
    pub fn remove(&mut self, key: &ResourceKey) -> bool {
        if let Some(item) = self.items.get(key) {
            self.revision.0 = self.revision.0.wrapping_sub(item_hash(key, item));
        }
        self.items.remove_mut(key)
    }

    /// What `held` has under `key` stays in use.
    pub fn keep(&mut self, key: &ResourceKey, held: &Self) {
        let keys = match key {
            ResourceKey::Instances(endpoint) => held.instance_keys(endpoint),
            _ => vec![key.clone()],
        };
        for of in keys {
            if let Some(resource) = held.get(&of) {
                self.remove(&of);
                self.kept.insert_mut(of, resource.clone());
            }
        }
        self.set_keep(key.clone());
    }

    /// What is under `key` is not known now: its holder is to leave it as it is.
    pub fn set_keep(&mut self, key: ResourceKey) {
        self.insert(key, Item::Keep);
    }

    /// Ends a transaction that began with what `held` has: lets go of what is not to be kept any
    /// more, and keeps the profiles and sets that what is kept needs.
    pub fn settle(&mut self, held: &Self) {
        if self.kept.is_empty() {
            return;
        }
        let unused: Vec<ResourceKey> = (self.kept.keys().filter(|key| !self.keeps_under(key)))
            .cloned()
            .collect();
        for key in &unused {
            self.kept.remove_mut(key);
        }
        let needed: BTreeSet<ResourceKey> = self
            .kept
            .values()
            .filter_map(|resource| match resource {
                Resource::Endpoint(endpoint) => {
                    Some(ResourceKey::Profile(endpoint.profile.clone()))
                }
                Resource::Route(route) => Some(ResourceKey::Set(route.endpoints.set.clone()?)),
                _ => None,
            })
            .collect();
        for key in needed {
            if !self.items.contains_key(&key)
                && let Some(resource) = held.get(&key)
            {
                self.kept.insert_mut(key, resource.clone());
            }
        }
    }

    /// Whether what is kept under `key` is to be kept on.
    fn keeps_under(&self, key: &ResourceKey) -> bool {
        match key {
            ResourceKey::Instance(endpoint, _) => {
                !self.items.contains_key(key)
                    && self.is_keep(&ResourceKey::Instances(endpoint.clone()))
            }
            _ => self.is_keep(key),
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What a holder of `self` must be told to hold `newer`.
    pub fn difference(&self, newer: &Self) -> Difference {
        let mut difference = Difference::default();
        let mut old = self.items.iter().peekable();
        for (key, item) in &newer.items {
            while let Some((gone, _)) = old.next_if(|(old, _)| *old < key) {
                difference.remove(gone, newer);
            }
            let old = old.next_if(|(old, _)| *old == key).map(|(_, item)| item);
            difference.compare(key, old, Some(item), newer);
        }
        for (gone, item) in old {
            difference.compare(gone, Some(item), None, newer);
        }
        difference
    }

    /// The same, when the two differ under no other keys than these.
    pub fn difference_at<'a>(
        &self,
        newer: &Self,
        keys: impl IntoIterator<Item = &'a ResourceKey>,
    ) -> Difference {
        let mut difference = Difference::default();
        for key in keys {
            difference.compare(key, self.items.get(key), newer.items.get(key), newer);
        }
        difference
    }

    /// Keys that are to be kept.
    pub fn keeps(&self) -> impl Iterator<Item = &ResourceKey> {
        self.items
            .iter()
            .filter_map(|(key, item)| matches!(item, Item::Keep).then_some(key))
    }

    pub fn len(&self) -> usize {
        self.items.size()
    }

    /// Whether the table has this instance.
    pub fn has_instance(&self, endpoint: &EndpointId, instance: &InstanceId) -> bool {
        let key = ResourceKey::Instance(endpoint.clone(), instance.clone());
        self.get(&key).is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Of all instances of `endpoint`, known or kept.
    pub(crate) fn instance_keys(&self, endpoint: &EndpointId) -> Vec<ResourceKey> {
        let first = ResourceKey::Instance(endpoint.clone(), InstanceId::from(""));
        let known = self.items.range(first.clone()..).map(|(key, _)| key);
        let kept = self.kept.range(first..).map(|(key, _)| key);
        let of = |key: &&ResourceKey| matches!(key, ResourceKey::Instance(of, _) if of == endpoint);
        let both = known.take_while(of).chain(kept.take_while(of));
        both.cloned().collect()
    }

    pub(crate) fn kept_keys(&self) -> impl Iterator<Item = &ResourceKey> {
        self.kept.keys()
    }

    /// All endpoints, known or kept.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let all = self.known().chain(self.kept.values());
        all.filter_map(|resource| match resource {
            Resource::Endpoint(endpoint) => Some(endpoint),
            _ => None,
        })
    }

    fn known(&self) -> impl Iterator<Item = &Resource> {
        self.items.values().filter_map(|item| match item {
            Item::Known { resource, .. } => Some(resource),
            Item::Keep => None,
        })
    }

    pub fn get(&self, key: &ResourceKey) -> Option<&Resource> {
        match self.items.get(key) {
            Some(Item::Known { resource, .. }) => Some(resource),
            _ => self.kept.get(key),
        }
    }

    pub fn is_keep(&self, key: &ResourceKey) -> bool {
        matches!(self.items.get(key), Some(Item::Keep))
    }

    fn insert(&mut self, key: ResourceKey, item: Item) {
        self.remove(&key);
        self.revision.0 = self.revision.0.wrapping_add(item_hash(&key, &item));
        self.items.insert_mut(key, item);
    }
}

impl Difference {
    fn compare(
        &mut self,
        key: &ResourceKey,
        old: Option<&Item>,
        new: Option<&Item>,
        newer: &ResourceSet,
    ) {
        match (old, new) {
            (Some(Item::Known { hash: old, .. }), Some(Item::Known { hash: new, .. }))
                if old == new => {}
            (_, Some(Item::Known { resource, .. })) => self.upserts.push(resource.clone()),
            (Some(Item::Keep), Some(Item::Keep)) | (None, None) => {}
            (_, Some(Item::Keep)) => self.keeps.push(key.clone()),
            (Some(_), None) => self.remove(key, newer),
        }
    }

    /// What a keep covers is not gone.
    fn remove(&mut self, gone: &ResourceKey, newer: &ResourceSet) {
        let covered = matches!(gone, ResourceKey::Instance(endpoint, _)
            if newer.is_keep(&ResourceKey::Instances(endpoint.clone())));
        if !covered {
            self.removes.push(gone.clone());
        }
    }
}

fn resources_of(table: &RoutingTable) -> impl Iterator<Item = Resource> {
    let profiles = table.profiles.values().cloned().map(Resource::Profile);
    let endpoints = table.endpoints.values().cloned().map(Resource::Endpoint);
    let sets = table.sets.values().cloned().map(Resource::Set);
    let instances = table.instances.iter().flat_map(|(endpoint, list)| {
        list.iter().map(|instance| Resource::Instance {
            endpoint: endpoint.clone(),
            instance: Arc::new(instance.clone()),
        })
    });
    let routes = table.routes.iter().cloned().map(Resource::Route);
    profiles
        .chain(endpoints)
        .chain(sets)
        .chain(instances)
        .chain(routes)
}

fn hash_of(value: &impl Serialize) -> u128 {
    // A table is made of maps with string keys and plain values: its JSON cannot fail, and were
    // it to, an empty text would only make the revisions differ, which forces a resend.
    xxh3_128(&serde_json::to_vec(value).unwrap_or_default())
}

/// A resource's text names its key, so only a keep needs it.
fn item_hash(key: &ResourceKey, item: &Item) -> u128 {
    match item {
        Item::Known { hash, .. } => *hash,
        Item::Keep => hash_of(&("keep", key)),
    }
}

#[cfg(test)]
mod tests;
