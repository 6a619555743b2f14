//! The server of a mock: connections, and what each request is answered with. In: what the mock
//! was told (`State`). Out: responses, and notes of what was asked.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Channel, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Mode, Seen, answers};

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Debug)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) models: Vec<String>,
    pub(super) mode: Mutex<Mode>,
    /// What `Authorization` must be, if anything.
    pub(super) authorization: Mutex<Option<String>>,
    pub(super) seen: Mutex<Vec<Seen>>,
    /// Chats so far, for `FailEvery`.
    pub(super) chats: AtomicUsize,
    /// Health checks and listings so far.
    pub(super) probes: AtomicUsize,
    /// While true, streams stop after their first event.
    pub(super) held: watch::Sender<bool>,
    /// Streamed answers that somebody still takes.
    pub(super) streams: AtomicUsize,
}

pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task: every connection breaks.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let state = state.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(state.clone(), request));
                    // Clients come and go as they like.
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, 64 << 20).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes);
    let body: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
    let path = head.uri.path().to_owned();
    if let Some(health) = answers::health(&path) {
        state.probes.fetch_add(1, Ordering::Relaxed);
        return Ok(whole(StatusCode::OK, health));
    }
    let given = head.headers.get(AUTHORIZATION);
    let refused = lock(&state.authorization)
        .as_ref()
        .is_some_and(|wanted| given.is_none_or(|given| given.as_bytes() != wanted.as_bytes()));
    if refused {
        let error = json!({"error": {"message": "wrong key", "type": "authentication_error"}});
        return Ok(whole(StatusCode::UNAUTHORIZED, error.to_string()));
    }
    if let Some(listing) = answers::listing(&path, &state.models) {
        state.probes.fetch_add(1, Ordering::Relaxed);
        return Ok(whole(StatusCode::OK, listing.to_string()));
    }
    let Some(dialect) = answers::dialect(&path) else {
        return Ok(whole(StatusCode::NOT_FOUND, "{}".to_owned()));
    };
    let model = body["model"].as_str().unwrap_or_default().to_owned();
    // Ollama streams unless told not to.
    let default = dialect == answers::Dialect::Ollama;
    let streamed = body["stream"].as_bool().unwrap_or(default);
    lock(&state.seen).push(Seen {
        path,
        headers: head.headers,
        body,
    });
    if *lock(&state.mode) == Mode::Hang {
        std::future::pending::<()>().await;
    }
    if let Some(status) = failure(&state) {
        let error = json!({"error": {"message": "told to fail"}});
        return Ok(whole(status, error.to_string()));
    }
    let sentence = format!("Hello from {} .", state.name);
    if streamed {
        let events = answers::events(dialect, &model, &sentence);
        return Ok(stream(&state, dialect, events));
    }
    let document = answers::complete(dialect, &model, &sentence);
    Ok(whole(StatusCode::OK, document.to_string()))
}

fn failure(state: &State) -> Option<StatusCode> {
    let number = state.chats.fetch_add(1, Ordering::Relaxed);
    match *lock(&state.mode) {
        Mode::Fail(status) => StatusCode::from_u16(status).ok(),
        Mode::FailEvery(n) if number.is_multiple_of(n) => Some(StatusCode::SERVICE_UNAVAILABLE),
        Mode::Answer | Mode::FailEvery(_) | Mode::Hang => None,
    }
}

fn whole(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn stream(state: &Arc<State>, dialect: answers::Dialect, events: Vec<String>) -> Response<Body> {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    let open = Open::new(state);
    let state = state.clone();
    // Ends when its connection does: then nobody takes what it sends.
    tokio::spawn(async move {
        let mut held = state.held.subscribe();
        for event in events {
            if sender.send_data(Bytes::from(event)).await.is_err() {
                break;
            }
            // The state lives as long as this task, so the sender of `held` does too.
            let _ = held.wait_for(|held| !held).await;
        }
    });
    let body = body.map_frame(move |frame| {
        // Goes with the body, and that with its connection.
        let _ = &open;
        frame
    });
    let mut response = Response::new(body.boxed_unsync());
    let kind = http::HeaderValue::from_static(dialect.stream_type());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Counts a stream as long as it lives.
struct Open(Arc<State>);

impl Open {
    fn new(state: &Arc<State>) -> Self {
        state.streams.fetch_add(1, Ordering::Relaxed);
        Self(state.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
