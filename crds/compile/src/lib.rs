//! What the objects of one namespace mean: [`Namespace`] turns them, with what the cluster says
//! beside them, into one routing table and one verdict per object, change by change; [`compile`]
//! does it once.
//!
//! ```text
//! Objects (LlmEndpoint, OllaRoute) ─┐
//! Facts (Services, pods, Secrets) ──┴─▶ Namespace ─▶ RoutingTable + Verdicts
//! ```
//!
//! Pure: the operator and the standalone data plane use the same code, and a verdict in a
//! status is computed by the very code that made the table.

pub mod facts;
pub mod namespace;
pub mod verdict;

mod conflicts;
mod credential;
mod dependencies;
mod duration;
mod endpoint;
mod form;
mod instances;
mod kind;
mod labels;
mod nearest;
mod profile;
mod route;
mod sets;
mod url;

pub use credential::not_a_secret_s;
pub use endpoint::problem as endpoint_problem;
pub use facts::Facts;
pub use form::{Form, Unreadable};
pub use kind::Kind;
pub use namespace::{Changes, Namespace};
pub use nearest::nearest;
pub use profile::{cost_of_probe, profiles};
pub use route::problem as route_problem;
pub use url::Url;
pub use verdict::{Problem, Verdict, Verdicts};

use std::sync::Arc;

use crds::{LlmEndpoint, OllaRoute};
use dataplane_protocol::{ResourceKey, RoutingTable};

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

/// Never fails: an object that is refused says why in its verdict, and nothing else is touched by
/// it. Inside a cluster data planes are told to keep what they hold of it.
pub fn compile(name: &str, objects: &Objects, facts: &Facts) -> Compiled {
    let mut namespace = Namespace::with(facts.clone());
    for object in &objects.endpoints {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        namespace.set_endpoint(name, Some(Form::Object(object.clone())));
    }
    for object in &objects.routes {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        namespace.set_route(name, Some(Form::Object(object.clone())));
    }
    namespace.update();
    let mut table = namespace.resources().to_table(name);
    for key in &table.keep {
        // Not known, which is not the same as none.
        if let ResourceKey::Instances(endpoint) = key {
            table.instances.remove(endpoint);
        }
    }
    let verdicts = namespace.verdicts().values().cloned().collect();
    Compiled { table, verdicts }
}
