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
mod route;
mod url;

pub use facts::Facts;
pub use profile::profiles;
pub use verdict::{Kind, Problem, Verdict};

use std::sync::Arc;

use crds::{LlmEndpoint, OllaRoute};
use dataplane_protocol::RoutingTable;

/// The objects of one namespace, in any order, each name once a kind.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub endpoints: Vec<Arc<LlmEndpoint>>,
    pub routes: Vec<Arc<OllaRoute>>,
}

/// A table, and what became of each object.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    pub table: RoutingTable,
    /// One per object, sorted by kind, then name.
    pub verdicts: Vec<Verdict>,
}

/// Never fails: an object that makes no sense is left out of the table and says why in its
/// verdict; the others are not touched by it.
pub fn compile(namespace: &str, objects: &Objects, facts: &Facts) -> Compiled {
    let mut table = RoutingTable {
        namespace: namespace.to_owned(),
        ..RoutingTable::default()
    };
    let mut verdicts = Vec::new();
    let mut accepted = route::Accepted::new();
    let pods = instances::usable_pods(facts);
    for object in &objects.endpoints {
        let (verdict, part) = endpoint::compile(object, facts, &pods);
        if let Some(part) = part {
            accepted.insert(verdict.name.clone(), object.clone());
            add(&mut table, part);
        }
        verdicts.push(verdict);
    }
    let (route_verdicts, routes) = route::compile(&objects.routes, &accepted);
    table.routes = routes;
    verdicts.extend(route_verdicts);
    verdicts.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Compiled { table, verdicts }
}

fn add(table: &mut RoutingTable, part: endpoint::Part) {
    for profile in profile::with_detected(&part.profile) {
        table.profiles.insert(profile.name.clone(), profile);
    }
    let id = part.endpoint.id.clone();
    table.instances.insert(id.clone(), Arc::new(part.instances));
    table.endpoints.insert(id, Arc::new(part.endpoint));
}
