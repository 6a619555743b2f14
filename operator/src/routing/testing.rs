//! Small values for tests.

use std::sync::Arc;

use compile::{Compiled, Kind, Problem, Verdict};
use crds::Reason;
use dataplane_protocol::{
    RoutingTable,
    sync::{Breaker, Health, InstanceReport},
    table::{Instance, Scheme},
};

/// A table in which endpoint `e` has instances `e/PORT`.
pub(crate) fn compiled(namespace: &str, ports: &[u16], verdicts: Vec<Verdict>) -> Compiled {
    let mut table = RoutingTable {
        namespace: namespace.to_owned(),
        ..RoutingTable::default()
    };
    let list = ports
        .iter()
        .map(|port| Instance {
            id: format!("e/{port}").into(),
            scheme: Scheme::Http,
            host: "10.0.0.1".into(),
            port: *port,
        })
        .collect();
    table.instances.insert("e".into(), Arc::new(list));
    Compiled { table, verdicts }
}

pub(crate) fn route_verdict(name: &str, generation: i64) -> Verdict {
    Verdict {
        kind: Kind::OllaRoute,
        name: name.to_owned(),
        generation,
        accepted: Ok(()),
        resolved_refs: Ok(()),
        reachable: Ok(()),
        instances: 0,
        uid: None,
        in_use: None,
    }
}

pub(crate) fn endpoint_verdict(name: &str, generation: i64, instances: u32) -> Verdict {
    Verdict {
        kind: Kind::LlmEndpoint,
        instances,
        ..route_verdict(name, generation)
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
