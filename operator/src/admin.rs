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
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::metrics::Metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
/// For a request's head, and between two on one connection: silent ones must not keep probes out.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// Scrapers and probes are few.
const MAX_CONNECTIONS: usize = 64;

#[derive(Clone, Debug)]
pub struct Admin {
    /// True once the first lists are in and their tables published.
    pub ready: Arc<AtomicBool>,
    pub metrics: Arc<Metrics>,
}

impl Admin {
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "accept on the admin port");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (admin, stop) = (self.clone(), stop.clone());
            connections.spawn(async move {
                let serve = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(
                        TokioIo::new(stream),
                        service_fn(|request| ready(Ok::<_, Infallible>(admin.answer(&request)))),
                    );
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = serve => {}
                }
                drop(place);
            });
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
                "waiting for the first lists of the API server (see the log; are the CRDs installed?)\n"
                    .into(),
            ),
            "/metrics" => (StatusCode::OK, OPENMETRICS, self.metrics.text()),
            _ => (StatusCode::NOT_FOUND, PLAIN, "no such page\n".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
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
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(addr).await.unwrap());
        }
        let begun = tokio::time::Instant::now();
        let mut probe = TcpStream::connect(addr).await.unwrap();
        probe
            .write_all(b"GET /healthz HTTP/1.0\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        probe.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(5), "{waited:?}");
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
