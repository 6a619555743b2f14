//! Tables that tests start from, and a fleet with a hand on its clock.

#![allow(
    dead_code,
    reason = "each test binary and the bench use their own part"
)]
#![allow(clippy::unwrap_used, reason = "only tests call these")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dataplane_core::{
    Event, Fleet, InstanceKey, ListingResult, Mono, Order, Outcome, Pick, ProbeResult, Query,
    Refusal,
};
use dataplane_protocol::{
    Dialect, EndpointId, InstanceId, RouteId, RoutingTable,
    table::{
        Balancer, BreakerPolicy, Endpoint, EndpointRef, FailoverOn, FailoverPolicy, Instance,
        Profile, Route, RouteMatch, Scheme, Selection, Timeouts,
    },
    testing::discovery,
};

pub(crate) use dataplane_protocol::testing::{breaker_policy as breaker, endpoint, names};

/// With a listing every 30 s.
pub(crate) fn discovering(id: &str) -> Endpoint {
    let mut endpoint = endpoint(id);
    endpoint.models.discovery = Some(discovery());
    endpoint
}

pub(crate) fn serving(id: &str, models: &[&str]) -> Endpoint {
    let mut endpoint = endpoint(id);
    endpoint.models.fixed = names(models);
    endpoint
}

/// `targets`: endpoint, tier, weight.
pub(crate) fn route(id: &str, balancer: Balancer, targets: &[(&str, u32, u32)]) -> Route {
    Route {
        id: RouteId::from(id),
        created: None,
        matches: vec![RouteMatch::default()],
        endpoints: Selection {
            refs: targets
                .iter()
                .map(|(endpoint, tier, weight)| EndpointRef {
                    endpoint: EndpointId::from(*endpoint),
                    priority: Some(*tier),
                    weight: Some(*weight),
                })
                .collect(),
            ..Selection::default()
        },
        balancer,
        failover: FailoverPolicy {
            on: FailoverOn {
                connect_failure: true,
                reset: true,
                first_token_timeout: true,
                statuses: vec![429, 502, 503, 504],
                classes: Vec::new(),
            },
            attempts: 3,
            budget_percent: 20,
        },
        breaker: Some(breaker()),
        timeouts: Timeouts {
            connect_ms: 5_000,
            first_token_ms: 120_000,
            first_token_whole_ms: None,
            stream_idle_ms: 120_000,
            request_ms: None,
        },
    }
}

/// Endpoints with their number of instances. One instance has its endpoint's name, several are
/// `name/0`, `name/1`, …
pub(crate) fn table(endpoints: Vec<(Endpoint, usize)>, routes: Vec<Route>) -> RoutingTable {
    let mut table = RoutingTable {
        namespace: "team".into(),
        profiles: profiles(),
        ..RoutingTable::default()
    };
    for (endpoint, count) in endpoints {
        let instances = (0..count).map(|number| Instance {
            id: if count == 1 {
                InstanceId::from(endpoint.id.as_str())
            } else {
                InstanceId::from(format!("{}/{number}", endpoint.id))
            },
            scheme: Scheme::Http,
            host: format!("{}-{number}.test", endpoint.id),
            port: 8000,
        });
        let id = endpoint.id.clone();
        table
            .instances
            .insert(id.clone(), Arc::new(instances.collect()));
        table.endpoints.insert(id, Arc::new(endpoint));
    }
    table.routes = routes.into_iter().map(Arc::new).collect();
    table
}

fn profiles() -> BTreeMap<String, Arc<Profile>> {
    let profile = |name: &str, prefixes: &[&str], dialects: &[Dialect]| Profile {
        name: name.into(),
        prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
        dialects: dialects.to_vec(),
        health_paths: vec![],
        listings: vec![],
    };
    [
        profile("openai", &["openai"], &[Dialect::OpenAi]),
        profile(
            "ollama",
            &["ollama", "openai"],
            &[Dialect::OpenAi, Dialect::Ollama],
        ),
        profile("auto", &["openai"], &[Dialect::OpenAi]),
    ]
    .into_iter()
    .map(|profile| (profile.name.clone(), Arc::new(profile)))
    .collect()
}

pub(crate) fn query(model: Option<&str>) -> Query<'_> {
    Query {
        path: "/v1/chat/completions",
        header: &|_| None,
        model,
        prefix: None,
        dialect: None,
        permits: None,
    }
}

/// A fleet with a clock; what it orders is answered well unless a test says otherwise.
pub(crate) struct Bench {
    pub(crate) fleet: Fleet,
    pub(crate) now: Mono,
    pub(crate) events: Vec<Event>,
}

impl Bench {
    /// The table is in effect and nothing has been probed.
    pub(crate) fn raw(table: RoutingTable) -> Self {
        let now = Mono::from_millis(1_000_000);
        let mut fleet = Fleet::new(7);
        let events = fleet.apply(Arc::new(table), now);
        Self { fleet, now, events }
    }

    /// All instances have passed their first probe.
    pub(crate) fn new(table: RoutingTable) -> Self {
        let mut bench = Self::raw(table);
        bench.probe_all(&[]);
        bench
    }

    pub(crate) fn apply(&mut self, table: RoutingTable) -> Vec<Event> {
        self.fleet.apply(Arc::new(table), self.now)
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }

    /// Answers all probes that are due; `down` names instances that fail. Listings are given
    /// out and not answered.
    pub(crate) fn probe_all(&mut self, down: &[&str]) {
        for order in self.fleet.due(self.now) {
            if let Order::Probe { instance, .. } = order {
                let result = if down.contains(&instance.instance.id.as_str()) {
                    ProbeResult::Bad {
                        reason: "refused".into(),
                    }
                } else {
                    ProbeResult::Good { path: 0 }
                };
                let events = self.fleet.probed(instance.key, result, self.now);
                self.events.extend(events);
            }
        }
    }

    /// Waits for each probe as it comes until `seconds` are over.
    pub(crate) fn probe_for(&mut self, seconds: u64, down: &[&str]) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(next) = self.fleet.next_due().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.probe_all(down);
        }
        self.now = end;
    }

    pub(crate) fn pick(&mut self, model: Option<&str>) -> Result<Pick, Refusal> {
        self.fleet.pick(&query(model), self.now)
    }

    /// One whole request; the name of the instance that took it.
    pub(crate) fn send(&mut self, outcome: Outcome) -> String {
        let pick = self.pick(None).unwrap();
        let name = pick.instance.instance.id.to_string();
        let events = self.fleet.finish(pick.ticket, outcome, self.now);
        self.events.extend(events);
        name
    }

    /// How many of `count` whole requests each instance took.
    pub(crate) fn share(&mut self, count: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..count {
            *shares.entry(self.send(Outcome::Success)).or_default() += 1;
        }
        shares
    }

    pub(crate) fn key(&self, instance: &str) -> InstanceKey {
        let view = self.fleet.view(self.now);
        let mut instances = view.instances.into_iter();
        instances
            .find(|view| view.instance.as_str() == instance)
            .unwrap()
            .key
    }

    pub(crate) fn list(&mut self, instance: &str, models: &[&str]) -> Vec<Event> {
        let key = self.key(instance);
        let result = ListingResult::Models {
            models: names(models),
            detected: None,
        };
        self.fleet.listed(key, result, self.now)
    }
}

/// `a` before `b`.
pub(crate) fn two_tiers() -> Bench {
    Bench::new(table(
        vec![(endpoint("a"), 1), (endpoint("b"), 1)],
        vec![route(
            "r",
            Balancer::Priority,
            &[("a", 0, 100), ("b", 1, 100)],
        )],
    ))
}

/// `a`, and nobody else to go to.
pub(crate) fn alone(change: impl FnOnce(&mut BreakerPolicy)) -> Bench {
    let mut only = route("r", Balancer::Priority, &[("a", 0, 100)]);
    let mut policy = breaker();
    change(&mut policy);
    only.breaker = Some(policy);
    Bench::new(table(vec![(endpoint("a"), 1)], vec![only]))
}

/// Of the instance.
pub(crate) fn name(pick: &Pick) -> &str {
    pick.instance.instance.id.as_str()
}

pub(crate) fn shares(list: &[(&str, usize)]) -> BTreeMap<String, usize> {
    list.iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}
