//! Whether the requests of a route can get anywhere: what its endpoints offer, by the table.

use std::collections::BTreeMap;

use crds::Reason;
use dataplane_protocol::{EndpointId, Resource, ResourceKey, RouteId, SetId, table::Route};

use super::Namespace;
use crate::{Kind, Problem, Verdict};

/// What some endpoints offer; each step holds more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Offer {
    Nothing,
    Endpoint,
    /// Or what may be one: what is not known now is not called absent.
    Address,
}

impl Namespace {
    pub(super) fn offer(&self, endpoint: &str) -> Offer {
        let id = EndpointId::from(endpoint);
        let built = self.built.get(endpoint);
        if built.is_some_and(|built| !built.instances.is_empty())
            || self.resources.is_keep(&ResourceKey::Endpoint(id.clone()))
            || self.resources.is_keep(&ResourceKey::Instances(id))
        {
            return Offer::Address;
        }
        match built {
            Some(built) if built.accepted => Offer::Endpoint,
            _ => Offer::Nothing,
        }
    }

    /// Writes into the verdict of each route whether it reaches anything.
    pub(super) fn judge_reach(&mut self) {
        let sets: BTreeMap<SetId, Offer> = (self.sets.iter())
            .map(|id| (id.clone(), self.offer_of_set(id)))
            .collect();
        let routes = self.routes.newest.keys().filter_map(|name| {
            let verdict = self.verdicts.get(&(Kind::OllaRoute, name.clone()))?;
            let key = ResourceKey::Route(RouteId::from(name.as_str()));
            let reachable = match self.resources.get(&key) {
                Some(Resource::Route(route)) => self.reaches(route, &sets),
                _ => Ok(()),
            };
            (reachable != verdict.reachable).then(|| Verdict {
                reachable,
                ..verdict.clone()
            })
        });
        let changed: Vec<_> = routes.collect();
        for verdict in changed {
            self.put_verdict(verdict);
        }
    }

    fn offer_of_set(&self, id: &SetId) -> Offer {
        match self.resources.get(&ResourceKey::Set(id.clone())) {
            Some(Resource::Set(set)) => self.best(set.members.iter()),
            _ => Offer::Nothing,
        }
    }

    fn best<'a>(&self, endpoints: impl Iterator<Item = &'a EndpointId>) -> Offer {
        let mut best = Offer::Nothing;
        for id in endpoints {
            best = best.max(self.offer(id.as_str()));
            if best == Offer::Address {
                break;
            }
        }
        best
    }

    fn reaches(&self, route: &Route, sets: &BTreeMap<SetId, Offer>) -> Result<(), Problem> {
        let selection = &route.endpoints;
        let set = selection.set.as_ref();
        let selected = set.and_then(|set| sets.get(set).copied());
        let named = selection.refs.iter().map(|named| &named.endpoint);
        let best = selected.unwrap_or(Offer::Nothing).max(self.best(named));
        let problem = |reason, message| Err(Problem::new(reason, "spec.endpoints", message));
        match best {
            Offer::Address => Ok(()),
            Offer::Endpoint => problem(
                Reason::NoReadyInstances,
                "no selected LlmEndpoint has a ready address",
            ),
            Offer::Nothing => problem(
                Reason::NoEndpoints,
                "no accepted LlmEndpoint of this namespace is selected",
            ),
        }
    }
}
