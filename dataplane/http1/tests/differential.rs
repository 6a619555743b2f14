//! hyper's client and ours are given the same bytes, cut at the same places: what one takes for a
//! whole answer, the other does, and it is the same answer.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Empty};
use http1::Answer;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

/// An answer that came whole.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Whole {
    fn new<'a>(
        status: u16,
        headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
        body: Vec<u8>,
    ) -> Self {
        let mut headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect();
        headers.sort();
        Self {
            status,
            headers,
            body,
        }
    }
}

/// By ours: these pieces, then the end of the connection.
fn ours(method: &Method, pieces: &[&[u8]]) -> Option<Whole> {
    let mut answer = Answer::new(method.clone());
    let mut pieces = pieces.iter();
    let (head, first) = loop {
        if let Some(found) = answer.head(pieces.next()?).ok()? {
            break found;
        }
    };
    let mut body = first.to_vec();
    while !answer.is_done() {
        if answer.malformed().is_some() {
            return None;
        }
        match pieces.next() {
            Some(piece) => body.extend_from_slice(&answer.data(piece)),
            None if answer.ends_here() => break,
            None => return None,
        }
    }
    let headers = head.headers.iter().map(|(name, value)| (name, value));
    Some(Whole::new(head.status.as_u16(), headers, body))
}

/// By hyper's.
async fn hypers(method: &Method, pieces: &[&[u8]]) -> Option<Whole> {
    let (client, mut server) = duplex(1 << 20);
    let (mut sender, connection) = handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri("/")
        .header("host", "x")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
    tokio::spawn(async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            if server.read_buf(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
        }
        for piece in pieces {
            if server.write_all(&piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let response = sender.send_request(request).await.ok()?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.ok()?.to_bytes().to_vec();
    Some(Whole::new(head.status.as_u16(), head.headers.iter(), body))
}

/// Both, with the answer in one piece and byte by byte.
fn both(method: &Method, answer: &[u8]) -> [(Option<Whole>, Option<Whole>); 2] {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.build().unwrap();
    let bytes: Vec<&[u8]> = answer.chunks(1).collect();
    [vec![answer], bytes].map(|pieces| {
        let theirs = runtime.block_on(hypers(method, &pieces));
        (ours(method, &pieces), theirs)
    })
}

const GOOD: &[&str] = &[
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\nx-a: c\r\n\r\nhello",
    "HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.0 200 OK\r\n\r\nto the end",
    "HTTP/1.1 200 OK\r\n\r\nto the end",
    "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0;c\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nx: \t a b \t\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nx:\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nx: \u{e9}\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 299 Made up\r\ncontent-length: 1\r\n\r\nx",
];

const BAD: &[&str] = &[
    "",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
    "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
    "HTTP/1.1 20 OK\r\n\r\n",
    "HTTP/1.1 abc OK\r\n\r\n",
    "HTTP/2.0 200 OK\r\n\r\n",
    "SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
];

#[test]
fn both_take_the_same_for_an_answer() {
    for answer in GOOD {
        for (ours, theirs) in both(&Method::GET, answer.as_bytes()) {
            assert!(ours.is_some(), "{answer:?}");
            assert_eq!(ours, theirs, "{answer:?}");
        }
    }
    for answer in BAD {
        for (ours, theirs) in both(&Method::GET, answer.as_bytes()) {
            assert_eq!((ours, theirs), (None, None), "{answer:?}");
        }
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
    for (ours, theirs) in both(&Method::HEAD, head.as_bytes()) {
        assert_eq!(ours, theirs);
        assert_eq!(ours.map(|whole| whole.body), Some(Vec::new()));
    }
}

/// One that is well formed.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    let header = ("x-[a-z]{1,8}", "[!-~]([ -~]{0,20}[!-~])?");
    let parts = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..6);
    let headers = prop::collection::vec(header, 0..8);
    (0..3u8, headers, parts).prop_map(|(framing, headers, parts)| {
        let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
        let mut add = |more: &[u8]| bytes.extend_from_slice(more);
        for (name, value) in headers {
            add(format!("{name}: {value}\r\n").as_bytes());
        }
        let whole = parts.concat();
        match framing {
            0 => {
                add(format!("content-length: {}\r\n\r\n", whole.len()).as_bytes());
                add(&whole);
            }
            1 => {
                add(b"transfer-encoding: chunked\r\n\r\n");
                for part in parts {
                    add(format!("{:x}\r\n", part.len()).as_bytes());
                    add(&part);
                    add(b"\r\n");
                }
                add(b"0\r\n\r\n");
            }
            _ => {
                add(b"\r\n");
                add(&whole);
            }
        }
        bytes
    })
}

/// As it came, cut short, or with one byte changed.
fn spoiled() -> impl Strategy<Value = Vec<u8>> {
    let at = any::<prop::sample::Index>();
    (answer(), 0..3u8, at, any::<u8>()).prop_map(|(mut bytes, how, at, byte)| {
        let at = at.index(bytes.len());
        match how {
            0 => {}
            1 => bytes.truncate(at),
            _ => bytes[at] = byte,
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn what_a_good_server_sends_is_read_as_hyper_reads_it(bytes in answer()) {
        for (ours, theirs) in both(&Method::GET, &bytes) {
            prop_assert!(ours.is_some());
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn no_bytes_make_an_answer_for_us_that_hyper_would_not_give(bytes in spoiled()) {
        for (ours, theirs) in both(&Method::GET, &bytes) {
            if ours.is_some() {
                prop_assert_eq!(ours, theirs, "{:?}", String::from_utf8_lossy(&bytes));
            }
        }
    }

    #[test]
    fn any_bytes_cut_anywhere_mean_the_same(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200).boxed(), spoiled().boxed()],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let pieces: Vec<&[u8]> = places.windows(2).map(|at| &bytes[at[0]..at[1]]).collect();
        prop_assert_eq!(ours(&Method::GET, &pieces), ours(&Method::GET, &[&bytes]));
    }
}
