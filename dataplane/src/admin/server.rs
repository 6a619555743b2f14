//! A listener of its own for `/internal/…` and `/version`, for those who look after the data
//! plane: what is told there is not for every client. HTTP/1.1 without TLS.

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serving::{
    listen::accept,
    slots::{SlotLimits, Slots},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::answer;
use crate::{
    proxy::{Asker, OutBody},
    socket,
    state::Shared,
};

/// Scrapers and people are few. Nobody authenticates: over the total, a client that has more
/// connections than another loses its oldest to that one, so that silent ones keep nobody out.
const LIMITS: SlotLimits = SlotLimits {
    total: 64,
    unauthenticated: 64,
    per_address: 8,
    unauthenticated_per_address: 8,
};

/// For a request's head, and between two on one connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// For a client that takes nothing of its answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest life of a connection: scrapers open another.
const LIFE: Duration = Duration::from_mins(5);

/// Serves until the process drains.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let slots = Arc::new(Slots::new(LIMITS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, peer) = tokio::select! {
            () = shared.life.drain.cancelled() => return,
            accepted = accept(&listener, "admin") => accepted,
        };
        let Some(slot) = slots.take(peer.ip()) else {
            continue;
        };
        socket::watch(&stream, STALL_TIMEOUT);
        let shared = shared.clone();
        connections.spawn(async move {
            tokio::select! {
                _ = timeout(LIFE, connection(&shared, stream)) => {}
                () = slot.evicted() => {}
            }
        });
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
