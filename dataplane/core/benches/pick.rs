//! What a decision costs: one request picked and finished, over fleets of several sizes.

#[path = "../tests/fleet/common.rs"]
mod common;

use std::hint::black_box;

use common::{Bench, query, route, serving, table};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use dataplane_core::Outcome;
use dataplane_protocol::table::Balancer;

fn pick_and_finish(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick_and_finish");
    for instances in [3, 64, 1_000] {
        for (name, balancer) in [
            ("priority", Balancer::Priority),
            ("round_robin", Balancer::RoundRobin),
            ("least_connections", Balancer::LeastConnections),
        ] {
            let mut bench = fleet(instances, balancer);
            let query = query(Some("llama3:8b"));
            group.bench_function(BenchmarkId::new(name, instances), |b| {
                b.iter(|| {
                    let now = bench.now;
                    if let Ok(pick) = bench.fleet.pick(black_box(&query), now) {
                        black_box(bench.fleet.first_byte(&pick.ticket, now));
                        black_box(bench.fleet.finish(pick.ticket, Outcome::Success, now));
                    }
                });
            });
        }
    }
    group.finish();
}

/// Endpoints of up to ten instances that all serve twenty models, in two tiers.
fn fleet(instances: usize, balancer: Balancer) -> Bench {
    let per_endpoint = instances.min(10);
    let ids: Vec<String> = (0..instances.div_ceil(per_endpoint))
        .map(|number| format!("endpoint-{number}"))
        .collect();
    let mut models: Vec<String> = (0..19).map(|number| format!("model-{number}")).collect();
    models.push("llama3:8b".to_owned());
    let models: Vec<_> = models.iter().map(String::as_str).collect();
    let targets: Vec<_> = (ids.iter().zip(0..))
        .map(|(id, place)| (id.as_str(), place % 2, 100))
        .collect();
    Bench::new(table(
        ids.iter()
            .map(|id| (serving(id, &models), per_endpoint))
            .collect(),
        vec![route("r", balancer, &targets)],
    ))
}

criterion_group!(benches, pick_and_finish);
criterion_main!(benches);
