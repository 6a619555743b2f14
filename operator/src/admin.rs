//! `/healthz`, `/readyz` and `/metrics` over plain HTTP, for the kubelet and Prometheus.

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use serving::{
    listen::accept,
    slots::{Slot, SlotLimits, Slots},
};

use crate::metrics::Metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
/// For a request's head, and between two on one connection: silent ones must not keep probes out.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// Probes and scrapers are few. Nobody authenticates here: over the limit, the oldest connection of
/// the address with most is closed, or connections that stay silent, or ask without end, would keep
/// the kubelet's probes out until it restarts the operator.
const LIMITS: SlotLimits = SlotLimits {
    total: 64,
    unauthenticated: 64,
    per_address: 32,
    unauthenticated_per_address: 32,
};

#[derive(Clone, Debug)]
pub struct Admin {
    /// True once the first lists are in and their tables published.
    pub ready: Arc<AtomicBool>,
    pub metrics: Arc<Metrics>,
}

impl Admin {
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let slots = Arc::new(Slots::new(LIMITS));
        loop {
            let (stream, peer) = tokio::select! {
                () = stop.cancelled() => return,
                accepted = accept(&listener, "admin") => accepted,
            };
            let Some(slot) = slots.take(peer.ip()) else {
                tracing::debug!(%peer, "connection to the admin port refused: too many connections");
                continue;
            };
            let (admin, stop) = (self.clone(), stop.clone());
            connections.spawn(admin.connection(stream, slot, stop));
        }
    }

    async fn connection(self, stream: TcpStream, slot: Slot, stop: CancellationToken) {
        let answer = service_fn(|request| ready(Ok::<_, Infallible>(self.answer(&request))));
        let serve = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), answer);
        tokio::select! {
            () = stop.cancelled() => {}
            () = slot.evicted() => {}
            _ = serve => {}
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, content_type, text) = if request.method() == Method::GET {
            self.page(request.uri().path())
        } else {
            (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "GET only\n".into())
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(
            CONTENT_TYPE,
            hyper::header::HeaderValue::from_static(content_type),
        );
        response
    }

    fn page(&self, path: &str) -> (StatusCode, &'static str, String) {
        match path {
            "/healthz" => (StatusCode::OK, PLAIN, "ok\n".into()),
            "/readyz" if self.ready.load(Ordering::Acquire) => (StatusCode::OK, PLAIN, "ok\n".into()),
            "/readyz" => (
                StatusCode::SERVICE_UNAVAILABLE,
                PLAIN,
                "waiting for the initial lists from the API server (see the log; are the CRDs installed?)\n"
                    .into(),
            ),
            "/metrics" => (StatusCode::OK, OPENMETRICS, self.metrics.text()),
            _ => (StatusCode::NOT_FOUND, PLAIN, "not found\n".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpSocket,
        time::timeout,
    };

    use super::*;

    async fn connect(from: u8, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        let from = Ipv4Addr::new(127, 0, 0, from);
        socket.bind((from, 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    #[tokio::test]
    async fn silent_connections_do_not_keep_a_probe_out() {
        let admin = Admin {
            ready: Arc::default(),
            metrics: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(admin.run(listener, stop.clone()));
        let mut silent = Vec::new();
        for n in 0..LIMITS.total {
            silent.push(connect(2 + (n % 2) as u8, addr).await);
        }
        let mut probe = connect(1, addr).await;
        probe
            .write_all(b"GET /healthz HTTP/1.0\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        let read = probe.read_to_string(&mut answer);
        // Not only when the silent ones have reached their limit: there are always new ones.
        timeout(HEADER_TIMEOUT, read).await.unwrap().unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
    }

    #[test]
    fn ready_only_once_the_lists_are_in() {
        let admin = Admin {
            ready: Arc::default(),
            metrics: Arc::default(),
        };
        assert_eq!(admin.page("/healthz").0, StatusCode::OK);
        assert_eq!(admin.page("/readyz").0, StatusCode::SERVICE_UNAVAILABLE);
        admin.ready.store(true, Ordering::Release);
        assert_eq!(admin.page("/readyz").0, StatusCode::OK);
        assert_eq!(admin.page("/metrics").1, OPENMETRICS);
    }
}
