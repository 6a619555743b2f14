//! Every metric family of the operator: its help, unit and labels. In: increments from the other
//! rooms. Out: OpenMetrics text. Labels come from closed sets only, never from objects.

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    pub kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    pub result: &'static str,
}

#[derive(Debug)]
pub struct Metrics {
    pub data_planes: Gauge,
    pub leads: Gauge,
    pub watches: Gauge,
    pub tables_published: Counter,
    pub compile_duration: Histogram,
    pub push_to_ack: Histogram,
    pub acks: Family<ResultLabel, Counter>,
    pub status_writes: Family<ResultLabel, Counter>,
    pub watch_errors: Family<KindLabel, Counter>,
    pub token_reviews: Family<ResultLabel, Counter>,
    pub connections_refused: Counter,
    pub events_dropped: Counter,
    pub injections: Family<ResultLabel, Counter>,
    pub webhook_untrusted: Counter,
    registry: Mutex<Registry>,
}

const ACKS: [&str; 2] = ["ack", "nack"];
const STATUS_WRITES: [&str; 2] = ["ok", "error"];
const TOKEN_REVIEWS: [&str; 4] = ["cached", "accepted", "rejected", "unavailable"];
const INJECTIONS: [&str; 4] = ["injected", "left_alone", "refused", "invalid"];
/// Of what is watched.
const KINDS: [&str; 6] = [
    "LlmEndpoint",
    "OllaRoute",
    "Pod",
    "Service",
    "EndpointSlice",
    "Secret",
];

/// From well below the goals (100 ms from API event to data plane) to far beyond.
const SECONDS: [f64; 12] = [
    0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            data_planes: Gauge::default(),
            leads: Gauge::default(),
            watches: Gauge::default(),
            tables_published: Counter::default(),
            compile_duration: Histogram::new(SECONDS),
            push_to_ack: Histogram::new(SECONDS),
            acks: Family::default(),
            status_writes: Family::default(),
            watch_errors: Family::default(),
            token_reviews: Family::default(),
            connections_refused: Counter::default(),
            events_dropped: Counter::default(),
            injections: Family::default(),
            webhook_untrusted: Counter::default(),
            registry: Mutex::new(Registry::with_prefix("olla_operator")),
        };
        metrics.register();
        metrics.begin();
        metrics
    }
}

impl Metrics {
    /// OpenMetrics text of all families.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut out, &self.registry.lock());
        out
    }

    /// Every series is there from the start: of one that appears with its first event, a rate
    /// over time misses that event.
    fn begin(&self) {
        for (family, results) in [
            (&self.acks, &ACKS[..]),
            (&self.status_writes, &STATUS_WRITES),
            (&self.token_reviews, &TOKEN_REVIEWS),
            (&self.injections, &INJECTIONS),
        ] {
            for result in results {
                let _ = family.get_or_create(&ResultLabel { result });
            }
        }
        for kind in KINDS {
            let _ = self.watch_errors.get_or_create(&KindLabel { kind });
        }
    }

    fn register(&self) {
        let mut registry = self.registry.lock();
        let r = &mut *registry;
        r.register(
            "data_planes",
            "Data planes connected",
            self.data_planes.clone(),
        );
        r.register(
            "leader",
            "1 if this replica leads: it serves data planes and writes statuses, else 0",
            self.leads.clone(),
        );
        r.register(
            "watches",
            "Watches running against the API server",
            self.watches.clone(),
        );
        r.register(
            "tables_published",
            "Routing tables published to data planes because their content changed",
            self.tables_published.clone(),
        );
        r.register_with_unit(
            "compile_duration",
            "Time to compile the routing table of one namespace",
            Unit::Seconds,
            self.compile_duration.clone(),
        );
        r.register_with_unit(
            "push_to_ack",
            "Time from sending a routing table to its acknowledgement by the data plane",
            Unit::Seconds,
            self.push_to_ack.clone(),
        );
        r.register(
            "acks",
            "Responses of data planes to routing tables: ack, nack",
            self.acks.clone(),
        );
        r.register(
            "status_writes",
            "Status patches: ok, error",
            self.status_writes.clone(),
        );
        r.register(
            "watch_errors",
            "Failed lists and broken watches, by kind",
            self.watch_errors.clone(),
        );
        r.register(
            "token_reviews",
            "Results of token authentication: cached, accepted, rejected, unavailable",
            self.token_reviews.clone(),
        );
        r.register(
            "connections_refused",
            "Connections refused, or closed before authentication to make room: too many of one address, unauthenticated, or in total",
            self.connections_refused.clone(),
        );
        r.register(
            "events_dropped",
            "Kubernetes Events dropped: a namespace exceeds its rate limit, or the API server is slow",
            self.events_dropped.clone(),
        );
        r.register(
            "injections",
            "Pods that the API server asked about: injected, left_alone, refused (asked for a sidecar and cannot have one), invalid",
            self.injections.clone(),
        );
        r.register(
            "webhook_untrusted",
            "Connections to the webhook whose client refused the certificate: pods get no sidecars if API servers do",
            self.webhook_untrusted.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::object::Source;

    #[test]
    fn every_series_is_there_before_its_first_event() {
        let text = Metrics::default().text();
        let sources = [
            Source::Endpoints,
            Source::Routes,
            Source::Services("a".into()),
            Source::Slices("a".into()),
            Source::Pods("a".into()),
            Source::Secret {
                namespace: "a".into(),
                name: "b".into(),
            },
        ];
        for kind in sources.each_ref().map(Source::kind) {
            let line = format!("olla_operator_watch_errors_total{{kind=\"{kind}\"}} 0\n");
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("olla_operator_acks_total{result=\"nack\"} 0\n"));
    }

    #[test]
    fn every_outcome_of_an_injection_is_there_before_it_happens() {
        use crate::injection::review::Outcome;

        let text = Metrics::default().text();
        let outcomes = [
            Outcome::Injected,
            Outcome::LeftAlone,
            Outcome::Refused,
            Outcome::Invalid,
        ];
        for word in outcomes.map(Outcome::word) {
            let line = format!("olla_operator_injections_total{{result=\"{word}\"}} 0\n");
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn counted_things_show_up_in_the_text() {
        let metrics = Metrics::default();
        metrics
            .token_reviews
            .get_or_create(&ResultLabel { result: "rejected" })
            .inc();
        let text = metrics.text();
        assert!(text.contains("olla_operator_token_reviews_total{result=\"rejected\"} 1"));
        assert!(text.ends_with("# EOF\n"));
    }
}
