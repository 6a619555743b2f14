//! A backend of plain HTTP.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use serde_json::Value;

/// A backend that is healthy, answers every chat, and answers `/v1/models` as told. Lives as long
/// as the process.
pub(crate) struct Backend {
    addr: SocketAddr,
}

impl Backend {
    /// Lists `models`.
    pub(crate) fn listing(models: &[&str]) -> Self {
        let data: Vec<Value> = models
            .iter()
            .map(|model| serde_json::json!({ "id": model, "object": "model" }))
            .collect();
        let list = serde_json::json!({ "object": "list", "data": data });
        Self::start("200 OK", list.to_string())
    }

    /// Answers a listing with this status.
    pub(crate) fn unlisted(status: &'static str) -> Self {
        Self::start(status, "{}".to_owned())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn start(status: &'static str, models: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let models = models.clone();
                // A connection that breaks is its client's business.
                thread::spawn(move || answer(stream, status, &models));
            }
        });
        Self { addr }
    }
}

/// One answer on a connection of any kind.
pub(crate) fn answer(stream: impl Read + Write, status: &str, models: &str) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut start = String::new();
    reader.read_line(&mut start).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    let (status, body) = if start.contains(" /v1/models ") {
        (status, models)
    } else {
        ("200 OK", "{}")
    };
    let length = body.len();
    let rsp = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    reader.get_mut().write_all(rsp.as_bytes()).ok()
}
