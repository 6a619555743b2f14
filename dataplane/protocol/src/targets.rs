//! Which endpoints a route uses, and in which tiers.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    EndpointId, RoutingTable,
    table::{Endpoint, EndpointSet, PriorityOrder, Route, Selection},
};

/// An endpoint of a route, with the numbers that count there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub endpoint: EndpointId,
    /// 0 is used first; the direction of the user's numbers is already resolved.
    pub tier: u32,
    /// The user's number, for people.
    pub priority: u32,
    /// Share inside the tier; 0 = none.
    pub weight: u32,
}

impl RoutingTable {
    /// The endpoints of `route` that are in this table, sorted by tier, then name. Priorities
    /// become tiers by rank, so that only their order counts.
    pub fn targets(&self, route: &Route) -> Vec<Target> {
        let selection = &route.endpoints;
        let set = selection.set.as_ref().and_then(|id| self.sets.get(id));
        let endpoint = |id: &EndpointId| self.endpoints.get(id).map(AsRef::as_ref);
        selection.targets(set.map(AsRef::as_ref), endpoint)
    }
}

impl Selection {
    /// The same for who keeps a table in another form: with the selection's set, and what says
    /// which endpoints there are.
    pub fn targets<'t>(
        &self,
        set: Option<&EndpointSet>,
        endpoint: impl Fn(&EndpointId) -> Option<&'t Endpoint>,
    ) -> Vec<Target> {
        let mut chosen: BTreeMap<&EndpointId, (u32, u32)> = BTreeMap::new();
        for member in set.iter().flat_map(|set| &set.members) {
            if let Some(endpoint) = endpoint(member) {
                chosen.insert(&endpoint.id, (endpoint.priority, endpoint.weight));
            }
        }
        for named in &self.refs {
            if let Some(endpoint) = endpoint(&named.endpoint) {
                let priority = named.priority.unwrap_or(endpoint.priority);
                let weight = named.weight.unwrap_or(endpoint.weight);
                chosen.insert(&endpoint.id, (priority, weight));
            }
        }
        let distinct: BTreeSet<u32> = chosen.values().map(|(priority, _)| *priority).collect();
        let tier_of = |priority: u32| match self.priority_order {
            PriorityOrder::LowestFirst => distinct.range(..priority).count() as u32,
            PriorityOrder::HighestFirst => distinct.range(priority..).skip(1).count() as u32,
        };
        let mut targets: Vec<Target> = chosen
            .into_iter()
            .map(|(endpoint, (priority, weight))| Target {
                endpoint: endpoint.clone(),
                tier: tier_of(priority),
                priority,
                weight,
            })
            .collect();
        // Stable: inside a tier they are sorted by name already.
        targets.sort_by_key(|target| target.tier);
        targets
    }
}
