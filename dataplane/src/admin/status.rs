//! Status documents: Olla's field names where it has them, with the numbers right.

use std::sync::Arc;

use dataplane_core::FleetView;
use dataplane_protocol::sync::Health;
use serde_json::{Value, json};

use crate::{proxy::Asker, state::Shared};

/// What this asker may see of all instances.
fn view(shared: &Arc<Shared>, asker: Asker) -> FleetView {
    let mut view = shared.view();
    if asker == Asker::Remote {
        for instance in &mut view.instances {
            instance.url.clear();
        }
    }
    view
}

/// `/internal/status`
pub(super) fn system(shared: &Arc<Shared>, asker: Asker) -> Value {
    let view = view(shared, asker);
    let source = shared.source();
    let usable = view
        .instances
        .iter()
        .filter(|instance| instance.usable)
        .count();
    let requests: u64 = view
        .instances
        .iter()
        .map(|instance| instance.requests)
        .sum();
    let failures: u64 = view
        .instances
        .iter()
        .map(|instance| instance.failures)
        .sum();
    let in_flight: u32 = view
        .instances
        .iter()
        .map(|instance| instance.in_flight)
        .sum();
    let status = match (usable, view.instances.len()) {
        (0, _) => "critical",
        (usable, total) if usable < total => "degraded",
        _ => "healthy",
    };
    json!({
        "system": {
            "status": status,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": shared.clock.now().as_micros() / 1_000_000,
            "endpoints_up": format!("{usable}/{}", view.instances.len()),
            "active_connections": in_flight,
            "total_requests": requests,
            "total_failures": failures,
            "draining": shared.life.leaving.is_cancelled(),
        },
        "config": {
            "namespace": shared.namespace(),
            "revision": source.revision,
            "origin": source.origin,
            "problem": source.problem,
        },
        "endpoints": view.instances,
    })
}

/// `/internal/status/endpoints`
pub(super) fn endpoints(shared: &Arc<Shared>, asker: Asker) -> Value {
    let view = view(shared, asker);
    let count = |wanted: fn(&dataplane_core::InstanceView) -> bool| {
        view.instances
            .iter()
            .filter(|instance| wanted(instance))
            .count()
    };
    json!({
        "total_count": view.instances.len(),
        "healthy_count": count(|instance| instance.health == Health::Healthy),
        "routable_count": count(|instance| instance.usable),
        "endpoints": view.instances,
    })
}

/// `/internal/status/models`
pub(super) fn models(shared: &Arc<Shared>) -> Value {
    let models = shared.with_fleet(|fleet, _| fleet.models(None, None));
    let list: Vec<Value> = models
        .iter()
        .map(|model| json!({ "name": model.name, "endpoints": model.endpoints }))
        .collect();
    json!({ "total_models": list.len(), "models": list })
}
