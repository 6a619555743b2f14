//! Whether the requests of a route can get anywhere. In: the table. Out: for each route, why not.

use std::collections::BTreeMap;

use crds::Reason;
use dataplane_protocol::{EndpointId, ResourceKey, RoutingTable, SetId, table::Route};

use crate::{Kind, Problem, Verdict};

/// Writes into the verdict of each route of the table whether it reaches anything.
pub(crate) fn judge(table: &RoutingTable, verdicts: &mut [Verdict]) {
    let sets: BTreeMap<&SetId, Found> = (table.sets.iter())
        .map(|(id, set)| (id, found(table, set.members.iter())))
        .collect();
    let routes = table.routes.iter();
    let routes: BTreeMap<&str, &Route> = routes
        .map(|route| (route.id.as_str(), route.as_ref()))
        .collect();
    let ours = verdicts.iter_mut().filter(|it| it.kind == Kind::OllaRoute);
    for verdict in ours {
        if let Some(route) = routes.get(verdict.name.as_str()) {
            verdict.reachable = reaches(table, route, &sets);
        }
    }
}

/// What some endpoints of a table offer; each step holds more than the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    Endpoint,
    /// Or what may be one: what is not known now is not called absent.
    Address,
}

fn found<'a>(table: &RoutingTable, endpoints: impl Iterator<Item = &'a EndpointId>) -> Found {
    let mut best = Found::Nothing;
    for id in endpoints {
        let kept = table.keep.contains(&ResourceKey::Endpoint(id.clone()))
            || table.keep.contains(&ResourceKey::Instances(id.clone()));
        let instances = table.instances.get(id);
        if kept || instances.is_some_and(|list| !list.is_empty()) {
            return Found::Address;
        }
        if table.endpoints.contains_key(id) {
            best = Found::Endpoint;
        }
    }
    best
}

fn reaches(
    table: &RoutingTable,
    route: &Route,
    sets: &BTreeMap<&SetId, Found>,
) -> Result<(), Problem> {
    let selection = &route.endpoints;
    let selected = selection
        .set
        .as_ref()
        .and_then(|set| sets.get(set).copied());
    let named = selection.refs.iter().map(|named| &named.endpoint);
    let best = selected.unwrap_or(Found::Nothing).max(found(table, named));
    let problem = |reason, message| Err(Problem::new(reason, "spec.endpoints", message));
    match best {
        Found::Address => Ok(()),
        Found::Endpoint => problem(
            Reason::NoReadyInstances,
            "no selected LlmEndpoint has a ready address",
        ),
        Found::Nothing => problem(
            Reason::NoEndpoints,
            "no accepted LlmEndpoint of this namespace is selected",
        ),
    }
}
