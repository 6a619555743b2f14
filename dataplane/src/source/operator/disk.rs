//! The last good table on disk: what a restart serves from until the operator speaks. It holds
//! no credential, and is its owner's alone.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dataplane_protocol::{
    Revision, RoutingTable,
    resource::ResourceSet,
    sync::{FORMAT, FORMATS},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::Client;
use crate::state::Shared;

/// File of the last good table in the state folder.
const TABLE_FILE: &str = "table.json";

/// Between two tables written at least: of many changes only the last matters.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// And at least so many times what writing the last one took, which grows with the table and the
/// slowness of the disk: a table that changes all the time costs 2% of a core to keep.
const PAUSE_FOR_WORK: u32 = 50;

/// But not longer: so old may be what is read after a crash.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is kept on disk.
#[derive(Deserialize, Serialize)]
struct OnDisk {
    format: u32,
    revision: Revision,
    table: RoutingTable,
}

impl Client {
    /// Makes the state folder. Without one the data plane serves all the same, but a restart
    /// depends on the operator.
    pub(super) fn make_state_dir(&mut self) {
        if let Some(dir) = &self.config.state_dir
            && let Err(error) = fs::create_dir_all(dir)
        {
            let dir = dir.display();
            tracing::warn!(%dir, %error, "no last good table is kept: set --state-dir to a folder that can be written");
            self.config.state_dir = None;
        }
    }

    /// Serves from disk until the operator speaks; what the operator does not know then, it keeps.
    pub fn load_last_good(&mut self, shared: &Shared) {
        let Some(path) = self.table_path() else {
            return;
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "last good table not read");
                return;
            }
        };
        match serde_json::from_slice::<OnDisk>(&text) {
            Ok(kept) if FORMATS.contains(&kept.format) => {
                if let Err(reason) = kept.table.check() {
                    tracing::warn!(reason, "last good table cannot be used");
                    return;
                }
                self.held = ResourceSet::held(&kept.table);
                shared.apply(Arc::new(kept.table), kept.revision, "disk");
            }
            Ok(kept) => {
                tracing::warn!(format = kept.format, "last good table is of another format");
            }
            Err(error) => tracing::warn!(%error, "last good table is damaged"),
        }
    }

    fn table_path(&self) -> Option<PathBuf> {
        self.config
            .state_dir
            .as_ref()
            .map(|dir| dir.join(TABLE_FILE))
    }

    /// The task that writes tables for the next start. Disks are slow now and then, and what
    /// serves and probes must not wait for them.
    /// Ends when the client lets go of its keeper, which it does when the process drains.
    pub(super) fn start_keeper(
        &mut self,
        drain: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let (sender, mut tables) = watch::channel(None);
        self.keeper = Some(Keeper(sender));
        let path = self.table_path();
        async move {
            let Some(path) = path else { return };
            while tables.changed().await.is_ok() {
                let Some(snapshot) = tables.borrow_and_update().clone() else {
                    continue;
                };
                let path = path.clone();
                let began = Instant::now();
                let writing = tokio::task::spawn_blocking(move || write(&path, &snapshot));
                if let Err(error) = writing.await {
                    tracing::error!(%error, "storing the last good table failed");
                }
                tokio::select! {
                    () = tokio::time::sleep(pause_after(began.elapsed())) => {}
                    // The data plane ends: what came meanwhile is written at once.
                    () = drain.cancelled() => {}
                }
            }
        }
    }

    /// Has the table written for the next start, or a newer one that comes soon.
    pub(super) fn keep(&self, snapshot: Snapshot) {
        if let Some(Keeper(sender)) = &self.keeper {
            sender.send_replace(Some(snapshot));
        }
    }
}

/// A table in pieces: what of it goes to disk is only made when it does.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) namespace: String,
    pub(super) set: ResourceSet,
}

/// Where the newest table to be written stands.
#[derive(Debug)]
pub(super) struct Keeper(watch::Sender<Option<Snapshot>>);

fn pause_after(work: Duration) -> Duration {
    (work * PAUSE_FOR_WORK).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// All of it or nothing, and no credential.
fn write(path: &Path, Snapshot { namespace, set }: &Snapshot) {
    let kept = OnDisk {
        format: FORMAT,
        revision: set.revision(),
        table: set.to_table(namespace).without_credentials(),
    };
    let written = serde_json::to_vec(&kept)
        .map_err(io::Error::other)
        .and_then(|text| {
            let temporary = path.with_extension("tmp");
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&temporary)?;
            // One left over by an older release may be open to others.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(&text)?;
            // Renamed only once it is whole, also after a power cut.
            file.sync_all()?;
            fs::rename(&temporary, path)
        });
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "storing the last good table failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_a_table_takes_to_write_the_rarer_it_is_written() {
        for (took_ms, pause_ms) in [(0, 1_000), (5, 1_000), (100, 5_000), (60_000, 30_000)] {
            let pause = pause_after(Duration::from_millis(took_ms));
            assert_eq!(pause, Duration::from_millis(pause_ms), "{took_ms} ms");
        }
    }
}
