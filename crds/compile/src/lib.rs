//! What the objects of one namespace mean: [`compile`] turns them, with what the cluster says
//! beside them, into one routing table and one verdict per object.
//!
//! ```text
//! Objects (LlmEndpoint, OllaRoute) ─┐
//! Facts (Services, pods, Secrets) ──┴─▶ compile ─▶ RoutingTable + Verdicts
//! ```
//!
//! Pure: the operator and the standalone data plane call the same function, and a verdict in a
//! status is computed by the very code that made the table.

pub mod facts;
pub mod manifest;
pub mod verdict;

mod credential;
mod duration;
mod endpoint;
mod instances;
mod labels;
mod nearest;
mod profile;
mod reach;
mod route;
mod sets;
mod url;

pub use facts::Facts;
pub use profile::profiles;
pub use verdict::{Kind, Problem, Verdict};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crds::{LlmEndpoint, OllaRoute};
use dataplane_protocol::{EndpointId, ResourceKey, RouteId, RoutingTable};

/// The objects of one namespace, in any order, each name once a kind.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub endpoints: Vec<Arc<LlmEndpoint>>,
    pub routes: Vec<Arc<OllaRoute>>,
    /// Those that do not have the shape of their kind.
    pub unreadable: Vec<Unreadable>,
    pub accepted: AcceptedForms,
}

/// An object of which only the metadata could be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    pub kind: Kind,
    pub name: String,
    pub uid: Option<String>,
    pub generation: i64,
    pub labels: BTreeMap<String, String>,
    pub message: String,
}

/// By name, the forms that were accepted last, as far as they are known. One is used where the
/// object's newest form is refused.
#[derive(Clone, Debug, Default)]
pub struct AcceptedForms {
    pub endpoints: BTreeMap<String, Arc<LlmEndpoint>>,
    pub routes: BTreeMap<String, Arc<OllaRoute>>,
}

/// A table, and what became of each object.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    pub table: RoutingTable,
    /// One per object, sorted by kind, then name.
    pub verdicts: Vec<Verdict>,
}

/// Never fails: an object that is refused says why in its verdict, and nothing else is touched by
/// it. In its place the form that was accepted last is used; where none is known, inside a
/// cluster, data planes are told to keep what they hold of it.
pub fn compile(namespace: &str, objects: &Objects, facts: &Facts) -> Compiled {
    let mut table = RoutingTable {
        namespace: namespace.to_owned(),
        ..RoutingTable::default()
    };
    let mut verdicts = Vec::new();
    let mut accepted = BTreeSet::new();
    let pods = instances::usable_pods(facts);
    let compile_one = |object: &LlmEndpoint| endpoint::compile(object, facts, &pods);
    let mut take = |newest: (Verdict, Option<endpoint::Part>)| {
        let (mut verdict, mut part) = newest;
        if part.is_none()
            && let Some(older) = objects.accepted.endpoints.get(&verdict.name)
            && older.metadata.generation != Some(verdict.generation)
        {
            let older = compile_one(older);
            part = older.1;
            verdict = verdict.with_in_use(&older.0);
        }
        match part {
            Some(part) => {
                accepted.insert(verdict.name.clone());
                add(&mut table, &verdict.name, part);
            }
            None if facts.in_cluster => keep_endpoint(&mut table, &verdict.name),
            None => {}
        }
        verdicts.push(verdict);
    };
    for object in &objects.endpoints {
        take(compile_one(object));
    }
    for unreadable in objects.unreadable_of(Kind::LlmEndpoint) {
        take((Verdict::unreadable(unreadable), None));
    }
    let mut routes = route::compile(objects, &accepted);
    table.sets = sets::Endpoints::of(objects).sets_of(&routes.made);
    table.routes = routes.made.into_iter().map(|made| made.route).collect();
    if facts.in_cluster {
        let unknown = routes.unknown.into_iter();
        table
            .keep
            .extend(unknown.map(|name| ResourceKey::Route(RouteId::from(name))));
    }
    reach::judge(&table, &mut routes.verdicts);
    verdicts.extend(routes.verdicts);
    verdicts.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Compiled { table, verdicts }
}

impl Objects {
    fn unreadable_of(&self, kind: Kind) -> impl Iterator<Item = &Unreadable> {
        self.unreadable.iter().filter(move |it| it.kind == kind)
    }
}

fn keep_endpoint(table: &mut RoutingTable, name: &str) {
    let id = EndpointId::from(name);
    table.keep.insert(ResourceKey::Endpoint(id.clone()));
    table.keep.insert(ResourceKey::Instances(id));
}

fn add(table: &mut RoutingTable, name: &str, part: endpoint::Part) {
    for profile in profile::with_detected(&part.profile) {
        table.profiles.insert(profile.name.clone(), profile);
    }
    let id = EndpointId::from(name);
    match part.instances {
        Some(instances) => {
            table.instances.insert(id.clone(), Arc::new(instances));
        }
        None => {
            table.keep.insert(ResourceKey::Instances(id.clone()));
        }
    }
    match part.endpoint {
        Some(endpoint) => {
            table.endpoints.insert(id, Arc::new(endpoint));
        }
        None => {
            table.keep.insert(ResourceKey::Endpoint(id));
        }
    }
}
