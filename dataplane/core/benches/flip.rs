//! What one pod that turns ready or unready costs a data plane of a large namespace: 5,000 routes
//! of two endpoints each, 1,000 endpoints, 10,000 instances; and with a route over all of them.
//! As a change, and as a whole table, which is what files and the first table cost.

#[path = "../tests/fleet/common.rs"]
mod common;

use std::{hint::black_box, sync::Arc};

use common::{Bench, endpoint, route, table};
use criterion::{Criterion, criterion_group, criterion_main};
use dataplane_protocol::{
    Resource, RoutingTable,
    resource::ResourceSet,
    table::{Balancer, EndpointSet, HeaderMatch, Instance, Route, RouteMatch, Selection},
    transaction::{Transaction, Update},
};

const ROUTES: usize = 5_000;
const ENDPOINTS: usize = 1_000;
const INSTANCES: usize = 10_000;

fn flip(c: &mut Criterion) {
    let mut group = c.benchmark_group("flip");
    group.sample_size(10);
    for (name, catch_all) in [
        ("as a change", false),
        ("as a change, catch-all route", true),
    ] {
        let mut plane = Plane::new(&large(catch_all));
        group.bench_function(name, |b| b.iter(|| plane.flip()));
    }
    let mut plane = Plane::new(&large(false));
    group.bench_function("as a whole table", |b| b.iter(|| plane.flip_whole()));
    group.finish();
}

struct Plane {
    bench: Bench,
    held: ResourceSet,
    pod: Resource,
    ready: bool,
}

impl Plane {
    fn new(table: &RoutingTable) -> Self {
        let instance: Instance = table.instances["e500"][3].clone();
        Self {
            held: ResourceSet::of(table),
            bench: Bench::raw(table.clone()),
            pod: Resource::Instance {
                endpoint: "e500".into(),
                instance: Arc::new(instance),
            },
            ready: true,
        }
    }

    fn next(&mut self) -> ResourceSet {
        let mut newer = self.held.clone();
        self.ready = !self.ready;
        if self.ready {
            newer.upsert(self.pod.clone());
        } else {
            newer.remove(&self.pod.key());
        }
        newer
    }

    fn flip(&mut self) {
        let revision = self.next().revision();
        let mut transaction = Transaction::begin(&self.held, "team".into(), false);
        if self.ready {
            transaction.upsert(self.pod.clone());
        } else {
            transaction.remove(&self.pod.key());
        }
        let Ok(commit) = transaction.commit(&self.held, revision) else {
            return;
        };
        if commit.check().is_ok()
            && let Update::Change(change) = commit.update
        {
            let now = self.bench.now;
            black_box(self.bench.fleet.apply_change(change, now));
            self.held = commit.set;
        }
    }

    fn flip_whole(&mut self) {
        self.held = self.next();
        let table = self.held.to_table("team");
        if table.check().is_ok() {
            let now = self.bench.now;
            black_box(self.bench.fleet.apply(Arc::new(table), now));
        }
    }
}

fn large(catch_all: bool) -> RoutingTable {
    let name = |number: usize| format!("e{}", number % ENDPOINTS);
    let endpoints = (0..ENDPOINTS).map(|n| (endpoint(&name(n)), INSTANCES / ENDPOINTS));
    let routes = (0..ROUTES).map(|number| Route {
        matches: vec![RouteMatch {
            headers: vec![HeaderMatch {
                name: "x-route".into(),
                value: number.to_string(),
            }],
            ..RouteMatch::default()
        }],
        ..route(
            &format!("r{number}"),
            Balancer::Priority,
            &[(&name(number), 0, 100), (&name(number + 1), 1, 100)],
        )
    });
    let mut routes: Vec<_> = routes.collect();
    if catch_all {
        routes.push(Route {
            endpoints: Selection {
                set: Some("*".into()),
                ..Selection::default()
            },
            ..route("all", Balancer::Priority, &[])
        });
    }
    let mut table = table(endpoints.collect(), routes);
    let set = EndpointSet {
        id: "*".into(),
        members: table.endpoints.keys().cloned().collect(),
    };
    table.sets.insert("*".into(), Arc::new(set));
    table
}

criterion_group!(benches, flip);
criterion_main!(benches);
