//! The webhook's port: TLS and HTTP/1.1, as API servers speak to webhooks.
//!
//! Nobody authenticates here: an answer tells nothing that its question did not hold. 404 and 405 not
//! our path, 400 no AdmissionReview, 411 and 413 a body without a length or too long, 408 one that does
//! not come in time, or for which there is no room in time.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{CONNECTION, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use injection::Settings;
use parking_lot::Mutex;
use rustls::ServerConfig;
use serving::{
    listen::accept,
    slots::{Slot, SlotLimits, Slots},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    NAMESPACE_PATH, POD_PATH,
    review::{self, Outcome},
    room::Room,
};
use crate::metrics::{Metrics, ResultLabel};

const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// Also between two requests. API servers keep connections for 90 s; one that is closed under a request
/// is a pod without a sidecar, so they are to be the first to close.
const IDLE: Duration = Duration::from_secs(120);
/// Anybody can refuse a certificate, as often as they like.
const WARN_EVERY: Duration = Duration::from_mins(1);
/// The API server waits 5 s for an answer.
const BODY_TIMEOUT: Duration = Duration::from_secs(4);
/// The API server takes objects of 3 MiB at most, and writes some more around them.
const MAX_BODY: usize = 4 << 20;
/// So much of a body has its room with its connection: most pods whole, whatever others send.
const OWN_ROOM: usize = 64 << 10;
/// Of what is beyond that of all bodies together, bytes: read, they are some times as large.
const ALL_BODIES: usize = 16 << 20;
/// After the goodbye connections are still accepted: it takes a while until API servers no longer
/// come here, and one that is refused is a pod without a sidecar.
const LINGER: Duration = Duration::from_secs(3);
/// From then to cutting what still hangs.
const DRAIN: Duration = Duration::from_secs(4);
/// An API server keeps up to 25 idle connections, and opens more when many pods are created at once.
const LIMITS: SlotLimits = SlotLimits {
    total: 256,
    unauthenticated: 256,
    per_address: 64,
    unauthenticated_per_address: 64,
};

#[derive(Debug)]
pub struct Webhook {
    settings: Settings,
    metrics: Arc<Metrics>,
    bodies: Arc<Room>,
    /// Of a certificate that was refused.
    warned: Mutex<Option<Instant>>,
}

impl Webhook {
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            metrics,
            bodies: Room::new(ALL_BODIES),
            warned: Mutex::default(),
        })
    }

    /// Until stopped and some seconds more; requests that have begun are answered.
    pub async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        stop: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let slots = Arc::new(Slots::new(LIMITS));
        let connections = TaskTracker::new();
        let mut end = std::pin::pin!(async {
            stop.cancelled().await;
            sleep(LINGER).await;
        });
        loop {
            let (stream, peer) = tokio::select! {
                () = end.as_mut() => break,
                accepted = accept(&listener, "webhook") => accepted,
            };
            let Some(slot) = slots.take(peer.ip()) else {
                tracing::debug!(%peer, "connection to the webhook refused: too many connections");
                continue;
            };
            let webhook = self.clone();
            let (acceptor, stop) = (acceptor.clone(), stop.clone());
            connections.spawn(webhook.connection(stream, peer, slot, acceptor, stop));
        }
        connections.close();
        if timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::debug!("connections to the webhook left open at the end");
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        slot: Slot,
        acceptor: TlsAcceptor,
        stop: CancellationToken,
    ) {
        let _ = stream.set_nodelay(true);
        let stream = tokio::select! {
            shaken = timeout(TLS_TIMEOUT, acceptor.accept(stream)) => match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    self.not_shaken(peer, &error);
                    return;
                }
                Err(_) => return,
            },
            () = slot.evicted() => return,
        };
        let (webhook, stopping) = (self.clone(), stop.clone());
        let answer = service_fn(move |request| {
            let (webhook, stopping) = (webhook.clone(), stopping.clone());
            async move {
                let mut response = webhook.answer(request, peer.ip()).await;
                if stopping.is_cancelled() {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(response)
            }
        });
        // Came after the goodbye: one question, and its answer says that it was the last.
        let late = stop.is_cancelled();
        let mut serve = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .serve_connection(TokioIo::new(stream), answer)
        );
        tokio::select! {
            _ = serve.as_mut() => {}
            () = slot.evicted() => {}
            () = stop.cancelled(), if !late => {
                serve.as_mut().graceful_shutdown();
                let _ = serve.await;
            }
        }
    }

    fn not_shaken(&self, peer: SocketAddr, error: &io::Error) {
        tracing::debug!(%peer, %error, "TLS handshake at the webhook failed");
        if !refuses_certificate(error) {
            return;
        }
        self.metrics.webhook_untrusted.inc();
        let now = Instant::now();
        let mut warned = self.warned.lock();
        if warned.is_none_or(|at| now.duration_since(at) >= WARN_EVERY) {
            *warned = Some(now);
            tracing::warn!(
                %peer, %error,
                "a client of the webhook refuses its certificate; if it is an API server, pods get no sidecars: \
                 the certificate must be valid for olla-operator-webhook.NAMESPACE.svc, and its CA in the webhook's configuration"
            );
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Response<Full<Bytes>> {
        let namespace_asks = match request.uri().path() {
            POD_PATH => false,
            NAMESPACE_PATH => true,
            _ => return problem(StatusCode::NOT_FOUND, "not found"),
        };
        if request.method() != Method::POST {
            return problem(StatusCode::METHOD_NOT_ALLOWED, "POST only");
        }
        let (outcome, response) = match self.review(request.into_body(), peer, namespace_asks).await
        {
            Ok((Outcome::Invalid, _)) => (
                Outcome::Invalid,
                problem(StatusCode::BAD_REQUEST, "not an AdmissionReview of v1"),
            ),
            Ok((outcome, text)) => (outcome, json(text)),
            Err((status, message)) => (Outcome::Invalid, problem(status, message)),
        };
        let label = ResultLabel {
            result: outcome.word(),
        };
        self.metrics.injections.get_or_create(&label).inc();
        response
    }

    async fn review(
        &self,
        mut body: Incoming,
        peer: IpAddr,
        namespace_asks: bool,
    ) -> Result<(Outcome, Vec<u8>), (StatusCode, &'static str)> {
        // API servers send it. Without it nobody knows how much room is needed.
        let length = body.size_hint().exact();
        let length = length.ok_or((StatusCode::LENGTH_REQUIRED, "a body with a length, please"))?;
        if length > MAX_BODY as u64 {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, "more than 4 MiB"));
        }
        let late = |_| (StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
        let read = async {
            let mut room = self.bodies.share(peer);
            // Takes no memory before bytes come.
            let mut text = Vec::with_capacity(length as usize);
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| (StatusCode::BAD_REQUEST, "the body broke off"))?;
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                let length = text.len() + data.len();
                room.grow_to(length.saturating_sub(OWN_ROOM)).await;
                text.extend_from_slice(&data);
            }
            Ok((room, text))
        };
        let (_room, body) = timeout(BODY_TIMEOUT, read).await.map_err(late)??;
        Ok(review::answer(&body, namespace_asks, &self.settings))
    }
}

/// What a client says that does not trust the certificate, or its name.
fn refuses_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::AlertReceived(_)))
}

fn json(text: Vec<u8>) -> Response<Full<Bytes>> {
    typed(StatusCode::OK, "application/json", text)
}

fn problem(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    typed(
        status,
        "text/plain; charset=utf-8",
        format!("{message}\n").into_bytes(),
    )
}

fn typed(status: StatusCode, content_type: &'static str, text: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
