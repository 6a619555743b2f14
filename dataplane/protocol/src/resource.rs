//! A table as resources that mirror the user's objects, so that one changed object is one
//! small message. Children name their parents: an instance belongs to an endpoint.
//!
//! What the operator does not know at this moment is a *keep*: the holder leaves the resource
//! under that key as it is, and one that holds none goes without.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    EndpointId, InstanceId, Revision, RouteId, RoutingTable, SetId,
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

/// What a resource is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKey {
    Profile(String),
    Endpoint(EndpointId),
    Set(SetId),
    /// All instances of an endpoint: only to keep them.
    Instances(EndpointId),
    Instance(EndpointId, InstanceId),
    Route(RouteId),
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

/// A table in pieces, each with the hash of its JSON text: what two ends compare.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    items: BTreeMap<ResourceKey, Item>,
    /// Sum of the items' hashes.
    revision: Revision,
    /// What is held under keeps. In use, and no part of the revision.
    kept: BTreeMap<ResourceKey, Resource>,
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
        Self::after(&Self::default(), table)
    }

    /// As [`of`](Self::of), and what is as it was in `before` is shared with it: neither kept
    /// twice nor hashed again.
    pub fn after(before: &Self, table: &RoutingTable) -> Self {
        let mut set = Self::default();
        let mut old = before.items.iter().peekable();
        let items = resources_of(table).into_iter().map(|(key, resource)| {
            while old.next_if(|(old, _)| **old < key).is_some() {}
            let old = old.next_if(|(old, _)| **old == key);
            let item = match (resource, old) {
                (None, _) => Item::Keep,
                (Some(resource), Some((_, same @ Item::Known { resource: old, .. })))
                    if *old == resource =>
                {
                    same.clone()
                }
                (Some(resource), _) => Item::Known {
                    hash: hash_of(&resource),
                    resource,
                },
            };
            let sum = set.revision.0.wrapping_add(item_hash(&key, &item));
            set.revision.0 = sum;
            (key, item)
        });
        set.items = items.collect();
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

    pub fn remove(&mut self, key: &ResourceKey) {
        if let Some(item) = self.items.remove(key) {
            self.revision.0 = self.revision.0.wrapping_sub(item_hash(key, &item));
        }
    }

    /// What `held` has under `key` stays in use.
    pub fn keep(&mut self, key: &ResourceKey, held: &Self) {
        let keys: Vec<&ResourceKey> = match key {
            ResourceKey::Instances(endpoint) => {
                let first = ResourceKey::Instance(endpoint.clone(), InstanceId::from(""));
                let known = held.items.range(first.clone()..).map(|(key, _)| key);
                let kept = held.kept.range(first..).map(|(key, _)| key);
                let of = |key: &&ResourceKey| matches!(key, ResourceKey::Instance(of, _) if of == endpoint);
                known.take_while(of).chain(kept.take_while(of)).collect()
            }
            _ => vec![key],
        };
        for of in keys {
            if let Some(resource) = held.get(of) {
                self.remove(of);
                self.kept.insert(of.clone(), resource.clone());
            }
        }
        self.insert(key.clone(), Item::Keep);
    }

    /// Ends a transaction that began with what `held` has: lets go of what is not to be kept any
    /// more, and keeps the profiles and sets that what is kept needs.
    pub fn settle(&mut self, held: &Self) {
        let Self { items, kept, .. } = self;
        let is_keep = |key: &ResourceKey| matches!(items.get(key), Some(Item::Keep));
        kept.retain(|key, _| match key {
            ResourceKey::Instance(endpoint, _) => {
                !items.contains_key(key) && is_keep(&ResourceKey::Instances(endpoint.clone()))
            }
            _ => is_keep(key),
        });
        let needed: BTreeSet<ResourceKey> = kept
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
            if !items.contains_key(&key)
                && let Some(resource) = held.get(&key)
            {
                kept.insert(key, resource.clone());
            }
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
            match item {
                Item::Known { hash, resource } => {
                    let same = matches!(old, Some(Item::Known { hash: old, .. }) if old == hash);
                    if !same {
                        difference.upserts.push(resource.clone());
                    }
                }
                Item::Keep => {
                    if !matches!(old, Some(Item::Keep)) {
                        difference.keeps.push(key.clone());
                    }
                }
            }
        }
        for (gone, _) in old {
            difference.remove(gone, newer);
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
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn known(&self) -> impl Iterator<Item = &Resource> {
        self.items.values().filter_map(|item| match item {
            Item::Known { resource, .. } => Some(resource),
            Item::Keep => None,
        })
    }

    fn get(&self, key: &ResourceKey) -> Option<&Resource> {
        match self.items.get(key) {
            Some(Item::Known { resource, .. }) => Some(resource),
            _ => self.kept.get(key),
        }
    }

    fn is_keep(&self, key: &ResourceKey) -> bool {
        matches!(self.items.get(key), Some(Item::Keep))
    }

    fn insert(&mut self, key: ResourceKey, item: Item) {
        self.remove(&key);
        self.revision.0 = self.revision.0.wrapping_add(item_hash(&key, &item));
        self.items.insert(key, item);
    }
}

impl Difference {
    /// What a keep covers is not gone.
    fn remove(&mut self, gone: &ResourceKey, newer: &ResourceSet) {
        let covered = matches!(gone, ResourceKey::Instance(endpoint, _)
            if newer.is_keep(&ResourceKey::Instances(endpoint.clone())));
        if !covered {
            self.removes.push(gone.clone());
        }
    }
}

/// Sorted by key; what is to be kept has no resource.
fn resources_of(table: &RoutingTable) -> Vec<(ResourceKey, Option<Resource>)> {
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
    let known = profiles
        .chain(endpoints)
        .chain(sets)
        .chain(instances)
        .chain(routes)
        .map(|resource| (resource.key(), Some(resource)));
    let keeps = table.keep.iter().map(|key| (key.clone(), None));
    let mut all: Vec<_> = known.chain(keeps).collect();
    // Mostly in order already. Stable: a keep comes after what is known under its key, and counts.
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    all
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
