//! The webhook's port as an API server meets it: real TLS, HTTP/1.1, one connection for many questions.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use injection::Settings;
use operator::{
    injection::{NAMESPACE_PATH, POD_PATH, serve::Webhook},
    metrics::Metrics,
    tls::{PemBundle, ServingCertificate},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here takes; only a hang reaches it.
const HANG: Duration = Duration::from_secs(20);

struct Served {
    address: SocketAddr,
    ca: String,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn serve() -> Served {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let ca = made.cert.pem();
    let certificate = ServingCertificate::new(&PemBundle {
        ca: ca.clone(),
        certificate: ca.clone(),
        key: made.signing_key.serialize_pem(),
    })
    .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
    let settings = Settings {
        image: Some("data-plane:1".into()),
        operator_url: "https://operator:9443".into(),
        ca_config_map: "ca".into(),
        native_sidecars: true,
        assigns_users: false,
        defaults: injection::Defaults::default(),
    };
    let webhook = Webhook::new(settings, metrics.clone());
    Served {
        address: listener.local_addr().unwrap(),
        ca,
        metrics,
        stop: stop.clone(),
        task: tokio::spawn(webhook.run(listener, certificate.webhook_config().unwrap(), stop)),
    }
}

impl Served {
    async fn secured(&self) -> TlsStream<TcpStream> {
        self.secured_from(Ipv4Addr::LOCALHOST).await
    }

    async fn secured_from(&self, address: Ipv4Addr) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        let stream = socket.connect(self.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.unwrap()
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.secured().await);
        let (send, connection) = handshake(stream).await.unwrap();
        tokio::spawn(connection);
        send
    }

    fn counted(&self, result: &str) -> bool {
        let line = format!("olla_operator_injections_total{{result=\"{result}\"}} 1\n");
        self.metrics.text().contains(&line)
    }
}

async fn ask(
    send: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", "olla").body(Full::new(body.into()));
    let answer = async {
        let rsp = send.send_request(request.unwrap()).await.unwrap();
        let status = rsp.status();
        let body = rsp.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    };
    timeout(HANG, answer).await.unwrap()
}

fn review(labels: &Value) -> String {
    let review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "1", "operation": "CREATE", "namespace": "team-a",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {}, "dryRun": false, "oldObject": null,
            "object": {
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
            },
        },
    });
    review.to_string()
}

#[tokio::test]
async fn one_connection_carries_many_questions_and_the_path_tells_who_asked() {
    let served = serve().await;
    let mut send = served.connect().await;
    let none = review(&json!({}));
    for (path, injected) in [(POD_PATH, false), (NAMESPACE_PATH, true)] {
        let (status, told) = ask(&mut send, Method::POST, path, none.clone()).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(told["response"]["allowed"], true);
        assert_eq!(told["response"]["patch"].is_array(), injected, "{path}");
    }
    assert!(served.counted("injected") && served.counted("left_alone"));
}

#[tokio::test]
async fn what_is_no_question_is_refused_and_the_next_one_is_answered() {
    let served = serve().await;
    let mut send = served.connect().await;
    for (method, path, body, status) in [
        (Method::POST, "/", "", StatusCode::NOT_FOUND),
        (Method::GET, POD_PATH, "", StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, POD_PATH, "{", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(ask(&mut send, method, path, body).await.0, status);
    }
    let mine = review(&json!({"olla.dev/inject": "true"}));
    let (status, told) = ask(&mut send, Method::POST, POD_PATH, mine).await;
    assert_eq!(status, StatusCode::OK);
    assert!(told["response"]["patch"].is_array(), "{told}");
}

/// What an answer begins with, of a request that a client of its own would not send.
async fn raw(served: &Served, request: &str) -> String {
    let mut stream = served.secured().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = vec![0; 12];
    timeout(HANG, stream.read_exact(&mut head))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_body_that_is_too_long_or_does_not_say_is_refused_before_it_is_read() {
    let served = serve().await;
    let head = format!("POST {POD_PATH} HTTP/1.1\r\nhost: olla\r\n");
    let long = format!("{head}content-length: 4194305\r\n\r\n");
    assert_eq!(raw(&served, &long).await, "HTTP/1.1 413");
    let unknown = format!("{head}transfer-encoding: chunked\r\n\r\n");
    assert_eq!(raw(&served, &unknown).await, "HTTP/1.1 411");
}

/// Connections from another address, each with a body that is promised, and `come` bytes of it.
async fn hang(served: &Served, connections: usize, come: usize) -> Vec<TlsStream<TcpStream>> {
    let head = format!("POST {POD_PATH} HTTP/1.1\r\nhost: olla\r\ncontent-length: 4194304\r\n\r\n");
    let (spaces, mut hanging) = (vec![b' '; come], Vec::new());
    for _ in 0..connections {
        let mut stream = served.secured_from(Ipv4Addr::new(127, 0, 0, 2)).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        // What finds no room is not read: it fills the buffers in between.
        let sent = stream.write_all(&spaces);
        let _ = timeout(Duration::from_millis(200), sent).await;
        hanging.push(stream);
    }
    hanging
}

/// Far less than a body may take, so nobody's end was waited for.
const AT_ONCE: Duration = Duration::from_secs(2);

async fn is_answered_at_once(served: &Served, padding: usize) {
    let mut send = served.connect().await;
    let mine = review(&json!({"olla.dev/inject": "true", "x": "x".repeat(padding)}));
    let answer = ask(&mut send, Method::POST, POD_PATH, mine);
    let (status, _) = timeout(AT_ONCE, answer).await.unwrap();
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn bodies_that_are_promised_and_do_not_come_hold_up_nobody() {
    let served = serve().await;
    let hanging = hang(&served, 60, 1).await;
    is_answered_at_once(&served, 0).await;
    is_answered_at_once(&served, 1 << 20).await;
    for mut stream in hanging {
        let mut head = [0; 12];
        let read = stream.read_exact(&mut head);
        timeout(HANG, read).await.unwrap().unwrap();
        assert_eq!(&head, b"HTTP/1.1 408");
    }
}

#[tokio::test]
async fn an_address_that_fills_the_room_for_bodies_leaves_room_to_others() {
    let served = serve().await;
    let _hanging = hang(&served, 6, (4 << 20) - 1).await;
    is_answered_at_once(&served, 0).await;
    is_answered_at_once(&served, 2 << 20).await;
}

#[tokio::test]
async fn questions_that_come_after_the_goodbye_are_answered_and_the_connection_is_closed() {
    let served = serve().await;
    served.stop.cancel();
    let mine = review(&json!({"olla.dev/inject": "true"}));
    let request = format!(
        "POST {POD_PATH} HTTP/1.1\r\nhost: olla\r\ncontent-length: {}\r\n\r\n{mine}",
        mine.len()
    );
    let mut stream = served.secured().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    // Without the connection's end this would hang.
    let read = timeout(HANG, stream.read_to_end(&mut text)).await.unwrap();
    let text = String::from_utf8_lossy(&text);
    assert!(text.starts_with("HTTP/1.1 200"), "{read:?} {text}");
    assert!(text.contains("connection: close"), "{text}");
    timeout(HANG, served.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_refuses_the_certificate_is_counted_and_one_that_just_leaves_is_not() {
    let served = serve().await;
    drop(TcpStream::connect(served.address).await.unwrap());
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(served.address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    assert!(connector.connect(name, stream).await.is_err());
    let counted = async {
        while served.metrics.webhook_untrusted.get() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(HANG, counted).await.unwrap();
    assert_eq!(served.metrics.webhook_untrusted.get(), 1);
}

#[tokio::test]
async fn it_ends_when_it_is_told_to_although_connections_are_open() {
    let served = serve().await;
    let mut send = served.connect().await;
    let mine = review(&json!({"olla.dev/inject": "true"}));
    assert_eq!(
        ask(&mut send, Method::POST, POD_PATH, mine).await.0,
        StatusCode::OK
    );
    served.stop.cancel();
    timeout(HANG, served.task).await.unwrap().unwrap();
}
