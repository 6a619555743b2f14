//! A client of HTTP/1.1 that sees each byte and how a connection ends.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{
    PATIENCE,
    text::{self, Body, Headers, Length},
};

/// An answer, as far as it came.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    /// It ended as HTTP says it should.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        text::value(&self.headers, name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.header(name).is_some()
    }

    /// `X-Olla-Endpoint`, empty when absent.
    pub(crate) fn endpoint(&self) -> &str {
        self.header("x-olla-endpoint").unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    body: Option<Body>,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::on(TcpStream::connect(addr).await.unwrap())
    }

    /// Both halves of a connection, for what is written and read at the same time.
    pub(crate) fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.stream.into_split()
    }

    /// The other side is soon ahead of it.
    pub(crate) async fn connect_narrow(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::on(socket.connect(addr).await.unwrap())
    }

    pub(crate) fn on(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
            body: None,
        }
    }

    /// Says that nothing more will come; what is read from here on is raw.
    pub(crate) fn half_closed(self) -> TcpStream {
        // Refused when the peer has closed already.
        let _ = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
        self.stream
    }

    /// Exactly these bytes. What the peer does not take is no error here.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: olla.test\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        self.write([head.as_bytes(), b"\r\n", body].concat()).await;
    }

    /// The head of the next final answer, or `None` when the peer closed.
    pub(crate) async fn head(&mut self) -> Option<Answer> {
        loop {
            while text::head(&self.buffer).is_none() {
                if !self.read().await {
                    return None;
                }
            }
            let (start, headers, length) = text::head(&self.buffer)?;
            self.buffer.drain(..length);
            let status: u16 = start.split(' ').nth(1)?.parse().ok()?;
            if status == 100 {
                continue;
            }
            let empty = matches!(status, 204 | 304);
            let otherwise = if empty {
                Length::Known(0)
            } else {
                Length::UntilClose
            };
            self.body = Some(Body::new(Length::of(&headers, otherwise)));
            return Some(Answer {
                status,
                headers,
                body: Vec::new(),
                whole: false,
            });
        }
    }

    /// One line as it comes, and what else stands before the next empty line is dropped.
    pub(crate) async fn line(&mut self) -> String {
        loop {
            if let Some((line, _, length)) = text::head(&self.buffer) {
                self.buffer.drain(..length);
                return line;
            }
            assert!(self.read().await, "closed");
        }
    }

    /// What came next of the body; `None` at its end, clean or not.
    pub(crate) async fn chunk(&mut self) -> Option<String> {
        loop {
            let body = self.body.as_mut().unwrap();
            let taken = body.take(&mut self.buffer);
            if !taken.is_empty() {
                return Some(String::from_utf8_lossy(&taken).into_owned());
            }
            if body.ended || !self.read().await {
                return None;
            }
        }
    }

    /// The rest of the body, and whether its end was marked.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        let body = &mut self.body.take().unwrap();
        loop {
            out.extend(body.take(&mut self.buffer));
            if body.ended {
                return (out, true);
            }
            if !self.read().await {
                return (out, false);
            }
        }
    }

    /// The next answer, as far as it comes.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await.expect("an answer");
        (answer.body, answer.whole) = self.rest().await;
        answer
    }

    pub(crate) async fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.send(method, target, headers, body).await;
        self.answer().await
    }

    /// Whether the peer closes without another byte.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.read().await
    }

    /// False at the end of the connection.
    async fn read(&mut self) -> bool {
        let reading = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer));
        let read = reading.await.expect("the data plane says something");
        matches!(read, Ok(1..))
    }
}
