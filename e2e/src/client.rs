//! What an application does: requests to a data plane. In: its address. Out: whole replies, or a
//! stream that is read piece by piece. Each request has a connection of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::runtime::block_on_for;

/// Mocks answer at once; a data plane that waits longer for something is stuck.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
pub struct Client {
    to: SocketAddr,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Reply {
    /// A header's value, empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Which endpoint the data plane says has answered.
    pub fn endpoint(&self) -> &str {
        self.header("x-olla-endpoint")
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body))
    }

    /// Itself, if it is a 200.
    pub fn good(self) -> Result<Self> {
        ensure!(self.status == 200, "{}: {}", self.status, self.body);
        Ok(self)
    }
}

impl Client {
    pub fn new(to: SocketAddr) -> Self {
        Self { to }
    }

    /// What the SDKs call the base URL, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.to)
    }

    pub fn get(&self, path: &str) -> Result<Reply> {
        self.exchange(&format!("GET {path}"), Request::get(path), "")
    }

    pub fn post(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Result<Reply> {
        let mut request = Request::post(path).header(CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.exchange(&format!("POST {path}"), request, &body.to_string())
    }

    /// One OpenAI chat, not streamed.
    pub fn chat(&self, model: &str) -> Result<Reply> {
        self.post("/v1/chat/completions", &chat(model, false), &[])
    }

    /// The endpoint that answers a chat; anything but a 200 is an error.
    pub fn answerer(&self, model: &str) -> Result<String> {
        Ok(self.chat(model)?.good()?.endpoint().to_owned())
    }

    /// The endpoints that answer so many chats in turn.
    pub fn answerers(&self, model: &str, count: usize) -> Result<Vec<String>> {
        (0..count).map(|_| self.answerer(model)).collect()
    }

    /// One OpenAI chat, streamed: returns when the answer's head is there.
    pub fn stream(&self, model: &str) -> Result<Stream> {
        let request =
            Request::post("/v1/chat/completions").header(CONTENT_TYPE, "application/json");
        let body = chat(model, true).to_string();
        block_on_for("start a stream", LIMIT, async {
            let response = self.send(request, body).await?;
            Ok(Stream { response })
        })
    }

    fn exchange(&self, what: &str, request: http::request::Builder, body: &str) -> Result<Reply> {
        block_on_for(what, LIMIT, async {
            let response = self.send(request, body.to_owned()).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.context("read the answer")?.to_bytes();
            Ok(Reply {
                status: head.status.as_u16(),
                headers: head.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        })
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: String,
    ) -> Result<Response<Incoming>> {
        let request = request
            .header(HOST, self.to.to_string())
            .body(Full::new(Bytes::from(body)))
            .context("build the request")?;
        let stream = tokio::net::TcpStream::connect(self.to)
            .await
            .with_context(|| format!("connect to {}", self.to))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .context("start HTTP")?;
        // Ends with its connection, which ends with the response.
        tokio::spawn(connection);
        sender.send_request(request).await.context("no answer")
    }
}

/// An answer that is still coming. Dropping it is a client that leaves.
#[derive(Debug)]
pub struct Stream {
    response: Response<Incoming>,
}

impl Stream {
    /// The next piece as it came over the wire; `None` at a clean end.
    pub fn next_piece(&mut self) -> Result<Option<String>> {
        block_on_for("read a stream", LIMIT, async {
            while let Some(frame) = self.response.body_mut().frame().await {
                if let Ok(data) = frame.context("the stream broke")?.into_data() {
                    return Ok(Some(String::from_utf8_lossy(&data).into_owned()));
                }
            }
            Ok(None)
        })
    }

    /// All that is left, up to a clean end.
    pub fn rest(&mut self) -> Result<String> {
        let mut text = String::new();
        while let Some(piece) = self.next_piece()? {
            text.push_str(&piece);
        }
        Ok(text)
    }
}

pub(crate) fn chat(model: &str, stream: bool) -> Value {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": "Hello?"}],
        "stream": stream,
    })
}
