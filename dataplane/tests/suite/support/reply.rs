//! What a backend does with a request, step by step.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Opened by a test when a backend may go on.
pub(crate) type Gate = CancellationToken;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write(Vec<u8>),
    Pause(Duration),
    Wait(Gate),
    /// Nothing more, until the peer leaves.
    Hang,
    /// A clean FIN.
    Close,
    /// RST.
    Reset,
}

/// Steps in order. After the last one the connection is kept for the next request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply(pub(crate) Vec<Step>);

impl Reply {
    /// A head with these lines, and nothing else yet.
    pub(crate) fn head(status: u16, headers: &[(&str, &str)]) -> Self {
        let mut text = format!("HTTP/1.1 {status} X\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        Self::default().raw(text)
    }

    /// A whole answer, its length told.
    pub(crate) fn whole(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let length = body.as_ref().len().to_string();
        let mut headers = headers.to_vec();
        headers.push(("content-length", &length));
        Self::head(status, &headers).raw(body)
    }

    pub(crate) fn json(status: u16, document: &Value) -> Self {
        let kind = [("content-type", "application/json")];
        Self::whole(status, &kind, document.to_string())
    }

    /// A chat's answer that names who gave it.
    pub(crate) fn chat(by: &str) -> Self {
        let message = json!({ "role": "assistant", "content": by });
        Self::json(200, &json!({ "choices": [{ "message": message }] }))
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::json(status, &json!({ "error": "scripted" }))
    }

    pub(crate) fn busy(status: u16, retry_after: &str) -> Self {
        Self::whole(status, &[("retry-after", retry_after)], "busy")
    }

    /// The head of a chunked stream.
    pub(crate) fn stream(kind: &str) -> Self {
        Self::head(
            200,
            &[("content-type", kind), ("transfer-encoding", "chunked")],
        )
    }

    /// Of server-sent events.
    pub(crate) fn sse() -> Self {
        Self::stream("text/event-stream")
    }

    /// Of Ollama's lines.
    pub(crate) fn ndjson() -> Self {
        Self::stream("application/x-ndjson")
    }

    pub(crate) fn listing(models: &[&str]) -> Self {
        let data: Vec<_> = models.iter().map(|model| json!({ "id": model })).collect();
        Self::json(200, &json!({ "object": "list", "data": data }))
    }

    pub(crate) fn tags(models: &[&str]) -> Self {
        let list: Vec<_> = models.iter().map(|m| json!({ "name": m })).collect();
        Self::json(200, &json!({ "models": list }))
    }

    pub(crate) fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.push(Step::Write(bytes.as_ref().to_vec()));
        self
    }

    pub(crate) fn chunk(self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        let framed = [format!("{:x}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat();
        self.raw(framed)
    }

    pub(crate) fn chunks(self, texts: &[&str]) -> Self {
        texts.iter().fold(self, Reply::chunk)
    }

    /// The terminating chunk.
    pub(crate) fn end(self) -> Self {
        self.raw("0\r\n\r\n")
    }

    pub(crate) fn wait(self, gate: &Gate) -> Self {
        self.then(Step::Wait(gate.clone()))
    }

    pub(crate) fn pause(self, time: Duration) -> Self {
        self.then(Step::Pause(time))
    }

    pub(crate) fn hang(self) -> Self {
        self.then(Step::Hang)
    }

    pub(crate) fn close(self) -> Self {
        self.then(Step::Close)
    }

    pub(crate) fn reset(self) -> Self {
        self.then(Step::Reset)
    }

    fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }
}
