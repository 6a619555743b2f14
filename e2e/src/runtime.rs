//! One runtime for all sockets of the harness: mocks serve on it while tests block.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Result<Runtime, std::io::Error>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("e2e")
                .enable_all()
                .build()
        })
        .as_ref()
        .map_err(|error| anyhow!("start the harness's runtime: {error}"))
}

/// Runs to its end on the calling thread, a test's.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T> {
    Ok(runtime()?.block_on(work))
}

/// The same with an end: a hung peer must not hang the test run.
pub(crate) fn block_on_for<T>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    block_on(async {
        tokio::time::timeout(limit, work)
            .await
            .map_err(|_| anyhow!("no end within {limit:?}"))?
    })?
    .with_context(|| what.to_owned())
}
