//! Carries out the fleet's orders: health probes and model listings. One task gives them out,
//! each runs in its own with a limit on its time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dataplane_core::{InstanceInfo, Listed, Order, Probed};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{task::JoinSet, time::timeout};
use translate::listing;

use crate::{connect, state::Shared};

/// A listing may be slow to make (GPUStack asks its workers), but must not hang.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// Body of a probe's answer that is looked at, bytes.
const PROBE_BODY: usize = 64 * 1024;

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
) -> Result<(StatusCode, Bytes), String> {
    let io = connect::open(&info.instance)
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| error.to_string())?;
    let mut req = Request::get(format!("{}{path}", info.endpoint.base_path))
        .header(header::HOST, connect::authority(&info.instance))
        .header(
            header::USER_AGENT,
            concat!("olla-dataplane/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::ACCEPT, "application/json, */*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    if let Some((name, value)) = connect::credential(&info.endpoint.credential) {
        req.headers_mut().insert(name, value);
    }
    let exchange = async {
        let rsp = sender
            .send_request(req)
            .await
            .map_err(|error| error.to_string())?;
        let status = rsp.status();
        let body = Limited::new(rsp.into_body(), limit_bytes).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, body))
    };
    // The connection ends by itself once the answer is read.
    let (result, _) = futures::join!(exchange, connection);
    result
}
