//! `explain`: which endpoint a request would go to, and why not to the others.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use dataplane_protocol::{Revision, sync::Health};

use super::{ExplainArgs, complain, say};
use crate::{config::Settings, explain, prober, source::file, state::Shared};

/// How long the endpoints are looked at before the answer.
const LOOK_FOR: Duration = Duration::from_secs(6);

pub(super) fn explain(args: &ExplainArgs) -> Result<ExitCode> {
    let sources = file::read(&args.files.files)?;
    let understood = file::usable(&sources, args.files.namespace.as_deref())?;
    let shared = Shared::new(Settings::default());
    shared.apply(Arc::new(understood.compiled.table), Revision(1), "file");
    if !args.offline {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        runtime.block_on(look(&shared));
    }
    let explanation = explain::ask(&shared, &args.path, args.model.as_deref());
    for line in explanation.lines() {
        say(&line);
    }
    if explanation.refusal.is_some() {
        complain("such a request would be refused");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Probes every instance once and lists its models, or gives up after a while.
async fn look(shared: &Arc<Shared>) {
    let mut changes = shared.changes();
    let prober = tokio::spawn(prober::run(shared.clone()));
    let known = async {
        while !shared.view().instances.iter().all(|instance| {
            instance.health == Health::Unhealthy
                || (instance.health == Health::Healthy
                    && (instance.models.is_some() || !instance.models_reason.is_empty()))
        }) {
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    };
    let _ = tokio::time::timeout(LOOK_FOR, known).await;
    shared.drain.cancel();
    let _ = prober.await;
}
