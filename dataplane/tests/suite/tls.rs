//! Clients that speak TLS.

use std::{fs, sync::Arc};

use bytes::Bytes;
use dataplane::{
    app::{App, Error},
    config::TlsFiles,
};
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    backend::Backend,
    client::Client,
    plane::{Plane, Yaml, chat, streamed, text},
    reply::Reply,
    wait_for,
};

/// A self-signed certificate for 127.0.0.1 in files.
struct Pair {
    folder: TempDir,
    /// What a client must trust.
    roots: RootCertStore,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            folder: tempfile::tempdir().unwrap(),
            roots: RootCertStore::empty(),
        };
        pair.renew();
        pair
    }

    /// Another certificate in the same files; the client trusts both.
    fn renew(&mut self) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        self.roots.add(made.cert.der().clone()).unwrap();
        let files = self.files();
        fs::write(files.certificate, made.cert.pem()).unwrap();
        fs::write(files.key, made.signing_key.serialize_pem()).unwrap();
    }

    fn files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.folder.path().join("tls.crt"),
            key: self.folder.path().join("tls.key"),
        }
    }

    async fn connect(&self, plane: &Plane, alpn: &str) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let stream = TcpStream::connect(plane.addr).await.unwrap();
        let name = ServerName::IpAddress(plane.addr.ip().into());
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.unwrap()
    }

    /// What the plane shows to those who connect now.
    async fn shown(&self, plane: &Plane) -> Vec<u8> {
        let stream = self.connect(plane, "h2").await;
        let shown = stream.get_ref().1.peer_certificates().unwrap();
        shown[0].to_vec()
    }

    /// An answer whole: its version, status and text.
    async fn ask(&self, plane: &Plane, alpn: &str, req: Asked) -> (Version, StatusCode, String) {
        let io = TokioIo::new(self.connect(plane, alpn).await);
        let rsp = if alpn == "h2" {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(req).await.unwrap()
        } else {
            let (mut sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(req).await.unwrap()
        };
        let (head, body) = rsp.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        (head.version, head.status, text)
    }
}

type Asked = Request<Full<Bytes>>;

fn post(document: &serde_json::Value) -> Asked {
    Request::post("https://olla.test/v1/chat/completions")
        .header("host", "olla.test")
        .body(Full::new(Bytes::from(document.to_string())))
        .unwrap()
}

/// A data plane with TLS before one backend.
async fn one() -> (Backend, Plane, Pair) {
    let (a, pair) = (Backend::start("a", &["m"]).await, Pair::new());
    let mut settings = Plane::settings();
    settings.tls = Some(pair.files());
    let yaml = Yaml::tiers(&[("a", &a)]).text();
    let plane = Plane::at_once(settings, text(&yaml)).await;
    wait_for("the backend is healthy and listed", async || {
        pair.ask(&plane, "h2", post(&chat("m"))).await.1 == StatusCode::OK
    })
    .await;
    (a, plane, pair)
}

#[tokio::test]
async fn a_client_gets_http2_or_http1_as_it_can_and_backends_learn_of_tls() {
    let (a, plane, pair) = one().await;
    for (alpn, version) in [("h2", Version::HTTP_2), ("http/1.1", Version::HTTP_11)] {
        let answer = pair.ask(&plane, alpn, post(&chat("m"))).await;
        assert_eq!((answer.0, answer.1), (version, StatusCode::OK));
        assert_eq!(a.last().header("x-forwarded-proto"), Some("https"));
        let events = Reply::sse().chunk("data: 1\n\n").chunk("data: [DONE]\n\n");
        a.answer_next(events.end());
        let (_, _, text) = pair.ask(&plane, alpn, post(&streamed("m"))).await;
        assert_eq!(text, "data: 1\n\ndata: [DONE]\n\n", "{alpn}");
    }
}

#[tokio::test]
async fn a_cut_stream_does_not_end_as_tls_would_end_a_whole_one() {
    let (a, plane, pair) = one().await;
    a.answer(Reply::sse().chunk("data: 1\n\n").close());
    let mut stream = pair.connect(&plane, "http/1.1").await;
    let body = streamed("m").to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, (head + &body).as_bytes())
        .await
        .unwrap();
    let mut got = Vec::new();
    let ended = stream.read_to_end(&mut got).await;
    let text = String::from_utf8_lossy(&got);
    assert!(
        text.contains("truncated") && !text.contains("\r\n0\r\n"),
        "{text}"
    );
    assert!(ended.is_err(), "no close_notify: {text}");
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
    let (_a, plane, mut pair) = one().await;
    let first = pair.shown(&plane).await;
    pair.renew();
    plane.running.shared.life.reload();
    wait_for("the new one is shown", async || {
        pair.shown(&plane).await != first
    })
    .await;
    let second = pair.shown(&plane).await;
    // Half of a renewal: a key that is not the certificate's.
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    fs::write(pair.files().key, key).unwrap();
    plane.running.shared.life.reload();
    for _ in 0..20 {
        assert_eq!(pair.shown(&plane).await, second);
    }
    pair.renew();
    plane.running.shared.life.reload();
    wait_for("the next good one is shown", async || {
        pair.shown(&plane).await != second
    })
    .await;
}

#[tokio::test]
async fn who_does_not_speak_tls_is_sent_away() {
    let (_a, plane, _pair) = one().await;
    let mut client = Client::connect(plane.addr).await;
    client.send("GET", "/internal/health", &[], b"").await;
    assert!(client.head().await.is_none());
}

#[tokio::test]
async fn files_that_are_no_certificate_keep_it_from_starting_and_are_named() {
    let pair = Pair::new();
    let files = pair.files();
    let start = async || {
        let mut settings = Plane::settings();
        settings.tls = Some(pair.files());
        let started = App::start(settings, text(&Yaml::default().text())).await;
        match started.map(|_| ()) {
            Err(error @ Error::Tls(_)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let key = fs::read_to_string(&files.key).unwrap();
    let named = |path: &std::path::Path| path.display().to_string();
    fs::write(
        &files.key,
        rcgen::KeyPair::generate().unwrap().serialize_pem(),
    )
    .unwrap();
    assert!(start().await.contains(&named(&files.key)));
    fs::write(&files.key, key.replace("BEGIN", "BEGUN")).unwrap();
    let told = start().await;
    assert!(
        told.ends_with("tls.key: holds no private key in PEM"),
        "{told}"
    );
    fs::write(&files.certificate, "").unwrap();
    let told = start().await;
    assert!(
        told.ends_with("tls.crt: holds no certificate in PEM"),
        "{told}"
    );
    fs::remove_file(&files.certificate).unwrap();
    let told = start().await;
    assert!(told.contains("tls.crt: No such file"), "{told}");
}
