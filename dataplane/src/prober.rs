//! Carries out the fleet's orders: health probes and model listings. One task gives them out,
//! each runs in its own with a limit on its time.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use dataplane_core::{InstanceInfo, Listed, Order, Probed};
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::Empty;
use tokio::{task::JoinSet, time::timeout};
use translate::listing;

use crate::{
    connect,
    http1::{self, Connection, Lines},
    state::Shared,
};

/// A listing may be slow to make (GPUStack asks its workers), but must not hang.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// Body of a probe's answer that is looked at, bytes.
const PROBE_BODY: usize = 64 * 1024;

static USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("olla-dataplane/", env!("CARGO_PKG_VERSION")));
static ACCEPT: HeaderValue = HeaderValue::from_static("application/json, */*");

/// Runs until the process drains.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut changes = shared.changes();
    let mut tasks = JoinSet::new();
    loop {
        let (orders, next) = shared.with_fleet(|fleet, now| {
            let orders = fleet.due(now);
            (orders, fleet.next_due().map(|at| at.since(now)))
        });
        for order in orders {
            let shared = shared.clone();
            tasks.spawn(async move {
                match order {
                    Order::Probe {
                        instance,
                        first_path,
                        timeout,
                    } => {
                        let result = probe(&instance, first_path, timeout).await;
                        let events =
                            shared.with_fleet(|fleet, now| fleet.probed(instance.key, result, now));
                        shared.carry_out(events);
                    }
                    Order::List { instance } => {
                        let result = list(&instance).await;
                        let events =
                            shared.with_fleet(|fleet, now| fleet.listed(instance.key, result, now));
                        shared.carry_out(events);
                    }
                }
            });
        }
        // Never shorter than a millisecond: a due order that cannot be given out yet must not
        // make this spin.
        let pause = next
            .unwrap_or(Duration::from_secs(3600))
            .max(Duration::from_millis(1));
        tokio::select! {
            () = shared.drain.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a probe died");
                }
            }
            Ok(()) = changes.changed() => {}
        }
    }
    tasks.shutdown().await;
}

async fn probe(instance: &Arc<InstanceInfo>, first: usize, limit: Duration) -> Probed {
    let paths = &instance.endpoint.health.paths;
    let all = async {
        let mut reason = "no health path".to_owned();
        for at in (0..paths.len()).map(|n| (first + n) % paths.len()) {
            let Some(path) = paths.get(at) else { continue };
            match get(instance, path, PROBE_BODY).await {
                Ok((status, _)) if status.is_success() => return Probed::Good { path: at },
                Ok((status, _)) => reason = format!("GET {path} answered {}", status.as_u16()),
                Err(error) => {
                    // Not even connected or answered: another path will not be either.
                    return Probed::Bad {
                        reason: format!("GET {path}: {error}"),
                    };
                }
            }
        }
        Probed::Bad { reason }
    };
    let result = timeout(limit, all).await;
    result.unwrap_or_else(|_| Probed::Bad {
        reason: format!("no answer in {limit:?}"),
    })
}

async fn list(instance: &Arc<InstanceInfo>) -> Listed {
    let Some(discovery) = &instance.endpoint.models.discovery else {
        return Listed::Unsupported;
    };
    let all = async {
        let mut reason = String::new();
        for listing in &discovery.listings {
            let path = &listing.path;
            match get(instance, path, listing::MAX_BYTES).await {
                Ok((StatusCode::OK, body)) => match listing::parse(listing.format, &body) {
                    Ok(models) => {
                        return Listed::Models {
                            models,
                            detected: listing.detects.clone(),
                        };
                    }
                    Err(error) => reason = format!("GET {path}: {error}"),
                },
                Ok((
                    StatusCode::NOT_FOUND
                    | StatusCode::METHOD_NOT_ALLOWED
                    | StatusCode::NOT_IMPLEMENTED,
                    _,
                )) => {}
                Ok((status, _)) => reason = format!("GET {path} answered {}", status.as_u16()),
                Err(error) => reason = format!("GET {path}: {error}"),
            }
        }
        if reason.is_empty() {
            Listed::Unsupported
        } else {
            Listed::Failed { reason }
        }
    };
    let result = timeout(LIST_TIMEOUT, all).await;
    result.unwrap_or_else(|_| Listed::Failed {
        reason: format!("no answer in {LIST_TIMEOUT:?}"),
    })
}

/// One GET on a connection of its own: a kept-alive one could outlive the server it tells about.
async fn get(
    info: &InstanceInfo,
    path: &str,
    limit_bytes: usize,
) -> Result<(StatusCode, Vec<u8>), String> {
    let io = connect::open(&info.instance)
        .await
        .map_err(|error| error.to_string())?;
    let mut head = Lines::new(&Method::GET, &[&info.endpoint.base_path, path]);
    let host = HeaderValue::try_from(connect::authority(&info.instance));
    head.add(&header::HOST, &host.map_err(|error| error.to_string())?);
    head.add(&header::USER_AGENT, &USER_AGENT);
    head.add(&header::ACCEPT, &ACCEPT);
    head.add(&header::CONNECTION, &HeaderValue::from_static("close"));
    if let Some((name, value)) = connect::credential(&info.endpoint.credential) {
        head.add(&name, &value);
    }
    let mut connection = Connection::new(io);
    connection.send(Method::GET, head, Empty::<Bytes>::new());
    let answer = whole(&mut connection, limit_bytes).await;
    answer.map_err(|error| error.to_string())
}

async fn whole(
    connection: &mut Connection<connect::Io, Empty<Bytes>>,
    limit_bytes: usize,
) -> Result<(StatusCode, Vec<u8>), http1::Error> {
    let (head, first) = poll_fn(|cx| connection.poll_head(cx)).await?;
    let mut body = first.to_vec();
    while let Some(data) = poll_fn(|cx| connection.poll_data(cx)).await? {
        body.extend_from_slice(&data);
        if body.len() > limit_bytes {
            return Err(http1::Error::TooLong { limit_bytes });
        }
    }
    Ok((head.status, body))
}
