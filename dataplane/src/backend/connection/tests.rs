//! Exchanges with hyper's server, which reads requests by its own rules, and with scripts of
//! bytes for what no good server does.

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

/// A body of these parts, one at a time, each of which lets others run before.
type Parts = Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>;

fn parts(parts: &[&'static str]) -> Parts {
    let frames: Vec<_> = parts
        .iter()
        .map(|part| Ok(http_body::Frame::data(Bytes::from_static(part.as_bytes()))))
        .collect();
    let frames = stream::iter(frames).then(|frame| async {
        tokio::task::yield_now().await;
        frame
    });
    Box::pin(StreamBody::new(frames))
}

fn whole(text: impl Into<Bytes>) -> Parts {
    Box::pin(Full::new(text.into()))
}

fn request(connection: &mut Connection<DuplexStream, Parts>, method: &Method, body: Parts) {
    let mut head = Lines::new(method, &["/v1/x"]);
    head.add(&header::HOST, &HeaderValue::from_static("h"));
    connection.send(method.clone(), head, body);
}

async fn answer(
    connection: &mut Connection<DuplexStream, Parts>,
) -> Result<(StatusCode, Vec<u8>), Error> {
    let (head, first) = poll_fn(|cx| connection.poll_head(cx)).await?;
    let mut body = first.to_vec();
    while let Some(data) = poll_fn(|cx| connection.poll_data(cx)).await? {
        assert!(!data.is_empty());
        body.extend_from_slice(&data);
    }
    Ok((head.status, body))
}

/// What hyper's server read, one line a request.
type Heard = Arc<Mutex<Vec<String>>>;

/// A connection to a server that answers what it reads, in chunks where asked with PUT.
fn to_hyper(buffer: usize) -> (Connection<DuplexStream, Parts>, Heard) {
    let (ours, theirs) = duplex(buffer);
    let heard = Heard::default();
    let hearing = heard.clone();
    tokio::spawn(async move {
        let service = service_fn(move |req: Request<Incoming>| {
            let heard = hearing.clone();
            async move {
                let (head, body) = req.into_parts();
                let mut line = format!("{} {}", head.method, head.uri);
                for (name, word) in [
                    (header::CONTENT_LENGTH, " length "),
                    (header::TRANSFER_ENCODING, " "),
                ] {
                    if let Some(value) = head.headers.get(name) {
                        line += word;
                        line += value.to_str().unwrap();
                    }
                }
                heard.lock().unwrap().push(line);
                let body = body.collect().await.unwrap().to_bytes();
                let echo = if head.method == Method::PUT {
                    let parts: Vec<_> = body.chunks(3).map(Bytes::copy_from_slice).collect();
                    let parts = parts.into_iter().map(http_body::Frame::data).map(Ok);
                    BodyExt::boxed(StreamBody::new(stream::iter(parts)))
                } else {
                    Full::new(body).boxed()
                };
                Ok::<_, Infallible>(Response::new(echo))
            }
        });
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(theirs), service)
            .await;
    });
    (Connection::new(ours), heard)
}

/// A connection whose other side the test plays.
fn to_script() -> (Connection<DuplexStream, Parts>, DuplexStream) {
    let (ours, theirs) = duplex(64 * 1024);
    (Connection::new(ours), theirs)
}

#[tokio::test]
async fn requests_and_answers_follow_each_other_on_one_connection() {
    // A small pipe stops every write in the middle.
    for buffer in [1, 7, 64 * 1024] {
        let (mut connection, heard) = to_hyper(buffer);
        for (method, body, text) in [
            (Method::POST, whole("abc"), "abc"),
            (
                Method::POST,
                parts(&["ab", "", "cdefghijklmnopq", "r"]),
                "abcdefghijklmnopqr",
            ),
            (Method::PUT, parts(&["0123456789"]), "0123456789"),
            (Method::GET, whole(""), ""),
            (Method::PUT, whole("0123"), "0123"),
            (Method::POST, parts(&[]), ""),
            (Method::HEAD, whole(""), ""),
            (Method::POST, whole(""), ""),
        ] {
            request(&mut connection, &method, body);
            let (status, body) = answer(&mut connection).await.unwrap();
            assert_eq!(status, StatusCode::OK);
            assert_eq!(String::from_utf8(body).unwrap(), text, "{method} {buffer}");
            assert!(connection.is_reusable(), "{method} {buffer}");
            assert!(connection.is_quiet(), "{method} {buffer}");
        }
        let expected = [
            "POST /v1/x length 3",
            "POST /v1/x chunked",
            "PUT /v1/x chunked",
            "GET /v1/x",
            "PUT /v1/x length 4",
            "POST /v1/x chunked",
            "HEAD /v1/x",
            "POST /v1/x length 0",
        ];
        assert_eq!(*heard.lock().unwrap(), expected);
    }
}

#[tokio::test]
async fn a_large_body_crosses_in_both_directions() {
    let (mut connection, _) = to_hyper(16 * 1024);
    let large: Bytes = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    for method in [Method::POST, Method::PUT] {
        request(&mut connection, &method, whole(large.clone()));
        let (_, body) = answer(&mut connection).await.unwrap();
        assert!(body == large, "{method}");
    }
}

/// As a kept body is: all its parts are here, and go out together as far as the other side takes
/// them.
#[tokio::test]
async fn a_body_of_many_parts_arrives_in_order_however_little_is_taken_at_a_time() {
    let large: Bytes = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    for (room, part) in [(7, 997), (1000, 1000), (16 * 1024, 5003)] {
        let (mut connection, _) = to_hyper(room);
        let parts: Vec<Bytes> = large.chunks(part).map(Bytes::copy_from_slice).collect();
        let frames = parts.into_iter().map(http_body::Frame::data).map(Ok);
        let body = StreamBody::new(stream::iter(frames));
        let sized = Sized(Box::pin(body), large.len() as u64);
        request(&mut connection, &Method::POST, Box::pin(sized));
        let (_, body) = answer(&mut connection).await.unwrap();
        assert!(body == large, "{part}");
    }
}

/// A body whose length is known beforehand.
struct Sized(Parts, u64);

impl Body for Sized {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let frame = self.0.as_mut().poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.1 -= frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.1 == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.1)
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_is_sent_ends_the_connection() {
    let (ours, mut theirs) = duplex(1024);
    let mut connection = Connection::new(ours);
    request(&mut connection, &Method::POST, whole(vec![b'x'; 100_000]));
    theirs
        .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        .await
        .unwrap();
    let (status, body) = answer(&mut connection).await.unwrap();
    assert_eq!((status.as_u16(), &*body), (413, &b"no"[..]));
    assert!(!connection.is_reusable());
}

#[tokio::test]
async fn an_answer_of_a_backend_that_takes_no_more_is_read() {
    let (ours, mut theirs) = duplex(1024);
    let mut connection = Connection::new(ours);
    theirs
        .write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    drop(theirs);
    request(&mut connection, &Method::POST, whole(vec![b'x'; 100_000]));
    let (status, _) = answer(&mut connection).await.unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(!connection.is_reusable());
}

#[tokio::test]
async fn a_close_without_an_answer_is_told_from_one_inside_it() {
    for (sent, answered) in [("", false), ("HTTP/1.1 200 O", true)] {
        let (mut connection, mut theirs) = to_script();
        request(&mut connection, &Method::GET, whole(""));
        theirs.write_all(sent.as_bytes()).await.unwrap();
        drop(theirs);
        let error = answer(&mut connection).await.unwrap_err();
        assert!(matches!(error, Error::Closed), "{error}");
        assert_eq!(connection.has_answered(), answered);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_after_its_data() {
    for (end, expected) in [
        ("5\r\nabc", "it closed the connection"),
        ("3\r\nabc\r\n!", "the chunks of its answer are malformed"),
    ] {
        let (mut connection, mut theirs) = to_script();
        request(&mut connection, &Method::GET, whole(""));
        let text = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{end}");
        theirs.write_all(text.as_bytes()).await.unwrap();
        drop(theirs);
        let (_, first) = poll_fn(|cx| connection.poll_head(cx)).await.unwrap();
        assert_eq!(first, "abc");
        let error = poll_fn(|cx| connection.poll_data(cx)).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(!connection.is_reusable());
    }
}

#[tokio::test]
async fn a_request_that_does_not_come_whole_is_not_finished_for_the_backend() {
    let (ours, mut theirs) = duplex(1024);
    let broken = stream::iter([
        Ok(http_body::Frame::data(Bytes::from_static(b"abc"))),
        Err("the client left"),
    ]);
    let body: Pin<Box<dyn Body<Data = Bytes, Error = &str>>> = Box::pin(StreamBody::new(broken));
    let mut head = Lines::new(&Method::POST, &["/"]);
    head.add(&header::HOST, &HeaderValue::from_static("h"));
    let mut connection = Connection::new(ours);
    connection.send(Method::POST, head, body);
    let error = poll_fn(|cx| connection.poll_head(cx)).await.unwrap_err();
    assert!(matches!(error, Error::Unfinished));
    drop(connection);
    let mut sent = String::new();
    theirs.read_to_string(&mut sent).await.unwrap();
    assert!(sent.ends_with("3\r\nabc"), "{sent}");
}

#[tokio::test]
async fn what_an_idle_connection_says_makes_it_useless() {
    let (mut connection, mut theirs) = to_script();
    assert!(connection.is_quiet());
    theirs
        .write_all(b"HTTP/1.1 408 Too Slow\r\n\r\n")
        .await
        .unwrap();
    assert!(!connection.is_quiet());
    let (mut connection, theirs) = to_script();
    drop(theirs);
    assert!(!connection.is_quiet());
}

#[tokio::test]
async fn each_piece_of_an_answer_is_handed_out_when_it_comes() {
    let (mut connection, mut theirs) = to_script();
    request(&mut connection, &Method::GET, whole(""));
    theirs
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let (_, first) = poll_fn(|cx| connection.poll_head(cx)).await.unwrap();
    assert!(first.is_empty());
    // Two that are here together come together; half a mark is not waited for.
    theirs.write_all(b"1\r\na\r\n1\r\nb\r\n3").await.unwrap();
    let data = poll_fn(|cx| connection.poll_data(cx)).await.unwrap();
    assert_eq!(data.unwrap(), "ab");
    assert!(
        poll_fn(|cx| connection.poll_data(cx))
            .now_or_never()
            .is_none()
    );
    theirs.write_all(b"\r\ncd").await.unwrap();
    let data = poll_fn(|cx| connection.poll_data(cx)).await.unwrap();
    assert_eq!(data.unwrap(), "cd");
    theirs.write_all(b"e\r\n0\r\n\r\n").await.unwrap();
    let data = poll_fn(|cx| connection.poll_data(cx)).await.unwrap();
    assert_eq!(data.unwrap(), "e");
    assert!(connection.is_done());
    let timeout = tokio::time::timeout(
        Duration::from_secs(5),
        poll_fn(|cx| connection.poll_data(cx)),
    );
    assert!(timeout.await.unwrap().unwrap().is_none());
}
