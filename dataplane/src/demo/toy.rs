//! A toy LLM server: lists one model, answers chats word by word, and can be killed and revived
//! on the same port.

use std::{
    convert::Infallible,
    future::Future as _,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet, time::Sleep};

/// Between two words of a streamed answer.
const WORD_EVERY: Duration = Duration::from_millis(60);

/// The model that all toys serve.
pub(super) const MODEL: &str = "toy-llm";

#[derive(Debug)]
pub(super) struct Toy {
    name: &'static str,
    addr: SocketAddr,
    running: Option<JoinSet<()>>,
}

impl Toy {
    pub(super) async fn start(name: &'static str) -> Result<Self> {
        let mut toy = Self {
            name,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            running: None,
        };
        toy.revive().await?;
        Ok(toy)
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn is_alive(&self) -> bool {
        self.running.is_some()
    }

    pub(super) async fn revive(&mut self) -> Result<()> {
        if self.running.is_none() {
            let listener = TcpListener::bind(self.addr)
                .await
                .with_context(|| format!("start toy {} on {}", self.name, self.addr))?;
            self.addr = listener.local_addr()?;
            let mut tasks = JoinSet::new();
            tasks.spawn(serve(listener, self.name));
            self.running = Some(tasks);
        }
        Ok(())
    }

    /// As a crash would: its port is closed and its connections break.
    pub(super) async fn kill(&mut self) {
        if let Some(mut tasks) = self.running.take() {
            tasks.shutdown().await;
        }
    }
}

async fn serve(listener: TcpListener, name: &'static str) {
    // Dropped with this task: every connection breaks.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(async move {
                    let service = service_fn(move |req| answer(name, req));
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(name: &'static str, req: Request<Incoming>) -> Result<Response<Words>, Infallible> {
    let (head, body) = req.into_parts();
    let rsp = match head.uri.path() {
        "/health" => whole(StatusCode::OK, &json!({ "status": "ok" })),
        "/v1/models" => whole(
            StatusCode::OK,
            &json!({ "object": "list", "data": [{ "id": MODEL, "object": "model" }] }),
        ),
        "/v1/chat/completions" => {
            let body = Limited::new(body, 1 << 20).collect().await;
            let body = body
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            let asked: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            if asked["stream"] == true {
                stream(name)
            } else {
                complete(name)
            }
        }
        _ => whole(
            StatusCode::NOT_FOUND,
            &json!({ "error": { "message": "toys only chat" } }),
        ),
    };
    Ok(rsp)
}

fn sentence(name: &str) -> String {
    format!("Hello from {name} . Kill me and ask again .")
}

fn complete(name: &str) -> Response<Words> {
    whole(
        StatusCode::OK,
        &json!({
            "id": "chatcmpl-toy", "object": "chat.completion", "model": MODEL,
            "choices": [{
                "index": 0, "finish_reason": "stop",
                "message": { "role": "assistant", "content": sentence(name) },
            }],
            "usage": { "prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10 },
        }),
    )
}

fn stream(name: &str) -> Response<Words> {
    let chunk = |delta: serde_json::Value, finish: Option<&str>| {
        let document = json!({
            "id": "chatcmpl-toy", "object": "chat.completion.chunk", "model": MODEL,
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }],
        });
        Bytes::from(format!("data: {document}\n\n"))
    };
    let mut chunks: Vec<Bytes> = sentence(name)
        .split_inclusive(' ')
        .map(|word| chunk(json!({ "content": word }), None))
        .collect();
    chunks.push(chunk(json!({}), Some("stop")));
    chunks.push(Bytes::from_static(b"data: [DONE]\n\n"));
    chunks.reverse();
    let mut rsp = Response::new(Words {
        left: chunks,
        pause: None,
        paced: true,
    });
    rsp.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("text/event-stream"),
    );
    rsp
}

fn whole(status: StatusCode, document: &serde_json::Value) -> Response<Words> {
    let left = vec![Bytes::from(document.to_string())];
    let mut rsp = Response::new(Words {
        left,
        pause: None,
        paced: false,
    });
    *rsp.status_mut() = status;
    rsp.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    rsp
}

/// Chunks, last first, with pauses between them if paced.
struct Words {
    left: Vec<Bytes>,
    pause: Option<Pin<Box<Sleep>>>,
    paced: bool,
}

impl Body for Words {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
        }
        self.pause = self.paced.then(|| Box::pin(tokio::time::sleep(WORD_EVERY)));
        Poll::Ready(self.left.pop().map(|chunk| Ok(Frame::data(chunk))))
    }
}
