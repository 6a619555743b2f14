//! Small values for tests.

use std::sync::Arc;

use compile::{Kind, Problem, Verdict};
use crds::Reason;
use dataplane_protocol::{
    Resource,
    resource::ResourceSet,
    sync::{Breaker, Health, InstanceReport},
    table::{Instance, Scheme},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::snapshot::{Content, Snapshot};

/// Resources in which endpoint `e` has instances `e/PORT`.
pub(crate) fn resources(ports: &[u16]) -> ResourceSet {
    let mut set = ResourceSet::default();
    for port in ports {
        set.upsert(instance(*port, "10.0.0.1"));
    }
    set
}

/// Instance `e/PORT` of endpoint `e`.
pub(crate) fn instance(port: u16, host: &str) -> Resource {
    Resource::Instance {
        endpoint: "e".into(),
        instance: Arc::new(Instance {
            id: format!("e/{port}").into(),
            scheme: Scheme::Http,
            host: host.into(),
            port,
        }),
    }
}

/// What follows `previous` when these are all resources and verdicts.
pub(crate) fn content(
    previous: Option<&Snapshot>,
    ports: &[u16],
    verdicts: Vec<Verdict>,
) -> Content {
    let by_name = verdicts.into_iter();
    let verdicts = by_name.map(|it| ((it.kind, it.name.clone()), it)).collect();
    Content::after(previous, resources(ports), verdicts)
}

/// The snapshot of these, where they differ from `previous`.
pub(crate) fn follow(
    previous: Option<&Snapshot>,
    ports: &[u16],
    verdicts: Vec<Verdict>,
) -> Snapshot {
    let content = content(previous, ports, verdicts);
    Snapshot::next(previous, "a", content).unwrap()
}

pub(crate) fn route_verdict(name: &str, generation: i64) -> Verdict {
    verdict(Kind::OllaRoute, name, generation)
}

fn verdict(kind: Kind, name: &str, generation: i64) -> Verdict {
    let metadata = ObjectMeta {
        generation: Some(generation),
        ..ObjectMeta::default()
    };
    Verdict::good(kind, name, &metadata)
}

pub(crate) fn endpoint_verdict(name: &str, generation: i64, instances: u32) -> Verdict {
    Verdict {
        instances,
        ..verdict(Kind::LlmEndpoint, name, generation)
    }
}

pub(crate) fn problem(field: &str, message: &str) -> Problem {
    Problem {
        reason: Reason::Invalid,
        field: field.to_owned(),
        message: message.to_owned(),
        others: Vec::new(),
    }
}

pub(crate) fn instance_report(
    endpoint: &str,
    instance: &str,
    health: Health,
    breaker: Breaker,
) -> InstanceReport {
    InstanceReport {
        endpoint: endpoint.into(),
        instance: instance.into(),
        health,
        breaker,
        reason: String::new(),
    }
}
