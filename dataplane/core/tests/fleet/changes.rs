//! Tables that come as changes: whatever came in whatever order, the fleet is as if it had been
//! given whole tables, and what cannot be used is refused just as there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests end the test"
)]

use std::sync::Arc;

use dataplane_core::{Cause, Fleet, FleetView, Mono, Order, Outcome, ProbeResult, Query};
use dataplane_protocol::{
    ResourceKey, RoutingTable,
    resource::ResourceSet,
    table::{
        Balancer, Credential, EndpointRef, EndpointSet, Instance, RouteMatch, Scheme, Selection,
    },
    testing::Random,
    transaction::{Transaction, Update},
};

use crate::common::{endpoint, query, route, serving, table};

const SEEDS: u64 = 60;
const STEPS: u64 = 40;
const ENDPOINTS: usize = 6;
const ROUTES: usize = 5;
const NOW: Mono = Mono::from_millis(1_000_000);

/// What the operator has, changed at random.
struct World {
    random: Random,
    table: RoutingTable,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            table: table(vec![], vec![]),
        }
    }

    fn step(&mut self) {
        for _ in 0..=self.random.below(3) {
            match self.random.below(10) {
                0..=3 => self.flip(),
                4 => self.change_endpoint(),
                5 => self.drop_endpoint(),
                6 | 7 => self.change_route(),
                8 => self.change_set(),
                _ => self.change_profile(),
            }
        }
        self.table.routes.sort_by_key(|route| route.precedence());
        self.table.keep.clear();
    }

    fn name(&mut self) -> String {
        format!("e{}", self.random.below(ENDPOINTS))
    }

    /// Of a pod: it comes, goes or moves.
    fn flip(&mut self) {
        let name = self.name();
        let id = format!("{name}/{}", self.random.below(4));
        let host = ["a.test", "b.test", "c.test", ""];
        // Now and then one that is no address.
        let odd = usize::from(self.random.one_in(20));
        let host = host[self.random.below(3 + odd)];
        let Some(list) = self.table.instances.get_mut(name.as_str()) else {
            return;
        };
        let list = Arc::make_mut(list);
        let found = list.binary_search_by(|it| it.id.as_str().cmp(&id));
        let instance = Instance {
            id: id.as_str().into(),
            scheme: Scheme::Http,
            host: host.into(),
            port: 8000,
        };
        match found {
            Ok(at) if self.random.one_in(2) => list[at] = instance,
            Ok(at) => drop(list.remove(at)),
            Err(at) => list.insert(at, instance),
        }
    }

    fn change_endpoint(&mut self) {
        let name = self.name();
        let models = [&["m"][..], &["m", "n"], &["N"], &[]];
        let mut new = serving(&name, models[self.random.below(4)]);
        new.priority = self.random.below(3) as u32;
        new.weight = self.random.below(3) as u32 * 50;
        new.profile = ["openai", "ollama", "auto"][self.random.below(3)].into();
        if self.random.one_in(30) {
            new.profile = "unheard-of".into();
        }
        if self.random.one_in(6) {
            new.credential = Credential::Withheld;
        }
        let of = self.table.instances.entry(name.as_str().into());
        of.or_default();
        self.table
            .endpoints
            .insert(name.as_str().into(), new.into());
    }

    fn drop_endpoint(&mut self) {
        let name = self.name();
        self.table.endpoints.remove(name.as_str());
        self.table.instances.remove(name.as_str());
    }

    fn change_route(&mut self) {
        let name = format!("r{}", self.random.below(ROUTES));
        self.table.routes.retain(|route| route.id.as_str() != name);
        if self.random.one_in(4) {
            return;
        }
        let mut new = route(&name, Balancer::Priority, &[]);
        new.balancer = [Balancer::Priority, Balancer::RoundRobin][self.random.below(2)];
        new.endpoints = Selection {
            set: self.random.one_in(2).then(|| "s".into()),
            ..Selection::default()
        };
        for _ in 0..self.random.below(4) {
            let endpoint = self.name().as_str().into();
            let number = |random: &mut Random| {
                let number = random.below(3) as u32;
                random.one_in(2).then_some(number)
            };
            new.endpoints.refs.push(EndpointRef {
                endpoint,
                priority: number(&mut self.random),
                weight: number(&mut self.random),
            });
        }
        let one = |random: &mut Random| RouteMatch {
            path_prefix: [None, Some("/v1".into()), Some("/v1/chat".into())][random.below(3)]
                .clone(),
            models: [vec![], vec!["m".into()]][random.below(2)].clone(),
            headers: vec![],
        };
        let count = self.random.below(3) + usize::from(!self.random.one_in(20));
        new.matches = (0..count).map(|_| one(&mut self.random)).collect();
        self.table.routes.push(new.into());
    }

    fn change_set(&mut self) {
        let all = (0..ENDPOINTS).filter(|_| self.random.one_in(2));
        let members: Vec<_> = all.map(|n| format!("e{n}").into()).collect();
        let id: dataplane_protocol::SetId = "s".into();
        let set = EndpointSet {
            id: id.clone(),
            members,
        };
        self.table.sets.insert(id.clone(), set.into());
        if self.random.one_in(5) {
            self.table.sets.remove(&id);
        }
    }

    fn change_profile(&mut self) {
        let name = ["openai", "ollama", "auto"][self.random.below(3)];
        let known = table(vec![], vec![]).profiles.remove(name).unwrap();
        let mut profile = (*known).clone();
        if self.random.one_in(2) {
            profile.prefixes.push("more".into());
        }
        self.table.profiles.insert(name.into(), profile.into());
        if self.random.one_in(10) {
            self.table.profiles.remove(name);
        }
    }

    /// As the operator says it, which now and then does not know a part.
    fn said(&mut self) -> ResourceSet {
        let mut said = self.table.clone();
        let name = self.name();
        if self.random.one_in(4) {
            said.instances.remove(name.as_str());
            let key = ResourceKey::Instances(name.as_str().into());
            said.keep.insert(key);
        }
        // Where none is held, its instances stand alone.
        if self.random.one_in(4) {
            said.endpoints.remove(name.as_str());
            let key = ResourceKey::Endpoint(name.as_str().into());
            said.keep.insert(key);
        }
        if self.random.one_in(6) {
            let name = format!("r{}", self.random.below(ROUTES));
            said.routes.retain(|route| route.id.as_str() != name);
            said.keep.insert(ResourceKey::Route(name.as_str().into()));
        }
        ResourceSet::of(&said)
    }
}

fn transaction(held: &ResourceSet, newer: &ResourceSet) -> Transaction {
    let difference = held.difference(newer);
    let mut transaction = Transaction::begin(held, "team".into(), false);
    for resource in difference.upserts {
        transaction.upsert(resource);
    }
    for key in &difference.keeps {
        transaction.keep(key, held);
    }
    for key in &difference.removes {
        transaction.remove(key);
    }
    transaction
}

/// Steps of a world as a data plane hears of them: `take` gets each change that can be used and
/// the table that it makes.
fn run(seed: u64, mut take: impl FnMut(Update, RoutingTable, &mut Random)) {
    let mut world = World::new(seed);
    let mut held = ResourceSet::default();
    for step in 0..STEPS {
        world.step();
        let newer = world.said();
        let commit = transaction(&held, &newer).commit(&held, newer.revision());
        let commit = commit.unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
        let mut whole = commit.set.to_table("team");
        assert_eq!(
            commit.check().is_err(),
            whole.check().is_err(),
            "seed {seed}, step {step}: {:?} and {:?}",
            commit.check(),
            whole.check()
        );
        if commit.check().is_ok() {
            held = commit.set;
            // The fleet has no use for it.
            whole.keep.clear();
            take(commit.update, whole, &mut world.random);
        }
    }
}

fn change(fleet: &mut Fleet, update: Update, now: Mono) {
    match update {
        Update::Change(change) => drop(fleet.apply_change(change, now)),
        Update::Whole(_) => panic!("no change"),
    }
}

/// Without the numbers that count instances up.
fn without_keys(view: &FleetView) -> serde_json::Value {
    let mut view = serde_json::to_value(view).unwrap();
    for instance in view["instances"].as_array_mut().unwrap() {
        instance.as_object_mut().unwrap().remove("key");
    }
    view
}

fn queries() -> Vec<Query<'static>> {
    let models = [None, Some("m"), Some("n"), Some("x")];
    let mut all: Vec<_> = models.into_iter().map(query).collect();
    all.push(Query {
        path: "/other",
        prefix: Some("more"),
        ..query(None)
    });
    all
}

#[test]
fn a_fleet_that_has_seen_changes_decides_like_a_new_one_with_the_whole_table() {
    for seed in 0..SEEDS {
        let mut fleet = Fleet::new(1);
        let mut step = 0;
        run(seed, |update, whole, _| {
            step += 1;
            let at = format!("seed {seed}, table {step}");
            change(&mut fleet, update, NOW);
            let mut new = Fleet::new(1);
            new.apply(Arc::new(whole.clone()), NOW);
            assert_eq!(fleet.table(), whole, "{at}");
            assert_eq!(
                without_keys(&fleet.view(NOW)),
                without_keys(&new.view(NOW)),
                "{at}"
            );
            assert_eq!(fleet.models(None, None), new.models(None, None), "{at}");
            for query in queries() {
                let told = |fleet: &Fleet| format!("{:?}", fleet.explain(&query, NOW));
                assert_eq!(told(&fleet), told(&new), "{at}, {query:?}");
            }
        });
    }
}

#[test]
fn live_state_goes_on_over_changes_as_over_whole_tables() {
    for seed in 0..SEEDS {
        let (mut by_change, mut by_table) = (Fleet::new(1), Fleet::new(1));
        let mut now = NOW;
        run(seed, |update, whole, random| {
            change(&mut by_change, update, now);
            by_table.apply(Arc::new(whole), now);
            let luck = random.below(1_000) as u64;
            let traces = [&mut by_change, &mut by_table]
                .map(|fleet| traffic(fleet, &mut Random::new(luck), &mut now.clone()));
            now = now + std::time::Duration::from_secs(7);
            assert_eq!(traces[0], traces[1], "seed {seed}");
        });
    }
}

/// Probes that are due, and some requests; what happened.
fn traffic(fleet: &mut Fleet, random: &mut Random, now: &mut Mono) -> Vec<String> {
    let mut orders: Vec<_> = fleet
        .due(*now)
        .into_iter()
        .filter_map(|order| match order {
            Order::Probe { instance, .. } => Some(instance.key),
            Order::List { .. } => None,
        })
        .collect();
    orders.sort_unstable();
    for key in orders {
        let result = if random.one_in(4) {
            ProbeResult::Bad {
                reason: "refused".into(),
            }
        } else {
            ProbeResult::Good { path: 0 }
        };
        fleet.probed(key, result, *now);
    }
    let mut seen = Vec::new();
    for query in queries().iter().cycle().take(20) {
        match fleet.pick(query, *now) {
            Err(refusal) => seen.push(refusal.to_string()),
            Ok(pick) => {
                seen.push(format!(
                    "{} by {}",
                    pick.instance.instance.id, pick.route.id
                ));
                let outcome = if random.one_in(3) {
                    Outcome::Failure(Cause::Reset)
                } else {
                    Outcome::Success
                };
                fleet.finish(pick.ticket, outcome, *now);
            }
        }
    }
    seen.push(serde_json::to_string(&fleet.view(*now)).unwrap());
    seen
}

#[test]
fn an_endpoint_whose_type_is_not_in_the_table_gets_nothing() {
    let mut odd = endpoint("odd");
    odd.profile = "unheard-of".into();
    let targets = [("odd", 0, 100), ("good", 1, 100)];
    let table = table(
        vec![(odd, 1), (endpoint("good"), 1)],
        vec![route("r", Balancer::Priority, &targets)],
    );
    let mut fleet = Fleet::new(1);
    fleet.apply(Arc::new(table), NOW);
    let pick = fleet.pick(&query(None), NOW).unwrap();
    assert_eq!(pick.instance.instance.id.as_str(), "good");
    fleet.finish(pick.ticket, Outcome::Success, NOW);
    assert_eq!(fleet.view(NOW).instances.len(), 1);
}
