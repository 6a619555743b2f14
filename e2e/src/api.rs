//! Plain requests to the API server, for what `kubectl` is too slow for: starting it takes a tenth
//! of a second, a poll must not. In: a path. Out: JSON. `kubectl proxy` does TLS and identity.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// No answer of a healthy API server takes longer; a hung one must not hang the test run.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A patch that replaces what it names and leaves the rest; `null` removes.
pub const MERGE_PATCH: &str = "application/merge-patch+json";

/// The API server as the cluster's admin, without caching or watching.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    proxy: SocketAddr,
}

impl Api {
    pub(crate) fn new(proxy: SocketAddr) -> Self {
        Self { proxy }
    }

    /// The object (or list) at `path`, such as `/api/v1/namespaces/x/pods/y`; `None` if there is none.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        match self.exchange("GET", path, "", "")? {
            (404, _) => Ok(None),
            (status, body) => parse("GET", path, status, &body).map(Some),
        }
    }

    /// Creates an object in the collection at `path`.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let (status, body) =
            self.exchange("POST", path, "application/json", &object.to_string())?;
        parse("POST", path, status, &body)
    }

    /// Changes what `patch` names (a JSON merge patch) of the object at `path`.
    pub fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        let (status, body) = self.exchange("PATCH", path, MERGE_PATCH, &patch.to_string())?;
        parse("PATCH", path, status, &body)
    }

    /// Deletes the object at `path`; that it is gone already is no error.
    pub fn delete(&self, path: &str) -> Result<()> {
        match self.exchange("DELETE", path, "", "")? {
            (404, _) => Ok(()),
            (status, body) => parse("DELETE", path, status, &body).map(|_| ()),
        }
    }

    /// What the API server says at `path`, as text: `/readyz`, `/metrics`.
    pub fn text(&self, path: &str) -> Result<String> {
        let (status, body) = self.exchange("GET", path, "", "")?;
        if status != 200 {
            bail!("GET {path}: {status}: {body}");
        }
        Ok(body)
    }

    /// One request on a connection of its own. HTTP/1.0, so that the body ends with the connection.
    fn exchange(&self, method: &str, path: &str, kind: &str, body: &str) -> Result<(u16, String)> {
        let what = || format!("{method} {path}");
        let mut stream = TcpStream::connect_timeout(&self.proxy, TIMEOUT).with_context(what)?;
        stream.set_read_timeout(Some(TIMEOUT)).with_context(what)?;
        let entity = match body.len() {
            0 => String::new(),
            length => format!("Content-Type: {kind}\r\nContent-Length: {length}\r\n"),
        };
        let request = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\n{entity}\r\n{body}");
        stream.write_all(request.as_bytes()).with_context(what)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).with_context(what)?;
        let answer = String::from_utf8(answer).with_context(what)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| anyhow!("{method} {path}: no HTTP answer: {answer:?}"))?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| anyhow!("{method} {path}: no status in {head:?}"))?;
        Ok((status, body.to_owned()))
    }
}

fn parse(method: &str, path: &str, status: u16, body: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(body)
        .with_context(|| format!("{method} {path}: {status}: no JSON: {body}"))?;
    if !(200..300).contains(&status) {
        let message = value.get("message").and_then(Value::as_str).unwrap_or(body);
        bail!("{method} {path}: {status}: {message}");
    }
    Ok(value)
}
