//! When instances are probed.

use std::{collections::BTreeMap, time::Duration};

use dataplane_core::{InstanceKey, Mono, Order, Outcome, ProbeResult};
use dataplane_protocol::table::Balancer;

use crate::common::{Bench, discovering, endpoint, route, table};

/// How long a probe is under way.
const TAKES: Duration = Duration::from_millis(300);

#[test]
fn no_pause_between_probes_differs_from_the_interval_by_more_than_five_percent() {
    for seconds in [1, 7] {
        let interval = Duration::from_secs(seconds);
        // Listings of the second come at times of their own.
        let mut endpoints = vec![(endpoint("a"), 3), (discovering("b"), 2)];
        for (endpoint, _) in &mut endpoints {
            endpoint.health.interval_ms = seconds * 1_000;
        }
        let targets = [("a", 0, 100), ("b", 0, 100)];
        let mut bench = Bench::raw(table(
            endpoints,
            vec![route("r", Balancer::Priority, &targets)],
        ));
        let pauses = pauses(&mut bench, Duration::from_secs(100));
        assert_eq!(pauses.len(), 5);
        for pauses in pauses.values() {
            let all = 100 / (seconds + 1);
            assert!(pauses.len() as u64 >= all, "{pauses:?}");
            for pause in pauses {
                let off = pause.abs_diff(interval);
                assert!(off <= interval / 20, "{pause:?} of {interval:?}");
            }
            // All alike would keep those together for ever that started together.
            assert!(pauses.iter().any(|pause| *pause < interval));
            assert!(pauses.iter().any(|pause| *pause > interval));
        }
    }
}

/// From the end of each probe to the start of the next, while traffic flows.
fn pauses(bench: &mut Bench, span: Duration) -> BTreeMap<InstanceKey, Vec<Duration>> {
    let end = bench.now + span;
    let mut pauses: BTreeMap<InstanceKey, Vec<Duration>> = BTreeMap::new();
    let mut under_way: Vec<(Mono, InstanceKey)> = Vec::new();
    let mut ended: BTreeMap<InstanceKey, Mono> = BTreeMap::new();
    loop {
        let answer = under_way.iter().map(|(at, _)| *at).min();
        let next = bench.fleet.next_due().into_iter().chain(answer).min();
        let Some(next) = next.filter(|next| *next <= end) else {
            return pauses;
        };
        bench.now = bench.now.max(next);
        let now = bench.now;
        under_way.retain(|(at, key)| {
            if *at <= now {
                bench.fleet.probed(*key, ProbeResult::Good { path: 0 }, now);
                ended.insert(*key, now);
            }
            *at > now
        });
        for order in bench.fleet.due(now) {
            if let Order::Probe { instance, .. } = order {
                let key = instance.key;
                under_way.push((now + TAKES, key));
                if let Some(before) = ended.get(&key) {
                    pauses.entry(key).or_default().push(now.since(*before));
                }
            }
        }
        bench.send(Outcome::Success);
    }
}
