//! Whether the requests of routes can get anywhere, as far as what each endpoint offers has changed.

use std::collections::{BTreeMap, BTreeSet};

use crds::Reason;
use dataplane_protocol::{EndpointId, Resource, ResourceKey, SetId, table::Route};

use super::Namespace;
use crate::{Kind, Problem, Verdict};

/// What an endpoint offers, or the best of some; each step holds more than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Offer {
    #[default]
    Nothing,
    Endpoint,
    /// Or what may be one: what is not known now is not called absent.
    Address,
}

/// What sets offer, and endpoints whose offer has changed.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    sets: BTreeMap<SetId, Offer>,
    pub(super) changed: BTreeSet<String>,
}

impl Namespace {
    pub(super) fn offer(&self, endpoint: &str) -> Offer {
        let Some(built) = self.built.get(endpoint) else {
            return Offer::Nothing;
        };
        let id = EndpointId::from(endpoint);
        let resources = &self.resources;
        let is_kept = || {
            resources.is_keep(&ResourceKey::Instances(id.clone()))
                || resources.is_keep(&ResourceKey::Endpoint(id.clone()))
        };
        if built.has_instances() || is_kept() {
            Offer::Address
        } else if built.accepted {
            Offer::Endpoint
        } else {
            Offer::Nothing
        }
    }

    /// Looks at the sets again, if `all` or if one of their members offers something else now.
    /// Those that do, too.
    pub(super) fn weigh_sets(&mut self, all: bool) -> BTreeSet<SetId> {
        if !all && self.reach.changed.is_empty() {
            return BTreeSet::new();
        }
        let sets: BTreeMap<SetId, Offer> = (self.sets.iter())
            .map(|id| {
                let members = match self.resources.get(&ResourceKey::Set(id.clone())) {
                    Some(Resource::Set(set)) => set.members.as_slice(),
                    _ => &[],
                };
                (id.clone(), self.best(members.iter()))
            })
            .collect();
        let before = std::mem::replace(&mut self.reach.sets, sets);
        let now = self.reach.sets.iter();
        now.filter(|(id, offer)| before.get(*id) != Some(*offer))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Of routes in use whose verdicts are not to be made anew for other reasons.
    pub(super) fn judge_reach(&mut self, sets: &BTreeSet<SetId>) {
        let endpoints = std::mem::take(&mut self.reach.changed);
        if endpoints.is_empty() && sets.is_empty() {
            return;
        }
        let verdicts: Vec<Verdict> = (self.candidates.concerned(&endpoints, sets))
            .filter_map(|route| {
                let key = (Kind::OllaRoute, route.id.as_str().to_owned());
                let verdict = self.verdicts.get(&key)?.clone();
                let reachable = self.reaches(route);
                Some(Verdict {
                    reachable,
                    ..verdict
                })
            })
            .collect();
        for verdict in verdicts {
            self.put_verdict(verdict);
        }
    }

    pub(super) fn reaches(&self, route: &Route) -> Result<(), Problem> {
        let selection = &route.endpoints;
        let selected = selection.set.as_ref();
        let selected = selected.and_then(|set| self.reach.sets.get(set).copied());
        let named = selection.refs.iter().map(|named| &named.endpoint);
        let best = selected.unwrap_or_default().max(self.best(named));
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
}
