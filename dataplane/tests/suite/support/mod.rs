//! What the tests stand on: backends that misbehave to order, a data plane around some YAML, and
//! a client that sees the exact bytes.

pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod operator;
pub(crate) mod plane;
pub(crate) mod reply;
pub(crate) mod text;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Longest wait for what must come; far above what it takes, because machines may be loaded.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Returns once `condition` holds; fails with `what` when it does not come to.
pub(crate) async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(LOOK_EVERY).await;
    }
}
