//! The port that data planes connect to: TLS, HTTP/2, a ServiceAccount token, then one
//! [conversation](super::conversation) per stream.
//!
//! Errors before a conversation are JSON: 401 no or bad token, 403 no ServiceAccount, 404 and 405
//! not our path, 503 token not checkable now, or too many streams. A connection without a
//! conversation does not keep its slot.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use dataplane_protocol::sync::STREAM_PATH;
use http_body_util::{BodyExt as _, Channel, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use serving::{
    listen::accept,
    slots::{Slot, SlotLimits, Slots},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    conversation::{self, Context, DataPlane},
    hub::Hub,
    sessions::Sessions,
    status_cache::StatusCache,
};
use crate::{
    GATEWAY_ACCOUNT,
    events::Events,
    metrics::Metrics,
    tokens::{AuthError, Identity, Tokens},
};

const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// h2 pings find peers that are gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A data plane needs one; a few more while it reconnects.
const STREAMS_PER_CONNECTION: u32 = 16;
/// Bytes of lines that a connection may send ahead of the conversation that reads them: with the
/// one line that each conversation may hold, all that data planes can make the operator keep.
const WINDOW: u32 = 64 << 10;
const MAX_HEADERS: u32 = 32 << 10;
/// Chunks of 64 KiB between a conversation and its connection: what a slow reader holds at most,
/// beside h2's own window.
const CHANNEL: usize = 2;
/// From the goodbye to cutting what still hangs.
const DRAIN: Duration = Duration::from_secs(5);

/// For a data plane whose stream reached its lifetime: its longest pause between two tries, and
/// some. Until then its statuses say what they said.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// What all streams share.
#[derive(Debug)]
pub struct Server {
    pub tokens: Tokens,
    pub hub: Arc<Hub>,
    pub sessions: Arc<Sessions>,
    pub status_cache: Arc<StatusCache>,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub stop: CancellationToken,
    pub conversations: TaskTracker,
}

/// For how many, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Data planes of one namespace at a time; a sidecar is one. Default 1000.
    pub streams_per_namespace: usize,
    /// Beyond those, for the namespace's gateway: however many sidecars there are, it gets its table.
    /// Default 100.
    pub gateway_streams: usize,
    /// A connection without a conversation is closed after this long, or strangers who only answer
    /// pings would hold all slots. Default 15s.
    pub idle: Duration,
    /// A stream ends after this long, give or take a tenth, and the data plane proves itself again:
    /// a ServiceAccount that was deleted gets nothing any more. Default 60min.
    pub lifetime: Duration,
    /// From a line's first byte to its last: whoever begins one and stops keeps room for it.
    /// Default 10s.
    pub line: Duration,
    pub connections: SlotLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_namespace: 1000,
            gateway_streams: 100,
            idle: Duration::from_secs(15),
            lifetime: Duration::from_hours(1),
            line: Duration::from_secs(10),
            connections: SlotLimits {
                total: 20_000,
                unauthenticated: 5_000,
                per_address: 1_000,
                unauthenticated_per_address: 100,
            },
        }
    }
}

/// What its requests share.
#[derive(Clone, Debug)]
struct Connection {
    peer: IpAddr,
    streams: StreamCount,
    slot: Arc<Slot>,
}

/// How many conversations a connection carries.
type StreamCount = watch::Sender<usize>;

/// One of them, until dropped.
struct StreamGuard(StreamCount);

impl StreamGuard {
    fn new(streams: &StreamCount) -> Self {
        streams.send_modify(|count| *count += 1);
        Self(streams.clone())
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

type Body = BoxBody<Bytes, Infallible>;

impl Server {
    /// Until stopped; then streams end, and connections after them.
    pub async fn run(self: Arc<Self>, listener: TcpListener, tls: Arc<ServerConfig>) {
        let acceptor = TlsAcceptor::from(tls);
        let slots = Arc::new(Slots::new(self.limits.connections));
        let connections = TaskTracker::new();
        loop {
            let (stream, peer) = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = accept(&listener, "data planes") => accepted,
            };
            let peer = peer.ip();
            let Some(slot) = slots.take(peer) else {
                self.metrics.connections_refused.inc();
                tracing::debug!(%peer, "connection refused: too many connections of this address or in total");
                continue;
            };
            let connection = Connection {
                peer,
                streams: StreamCount::new(0),
                slot: Arc::new(slot),
            };
            let (server, acceptor) = (self.clone(), acceptor.clone());
            connections.spawn(async move {
                let slot = connection.slot.clone();
                tokio::select! {
                    () = server.clone().connection(stream, acceptor, connection) => {}
                    () = slot.evicted() => {
                        server.metrics.connections_refused.inc();
                        tracing::debug!(%peer, "connection closed to make room for another client");
                    }
                }
            });
        }
        drop(listener);
        self.conversations.close();
        connections.close();
        let drained = async {
            self.conversations.wait().await;
            connections.wait().await;
        };
        if timeout(DRAIN, drained).await.is_err() {
            tracing::debug!("connections left open at the end");
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        connection: Connection,
    ) {
        // Small messages must not wait for a full packet.
        let _ = stream.set_nodelay(true);
        let stream = match timeout(TLS_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
            Err(_) => return,
        };
        let server = self.clone();
        let idle = idle(connection.streams.subscribe(), self.limits.idle);
        let mut serve = std::pin::pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .max_concurrent_streams(STREAMS_PER_CONNECTION)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_header_list_size(MAX_HEADERS)
                .serve_connection(
                    TokioIo::new(stream),
                    service_fn(move |request| server.clone().answer(request, connection.clone())),
                )
        );
        let result = tokio::select! {
            result = serve.as_mut() => result,
            () = self.stop.cancelled() => {
                serve.as_mut().graceful_shutdown();
                timeout(DRAIN, serve).await.unwrap_or(Ok(()))
            }
            () = idle => {
                serve.as_mut().graceful_shutdown();
                // Whoever does not leave when asked is cut off.
                timeout(DRAIN, serve).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Connection,
    ) -> Result<Response<Body>, Infallible> {
        if request.uri().path() != STREAM_PATH {
            return Ok(refused(StatusCode::NOT_FOUND, "not_found", STREAM_PATH));
        }
        if request.method() != Method::POST {
            return Ok(refused(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "POST only",
            ));
        }
        let identity = match self.identify(&request, connection.peer).await {
            Ok(identity) => identity,
            Err(refusal) => return Ok(not_identified(&refusal)),
        };
        if self.sessions.connected(&identity.namespace) >= self.limits.streams(&identity) {
            let message = "this namespace has too many data planes connected";
            return Ok(refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_streams",
                message,
            ));
        }
        Ok(self.converse(identity, request.into_body(), connection))
    }

    async fn identify(
        &self,
        request: &Request<Incoming>,
        peer: IpAddr,
    ) -> Result<Identity, AuthError> {
        let token = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        match token {
            Some(token) => self.tokens.identify(token, peer).await,
            None => Err(AuthError::Invalid("no bearer token was sent".into())),
        }
    }

    fn converse(
        self: Arc<Self>,
        identity: Identity,
        lines: Incoming,
        connection: Connection,
    ) -> Response<Body> {
        let (tx, body) = Channel::new(CHANNEL);
        let context = Context {
            hub: self.hub.clone(),
            sessions: self.sessions.clone(),
            status_cache: self.status_cache.clone(),
            events: self.events.clone(),
            metrics: self.metrics.clone(),
            limit: self.limits.streams(&identity),
            line: self.limits.line,
            lifetime: jittered(self.limits.lifetime, fastrand::f64()),
        };
        let stop = self.stop.clone();
        let guard = StreamGuard::new(&connection.streams);
        let slot = connection.slot;
        self.conversations.spawn(async move {
            let talk = conversation::run(context, identity, lines, tx, &slot, stop.clone());
            let expired = talk.await;
            drop((guard, slot));
            if let Some(data_plane) = expired {
                await_return(data_plane, &stop).await;
            }
        });
        let mut response = Response::new(body.boxed());
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-ndjson"),
        );
        response
    }
}

impl Limits {
    fn streams(&self, identity: &Identity) -> usize {
        let own = match identity.service_account.as_str() {
            GATEWAY_ACCOUNT => self.gateway_streams,
            _ => 0,
        };
        self.streams_per_namespace + own
    }
}

/// Returns when the connection has carried no conversation for this long.
async fn idle(mut streams: watch::Receiver<usize>, patience: Duration) {
    loop {
        if streams.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        if timeout(patience, streams.wait_for(|count| *count > 0))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// From 0.9 to 1.1 of it as `random` goes from 0 to 1, so that streams that began together do not
/// end together.
fn jittered(lifetime: Duration, random: f64) -> Duration {
    lifetime.mul_f64(random.mul_add(0.2, 0.9))
}

/// Lets go of a data plane that had time enough to open a new stream.
async fn await_return(data_plane: DataPlane, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(BACK_WITHIN) => {}
    }
    drop(data_plane);
}

fn not_identified(refusal: &AuthError) -> Response<Body> {
    let (status, reason) = match refusal {
        AuthError::Invalid(_) => (StatusCode::UNAUTHORIZED, "unauthenticated"),
        AuthError::NotServiceAccount(_) => (StatusCode::FORBIDDEN, "no_service_account"),
        AuthError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "token_not_checked"),
    };
    // No more than this: whoever has no token could fill the log. The metric counts them.
    tracing::debug!(reason, %refusal, "data plane rejected");
    refused(status, reason, &refusal.to_string())
}

fn refused(status: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let text = serde_json::json!({ "error": { "reason": reason, "message": message } });
    let body = Full::new(Bytes::from(text.to_string())).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
