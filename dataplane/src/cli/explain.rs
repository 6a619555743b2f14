//! `explain`: which endpoint a request would go to, and why not to the others.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use dataplane_core::InstanceView;
use dataplane_protocol::{RoutingTable, sync::Health};

use super::ExplainArgs;
use crate::terminal::{complain, say};
use crate::{admin, backend::prober, config::Settings, source::file, state::Shared};

/// How long the endpoints are looked at before the answer: a probe and a listing, each with the
/// time that it usually may take.
const LOOK_FOR: Duration = Duration::from_secs(15);

pub(super) fn explain(args: &ExplainArgs) -> Result<ExitCode> {
    let sources = file::read(&args.files.files)?;
    let understood = file::usable(&sources, args.files.namespace.as_deref())?;
    let shared = Shared::new(Settings::default());
    let table = Arc::new(understood.compiled.table);
    shared.apply(table.clone(), table.revision(), "file");
    if !args.offline {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        if !runtime.block_on(look(&shared)) {
            complain("some endpoints did not answer in time: judged by what is known of them");
        }
    }
    let explanation = admin::explain::ask(&shared, &args.path, args.model.as_deref());
    for line in explanation.lines() {
        say(&line);
    }
    if explanation.refusal.is_some() {
        complain("such a request would be refused");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Probes every instance once and lists its models, or gives up after a while. True when all is
/// known.
async fn look(shared: &Arc<Shared>) -> bool {
    let mut changes = shared.changes();
    let table = shared.table();
    let prober = tokio::spawn(prober::run(shared.clone()));
    let known = async {
        while !shared.view().instances.iter().all(|i| is_known(&table, i)) {
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    };
    let all = tokio::time::timeout(LOOK_FOR, known).await.is_ok();
    shared.life.drain.cancel();
    let _ = prober.await;
    all
}

/// Whether waiting would tell no more of it: it is unhealthy, or its models were asked for once
/// where they can be.
fn is_known(table: &RoutingTable, instance: &InstanceView) -> bool {
    let endpoint = table.endpoints.get(&instance.endpoint);
    let lists = endpoint.is_some_and(|endpoint| endpoint.models.discovery.is_some());
    match instance.health {
        Health::Unhealthy => true,
        Health::Healthy => !lists || instance.last_listing_ago_ms.is_some(),
        Health::Unknown => false,
    }
}
