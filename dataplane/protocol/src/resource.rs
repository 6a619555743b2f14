//! A table as resources that mirror the user's objects, so that one changed object is one
//! small message. Children name their parents: instances belong to an endpoint.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{
    EndpointId, RouteId, RoutingTable,
    table::{Endpoint, Instance, Profile, Route},
};

/// One piece of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    Profile(Arc<Profile>),
    Endpoint(Arc<Endpoint>),
    Instances {
        endpoint: EndpointId,
        list: Arc<Vec<Instance>>,
    },
    /// `rank` is the place in the order of precedence.
    Route {
        rank: u32,
        route: Arc<Route>,
    },
}

/// What a resource is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKey {
    Profile(String),
    Endpoint(EndpointId),
    Instances(EndpointId),
    Route(RouteId),
}

impl Resource {
    pub fn key(&self) -> ResourceKey {
        match self {
            Self::Profile(profile) => ResourceKey::Profile(profile.name.clone()),
            Self::Endpoint(endpoint) => ResourceKey::Endpoint(endpoint.id.clone()),
            Self::Instances { endpoint, .. } => ResourceKey::Instances(endpoint.clone()),
            Self::Route { route, .. } => ResourceKey::Route(route.id.clone()),
        }
    }
}

/// Identity of a table's content. Both ends compute it from the same JSON text, so it shows a
/// resumed or patched table that is not what the operator meant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TableHash(u64);

impl fmt::Debug for TableHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for TableHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A table in pieces, each with the hash of its JSON text: what two ends compare.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    items: BTreeMap<ResourceKey, (u64, Resource)>,
}

/// What turns one set into another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub upserts: Vec<Resource>,
    pub removes: Vec<ResourceKey>,
}

impl ResourceSet {
    pub fn of(table: &RoutingTable) -> Self {
        let mut set = Self::default();
        for profile in table.profiles.values() {
            set.upsert(Resource::Profile(profile.clone()));
        }
        for endpoint in table.endpoints.values() {
            set.upsert(Resource::Endpoint(endpoint.clone()));
        }
        for (endpoint, list) in &table.instances {
            set.upsert(Resource::Instances {
                endpoint: endpoint.clone(),
                list: list.clone(),
            });
        }
        for (rank, route) in table.routes.iter().enumerate() {
            set.upsert(Resource::Route {
                rank: rank as u32,
                route: route.clone(),
            });
        }
        set
    }

    /// The table these pieces make for `namespace`.
    pub fn to_table(&self, namespace: &str) -> RoutingTable {
        let mut table = RoutingTable {
            namespace: namespace.to_owned(),
            ..RoutingTable::default()
        };
        let mut routes = Vec::new();
        for (_, resource) in self.items.values() {
            match resource {
                Resource::Profile(profile) => {
                    table.profiles.insert(profile.name.clone(), profile.clone());
                }
                Resource::Endpoint(endpoint) => {
                    table
                        .endpoints
                        .insert(endpoint.id.clone(), endpoint.clone());
                }
                Resource::Instances { endpoint, list } => {
                    table.instances.insert(endpoint.clone(), list.clone());
                }
                Resource::Route { rank, route } => routes.push((*rank, route.clone())),
            }
        }
        routes.sort_by_key(|(rank, _)| *rank);
        table.routes = routes.into_iter().map(|(_, route)| route).collect();
        table
    }

    pub fn upsert(&mut self, resource: Resource) {
        // A table is made of maps with string keys and plain values: its JSON cannot fail, and
        // were it to, an empty text would only make the hashes differ, which forces a resend.
        let text = serde_json::to_vec(&resource).unwrap_or_default();
        self.items
            .insert(resource.key(), (xxh3_64(&text), resource));
    }

    pub fn remove(&mut self, key: &ResourceKey) {
        self.items.remove(key);
    }

    pub fn hash(&self) -> TableHash {
        let mut hasher = Xxh3::new();
        for (key, (hash, _)) in &self.items {
            hasher.update(&serde_json::to_vec(key).unwrap_or_default());
            hasher.update(&hash.to_le_bytes());
        }
        TableHash(hasher.digest())
    }

    /// What a holder of `self` must be told to hold `newer`.
    pub fn difference(&self, newer: &Self) -> Difference {
        let upserts = newer
            .items
            .iter()
            .filter(|(key, (hash, _))| self.items.get(key).is_none_or(|(old, _)| old != hash))
            .map(|(_, (_, resource))| resource.clone())
            .collect();
        let removes = self
            .items
            .keys()
            .filter(|key| !newer.items.contains_key(*key))
            .cloned()
            .collect();
        Difference { upserts, removes }
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Scheme;

    fn table(ports: &[u16]) -> RoutingTable {
        let mut table = RoutingTable {
            namespace: "a".into(),
            ..RoutingTable::default()
        };
        let list = ports
            .iter()
            .map(|port| Instance {
                id: format!("e/{port}").into(),
                scheme: Scheme::Http,
                host: "10.0.0.1".into(),
                port: *port,
            })
            .collect();
        table.instances.insert("e".into(), Arc::new(list));
        table.instances.insert("f".into(), Arc::new(vec![]));
        table
    }

    #[test]
    fn a_table_survives_being_cut_into_resources() {
        let table = table(&[1, 2]);
        assert_eq!(ResourceSet::of(&table).to_table("a"), table);
    }

    #[test]
    fn one_pod_flip_is_one_small_resource() {
        let (old, new) = (
            ResourceSet::of(&table(&[1, 2])),
            ResourceSet::of(&table(&[1])),
        );
        let difference = old.difference(&new);
        assert_eq!(difference.upserts.len(), 1);
        assert!(difference.removes.is_empty());
        assert_ne!(old.hash(), new.hash());
    }

    #[test]
    fn applying_a_difference_gives_the_newer_hash() {
        let mut old = ResourceSet::of(&table(&[1, 2]));
        let mut newer = table(&[3]);
        newer.instances.remove("f");
        let newer = ResourceSet::of(&newer);
        let difference = old.difference(&newer);
        difference
            .upserts
            .into_iter()
            .for_each(|resource| old.upsert(resource));
        difference.removes.iter().for_each(|key| old.remove(key));
        assert_eq!(old.hash(), newer.hash());
    }
}
