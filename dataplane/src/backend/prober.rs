//! Carries out the fleet's orders: health probes and model listings. One task gives them out,
//! each runs in its own with a limit on its time.

use std::{fmt::Display, future::poll_fn, io, sync::Arc, time::Duration};

use bytes::Bytes;
use dataplane_core::{InstanceInfo, LISTING_TIMEOUT, ListingResult, Order, ProbeResult};
use dialect::listing;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::Empty;
use http1::{Head, Lines};
use serving::descriptors;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    backend::{connect, connection::Connection},
    io::Io,
    state::Shared,
};

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
            () = shared.life.drain.cancelled() => break,
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

async fn probe(instance: &Arc<InstanceInfo>, first: usize, limit: Duration) -> ProbeResult {
    let paths = &instance.endpoint.health.paths;
    let all = async {
        let mut reason = "no health path".to_owned();
        for at in (0..paths.len()).map(|n| (first + n) % paths.len()) {
            let Some(path) = paths.get(at) else { continue };
            match ask(instance, path).await.map(|(head, ..)| head.status) {
                Ok(status) if status.is_success() => return ProbeResult::Good { path: at },
                Ok(status) => reason = format!("GET {path} answered {}", status.as_u16()),
                Err(Failure::NotAsked(error)) => {
                    let instance = &instance.instance.id;
                    tracing::warn!(%instance, %error, "no health probe: no file descriptors left");
                    return ProbeResult::NotAsked;
                }
                Err(error) => {
                    // Not even connected or answered: another path will not be either.
                    return ProbeResult::Bad {
                        reason: format!("GET {path}: {error}"),
                    };
                }
            }
        }
        ProbeResult::Bad { reason }
    };
    let result = timeout(limit, all).await;
    result.unwrap_or_else(|_| ProbeResult::Bad {
        reason: format!("no answer in {limit:?}"),
    })
}

async fn list(instance: &Arc<InstanceInfo>) -> ListingResult {
    let Some(discovery) = &instance.endpoint.models.discovery else {
        return ListingResult::Unsupported;
    };
    let all = async {
        let mut reason = String::new();
        for listing in &discovery.listings {
            let path = &listing.path;
            match get(instance, path).await {
                Ok((StatusCode::OK, body)) => match listing::parse(listing.format, &body) {
                    Ok(found) => {
                        if found.dropped > 0 {
                            let instance = &instance.instance.id;
                            let (dropped, limit) = (found.dropped, listing::MAX_MODELS);
                            tracing::warn!(%instance, dropped, limit, "too many models listed");
                        }
                        return ListingResult::Models {
                            models: found.models,
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
            ListingResult::Unsupported
        } else {
            ListingResult::Failed { reason }
        }
    };
    let result = timeout(LISTING_TIMEOUT, all).await;
    result.unwrap_or_else(|_| ListingResult::Failed {
        reason: format!("no answer in {LISTING_TIMEOUT:?}"),
    })
}

type Probe = Connection<Io, Empty<Bytes>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// This process has no file descriptors left.
    #[error("{0}")]
    NotAsked(io::Error),
    #[error("{0}")]
    NoAnswer(String),
}

fn no_answer(error: impl Display) -> Failure {
    Failure::NoAnswer(error.to_string())
}

/// One GET on a connection of its own: a kept-alive one could outlive the server it tells about.
/// Gives the head, and what of the body came with it.
async fn ask(info: &InstanceInfo, path: &str) -> Result<(Head, Bytes, Probe), Failure> {
    let io = connect::open(&info.instance).await.map_err(|error| {
        if descriptors::are_used_up(&error) {
            Failure::NotAsked(error)
        } else {
            no_answer(error)
        }
    })?;
    let mut lines = Lines::new(&Method::GET, &[&info.endpoint.base_path, path]);
    let host = HeaderValue::try_from(connect::authority(&info.instance));
    lines.add(&header::HOST, &host.map_err(no_answer)?);
    lines.add(&header::USER_AGENT, &USER_AGENT);
    lines.add(&header::ACCEPT, &ACCEPT);
    lines.add(&header::CONNECTION, &HeaderValue::from_static("close"));
    if let Some((name, value)) = connect::credential(&info.endpoint.credential) {
        lines.add(&name, &value);
    }
    let mut connection = Connection::new(io);
    connection.send(Method::GET, lines, Empty::new());
    let answer = poll_fn(|cx| connection.poll_head(cx)).await;
    let (head, first) = answer.map_err(no_answer)?;
    Ok((head, first, connection))
}

/// The answer's whole body too, up to what a listing may have.
async fn get(info: &InstanceInfo, path: &str) -> Result<(StatusCode, Vec<u8>), Failure> {
    let (head, first, mut connection) = ask(info, path).await?;
    let mut body = first.to_vec();
    loop {
        let data = poll_fn(|cx| connection.poll_data(cx)).await;
        let Some(data) = data.map_err(no_answer)? else {
            return Ok((head.status, body));
        };
        body.extend_from_slice(&data);
        if body.len() > listing::MAX_BYTES {
            let limit = listing::MAX_BYTES;
            return Err(no_answer(format_args!("over {limit} bytes long")));
        }
    }
}
