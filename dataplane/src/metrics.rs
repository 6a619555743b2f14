//! Every metric family: help, unit and labels, in one place.
//!
//! Labels come from closed sets or configured names (route, endpoint, instance, reason), never
//! from a request. `instance` and `endpoint` are Prometheus' and its operator's own labels of a
//! target: a metric's would be renamed to `exported_…`, so ours are called otherwise.

use std::sync::atomic::AtomicU64;

use dataplane_core::FleetView;
use dataplane_protocol::sync::{Breaker, Health};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub route: String,
    /// The endpoint whose answer the client got; empty when there was none.
    pub llm_endpoint: String,
    /// HTTP status; 499 when the client left first.
    pub code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndpointLabels {
    pub llm_endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    pub llm_endpoint: String,
    /// `answered`, or why not.
    pub result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct InstanceLabels {
    pub llm_endpoint: String,
    pub llm_instance: String,
}

#[derive(Debug)]
pub struct Metrics {
    /// Locked for a whole scrape: two at once would clear each other's gauges.
    registry: Mutex<Registry>,
    pub requests: Family<RequestLabels, Counter>,
    pub attempts: Family<AttemptLabels, Counter>,
    pub failovers: Family<ReasonLabels, Counter>,
    pub refusals: Family<ReasonLabels, Counter>,
    pub broken_streams: Family<ReasonLabels, Counter>,
    pub unkept_bodies: Counter,
    pub breaker_opened: Counter,
    pub request_duration: Family<EndpointLabels, Histogram>,
    pub first_token: Family<EndpointLabels, Histogram>,
    pub config_revision: Gauge,
    pub connections: Gauge,
    pub refused_connections: Counter,
    kept_bytes: Gauge,
    in_flight: Family<InstanceLabels, Gauge>,
    healthy: Family<InstanceLabels, Gauge>,
    breaker_state: Family<InstanceLabels, Gauge>,
    models: Family<InstanceLabels, Gauge>,
    uptime: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Mutex::new(Registry::with_prefix("olla")),
            requests: Family::default(),
            attempts: Family::default(),
            failovers: Family::default(),
            refusals: Family::default(),
            broken_streams: Family::default(),
            unkept_bodies: Counter::default(),
            breaker_opened: Counter::default(),
            request_duration: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            first_token: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            config_revision: Gauge::default(),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            kept_bytes: Gauge::default(),
            in_flight: Family::default(),
            healthy: Family::default(),
            breaker_state: Family::default(),
            models: Family::default(),
            uptime: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = self.registry.get_mut();
        let seconds = || Unit::Seconds;
        registry.register(
            "requests",
            "Completed requests, by status code",
            self.requests.clone(),
        );
        registry.register(
            "attempts",
            "Upstream attempts, by result",
            self.attempts.clone(),
        );
        let help = "Retries on another endpoint, by cause";
        registry.register("failovers", help, self.failovers.clone());
        let help = "Requests rejected without contacting an endpoint, by reason";
        registry.register("refusals", help, self.refusals.clone());
        let help = "Responses that broke off after their first byte, by reason";
        registry.register("broken_streams", help, self.broken_streams.clone());
        let help = "Request bodies too large to buffer: sent once, without failover";
        registry.register("unkept_bodies", help, self.unkept_bodies.clone());
        registry.register(
            "breaker_opened",
            "Circuit breakers opened",
            self.breaker_opened.clone(),
        );
        let help = "Time from the request to the end of the response";
        registry.register_with_unit(
            "request_duration",
            help,
            seconds(),
            self.request_duration.clone(),
        );
        let help = "Time from the request to the first byte of the response body";
        registry.register_with_unit(
            "time_to_first_token",
            help,
            seconds(),
            self.first_token.clone(),
        );
        let help = "Number derived from the content of the active routing table; equal numbers mean equal tables";
        registry.register("config_revision", help, self.config_revision.clone());
        registry.register(
            "connections",
            "Open client connections",
            self.connections.clone(),
        );
        let help = "Connections closed at once because their client address has too many";
        let refused = self.refused_connections.clone();
        registry.register("refused_connections", help, refused);
        let help = "Request bodies buffered for retries";
        registry.register_with_unit("kept_bodies", help, Unit::Bytes, self.kept_bytes.clone());
        registry.register(
            "in_flight_requests",
            "Requests in flight at an instance",
            self.in_flight.clone(),
        );
        registry.register(
            "instance_healthy",
            "Health of an instance: 1 healthy, 0 unhealthy, -1 unknown",
            self.healthy.clone(),
        );
        registry.register(
            "breaker_state",
            "Circuit breaker of an instance: 0 closed, 1 half-open, 2 open",
            self.breaker_state.clone(),
        );
        registry.register(
            "instance_models",
            "Models listed by an instance",
            self.models.clone(),
        );
        registry.register_with_unit(
            "uptime",
            "Time since the start of the process",
            seconds(),
            self.uptime.clone(),
        );
    }

    /// OpenMetrics text. What hangs on instances is taken from the fleet at this moment, so
    /// that a metric and a status page cannot disagree, and series of gone instances vanish.
    pub fn render(&self, view: &FleetView, kept_bytes: usize, uptime_seconds: f64) -> String {
        let registry = self.registry.lock();
        self.kept_bytes.set(kept_bytes as i64);
        self.uptime.set(uptime_seconds);
        for family in [
            &self.in_flight,
            &self.healthy,
            &self.breaker_state,
            &self.models,
        ] {
            family.clear();
        }
        for instance in &view.instances {
            let labels = InstanceLabels {
                llm_endpoint: instance.endpoint.to_string(),
                llm_instance: instance.instance.to_string(),
            };
            self.in_flight
                .get_or_create(&labels)
                .set(i64::from(instance.in_flight));
            let healthy = match instance.health {
                Health::Healthy => 1,
                Health::Unhealthy => 0,
                Health::Unknown => -1,
            };
            self.healthy.get_or_create(&labels).set(healthy);
            let state = match instance.breaker {
                Breaker::Closed => 0,
                Breaker::HalfOpen => 1,
                Breaker::Open => 2,
            };
            self.breaker_state.get_or_create(&labels).set(state);
            if let Some(models) = &instance.models {
                self.models.get_or_create(&labels).set(models.len() as i64);
            }
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

/// Seconds. From a cached answer to a long generation or a cold model.
const DURATIONS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];
