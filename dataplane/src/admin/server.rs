//! A listener of its own for `/internal/…` and `/version`, for those who look after the data
//! plane: what is told there is not for every client. HTTP/1.1 without TLS.

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use super::answer;
use crate::{
    client::share::{Limits, Shares},
    proxy::{Asker, OutBody},
    socket,
    state::Shared,
};

/// Scrapers and people are few.
const MAX_CONNECTIONS: usize = 64;

/// Of one address.
const MAX_PER_CLIENT: usize = 8;

/// For a request's head, and between two on one connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// For a client that takes nothing of its answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest life of a connection: scrapers open another.
const LIFE: Duration = Duration::from_mins(5);

/// Serves until the process drains.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let limits = Limits {
        connections: MAX_PER_CLIENT,
        kept_bytes: 0,
        all_kept_bytes: 0,
    };
    let shares = Shares::new(limits, Arc::default());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = shared.life.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(share) = shares.admit(peer.ip().to_canonical()) else {
                    continue;
                };
                socket::watch(&stream, STALL_TIMEOUT);
                let shared = shared.clone();
                connections.spawn(async move {
                    let _ = timeout(LIFE, connection(&shared, stream)).await;
                    drop((share, place));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept on the admin listener failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(shared: &Arc<Shared>, stream: TcpStream) {
    let service = service_fn(|req: Request<Incoming>| {
        let query = req.uri().query().unwrap_or_default();
        let rsp = answer(shared, Asker::Admin, req.method(), req.uri().path(), query);
        let (head, body) = rsp.into_parts();
        let body = match body {
            OutBody::Whole(body) => body.unwrap_or_default(),
            OutBody::Relay(_) | OutBody::Watched(_) => bytes::Bytes::new(),
        };
        ready(Ok::<_, Infallible>(Response::from_parts(
            head,
            Full::new(body),
        )))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "connection to the admin listener ended");
    }
}
