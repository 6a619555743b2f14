//! Do the metrics tell what was done, in a form that Prometheus reads?

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use e2e::{DataPlane, MockLlm, World, run_python, wait};
use serde_json::Value;

use crate::support::{MODEL, SOON, endpoint, route, served, wait_answer};

/// All families, without the operator's prefix.
const FAMILIES: [&str; 14] = [
    "acks",
    "compile_duration_seconds",
    "connections_refused",
    "data_planes",
    "events_dropped",
    "injections",
    "leader",
    "push_to_ack_seconds",
    "status_writes",
    "tables_published",
    "token_reviews",
    "watch_errors",
    "watches",
    "webhook_untrusted",
];

/// What Prometheus and its operator call a target's own labels.
const TARGET_LABELS: [&str; 8] = [
    "container",
    "endpoint",
    "instance",
    "job",
    "namespace",
    "node",
    "pod",
    "service",
];

/// What the operator showed at some time.
struct Scrape(String);

impl Scrape {
    fn new(world: &World) -> Result<Self> {
        Ok(Self(world.operator_metrics()?))
    }

    fn value(&self, series: &str) -> Result<f64> {
        let mut values = self.0.lines().filter_map(|line| {
            let line = line.strip_prefix("olla_operator_")?;
            line.strip_prefix(series)?.strip_prefix(' ')
        });
        let value = values
            .next()
            .with_context(|| format!("no {series}: {}", self.0))?;
        Ok(value.parse()?)
    }

    fn count(&self, series: &str) -> Result<u64> {
        Ok(self.value(series)? as u64)
    }

    fn watch_errors(&self) -> Vec<&str> {
        let lines = self.0.lines();
        lines
            .filter(|line| line.contains("watch_errors_total{"))
            .collect()
    }
}

#[test]
fn the_operators_metrics_count_what_it_does() -> Result<()> {
    let world = World::alone()?;
    // Those of tests before this one are gone, but perhaps not missed yet.
    wait("no data plane is connected", SOON, || {
        let connected = Scrape::new(&world)?.count("data_planes")?;
        ensure!(connected == 0, "{connected} are");
        Ok(Some(()))
    })?;
    let before = Scrape::new(&world)?;

    let tenant = world.tenant()?;
    let (_base, first) = served(&tenant)?;
    let second = tenant.data_plane()?;
    let other = MockLlm::start("other", &[MODEL])?;
    tenant.secret("key", &[("token", "sk-e2e-metrics")])?;
    let auth = "  priority: 1\n  auth:\n    bearer: {valueFrom: {secretKeyRef: {name: key, key: token}}}\n";
    tenant.apply(&(endpoint("other", &other.url(), auth) + &route("main", "{}")))?;
    for data_plane in [&first, &second] {
        wait_answer(data_plane, "other")?;
    }
    tenant.wait_message("ollaroutes/main", "Programmed", "True", "all connected")?;
    let ns = tenant.namespace();
    let _stranger = DataPlane::start_with_token(tenant.cluster(), ns, "stranger", "no-token")?;

    let after = wait("all is counted", SOON, || {
        let after = Scrape::new(&world)?;
        for (series, at_least) in [
            // A table for each of the two, and the one with the second endpoint.
            ("tables_published_total", 2),
            ("acks_total{result=\"ack\"}", 3),
            // Two endpoints and a route.
            ("status_writes_total{result=\"ok\"}", 3),
            ("token_reviews_total{result=\"rejected\"}", 1),
        ] {
            let more = after.count(series)? - before.count(series)?;
            ensure!(more >= at_least, "{series}: {more}");
        }
        let connected = after.count("data_planes")?;
        ensure!(connected == 2, "{connected} are connected");
        Ok(Some(after))
    })?;
    for (series, exactly) in [
        // This namespace's Secret, beside what is watched for all.
        ("watches", 1),
        ("token_reviews_total{result=\"accepted\"}", 2),
        ("token_reviews_total{result=\"unavailable\"}", 0),
        ("acks_total{result=\"nack\"}", 0),
        ("status_writes_total{result=\"error\"}", 0),
    ] {
        let more = after.count(series)? - before.count(series)?;
        assert_eq!(more, exactly, "{series}: {}", after.0);
    }
    assert_eq!(after.watch_errors(), before.watch_errors());
    for (timed, counted) in [
        ("compile_duration_seconds", "tables_published_total"),
        ("push_to_ack_seconds", "acks_total{result=\"ack\"}"),
    ] {
        let more =
            |series: &str| -> Result<f64> { Ok(after.value(series)? - before.value(series)?) };
        let count = more(&format!("{timed}_count"))?;
        let mean = more(&format!("{timed}_sum"))? / count;
        assert!(count >= more(counted)?, "{timed}: {}", after.0);
        assert!(mean > 0.0 && mean < 5.0, "{timed}: {mean} s");
    }
    let types = after.0.lines().filter_map(|line| {
        let family = line.strip_prefix("# TYPE olla_operator_")?;
        family.split(' ').next()
    });
    assert_eq!(types.collect::<BTreeSet<_>>(), BTreeSet::from(FAMILIES));

    drop((first, second));
    wait("it notices that they left", SOON, || {
        let connected = Scrape::new(&world)?.count("data_planes")?;
        ensure!(connected == 0, "{connected} are connected");
        Ok(Some(()))
    })
}

#[test]
fn prometheus_own_strict_parser_reads_the_metrics_of_both_halves() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, data_plane) = served(&tenant)?;
    let url = data_plane.admin().url();
    // One of each kind that has labels: an answer, a refusal.
    data_plane.client().chat(MODEL)?;
    data_plane.client().chat("no-such-model")?;
    let told = run_python("openmetrics.py", &[&format!("{url}/internal/metrics")])?;
    for (family, kind, unit) in [
        ("olla_requests", "counter", ""),
        ("olla_attempts", "counter", ""),
        ("olla_refusals", "counter", ""),
        ("olla_request_duration_seconds", "histogram", "seconds"),
        ("olla_time_to_first_token_seconds", "histogram", "seconds"),
        ("olla_config_revision", "gauge", ""),
        ("olla_in_flight_requests", "gauge", ""),
        ("olla_instance_healthy", "gauge", ""),
        ("olla_breaker_state", "gauge", ""),
        ("olla_kept_bodies_bytes", "gauge", "bytes"),
    ] {
        assert_eq!(told[family]["type"], kind, "{family}: {told}");
        assert_eq!(told[family]["unit"], unit, "{family}: {told}");
        assert_ne!(told[family]["samples"], 0, "{family}: {told}");
    }
    assert_own_labels(&told);

    let told = run_python("openmetrics.py", &[&world.operator_metrics_url()])?;
    for family in FAMILIES {
        let family = &told[format!("olla_operator_{family}")];
        assert_ne!(family["samples"], 0, "{told}");
        assert!(family["help"].is_string(), "{told}");
    }
    assert_own_labels(&told);
    Ok(())
}

/// None that Prometheus or its operator gives a target: it would be renamed to `exported_…`.
fn assert_own_labels(told: &Value) {
    let families = told.as_object().expect("families by name");
    for (family, told) in families {
        for label in told["labels"].as_array().expect("a list") {
            let label = label.as_str().expect("a name");
            assert!(!TARGET_LABELS.contains(&label), "{family}: {label}");
        }
    }
}
