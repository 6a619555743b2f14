//! Status documents: Olla's field names where it has them, with the numbers right.

use std::sync::Arc;

use dataplane_core::FleetView;
use dataplane_protocol::{
    status::{Condition, Config, Endpoints, InstanceView, Model, Models, Status, System},
    sync::Health,
};

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
pub(super) fn system(shared: &Arc<Shared>, asker: Asker) -> Status {
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
        (0, _) => Condition::Critical,
        (usable, total) if usable < total => Condition::Degraded,
        _ => Condition::Healthy,
    };
    Status {
        system: System {
            status,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: shared.clock.now().as_micros() / 1_000_000,
            endpoints_up: format!("{usable}/{}", view.instances.len()),
            active_connections: in_flight,
            total_requests: requests,
            total_failures: failures,
            draining: shared.life.leaving.is_cancelled(),
        },
        config: Config {
            namespace: view.namespace,
            revision: source.revision,
            origin: source.origin.to_owned(),
            problem: source.problem,
        },
        endpoints: view.instances,
    }
}

/// `/internal/status/endpoints`
pub(super) fn endpoints(shared: &Arc<Shared>, asker: Asker) -> Endpoints {
    let view = view(shared, asker);
    let count = |wanted: fn(&InstanceView) -> bool| {
        view.instances
            .iter()
            .filter(|instance| wanted(instance))
            .count()
    };
    Endpoints {
        total_count: view.instances.len(),
        healthy_count: count(|instance| instance.health == Health::Healthy),
        routable_count: count(|instance| instance.usable),
        endpoints: view.instances,
    }
}

/// `/internal/status/models`
pub(super) fn models(shared: &Arc<Shared>) -> Models {
    let models = shared.with_fleet(|fleet, _| fleet.models(None, None));
    let models: Vec<Model> = models
        .into_iter()
        .map(|model| Model {
            name: model.name,
            endpoints: model.endpoints,
        })
        .collect();
    Models {
        total_models: models.len(),
        models,
    }
}
