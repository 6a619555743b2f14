//! A served [`Hub`] on port 0, and a data plane that talks to it over real TLS and HTTP/2.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use compile::{Kind, Verdict, Verdicts};
use dataplane_protocol::{
    Resource, Revision,
    frame::{Decoder, encode},
    resource::ResourceSet,
    sync::{
        AUDIENCE, FORMAT, FORMATS, Hello, MAX_REPORT_LINE, MAX_TABLE_LINE, STREAM_PATH,
        ToDataPlane, ToOperator,
    },
    table::{Instance, Scheme},
};
use http_body_util::{BodyExt as _, Channel, channel::Sender};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use operator::{
    events::{Events, ObjectEvent},
    metrics::Metrics,
    routing::{
        hub::Hub,
        serve::{Limits, Server},
        sessions::{Sessions, View},
        snapshot::{Content, Snapshot},
        status_cache::StatusCache,
    },
    tls::{self, PemBundle},
    tokens::{AuthError, Identity, Review, Tokens},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Far beyond what anything here takes; only a hang reaches it.
const HANG: Duration = Duration::from_secs(20);

pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) hub: Arc<Hub>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) status_cache: Arc<StatusCache>,
    pub(crate) happenings: mpsc::Receiver<ObjectEvent>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    ca: String,
}

/// A token that looks good and says this word.
fn token_of(word: &str) -> String {
    let claims = serde_json::json!({ "aud": [AUDIENCE], "sub": word });
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// By a token's word: `NAMESPACE` is good, the words below are not.
fn fake_review() -> Review {
    Arc::new(|token| {
        Box::pin(async move {
            let claims = token.split('.').nth(1).unwrap();
            let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
            let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
            match claims["sub"].as_str().unwrap() {
                "other-audience" => Err(AuthError::Invalid("issued for another audience".into())),
                "person" => Err(AuthError::NotServiceAccount("alice".into())),
                "api-server-away" => Err(AuthError::Unavailable("away".into())),
                namespace => Ok(Identity {
                    namespace: namespace.to_owned(),
                    service_account: "gateway".into(),
                }),
            }
        })
    })
}

pub(crate) async fn serve() -> Served {
    serve_with(Limits {
        streams_per_namespace: 2,
        ..Limits::default()
    })
    .await
}

pub(crate) async fn serve_with(limits: Limits) -> Served {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let ca = made.cert.pem();
    let identity = tls::ServingCertificate::new(&PemBundle {
        ca: ca.clone(),
        certificate: ca.clone(),
        key: made.signing_key.serialize_pem(),
    })
    .unwrap();
    let metrics = Arc::new(Metrics::default());
    let (events, happenings) = Events::channel(metrics.clone());
    let server = Arc::new(Server {
        tokens: Tokens::new(fake_review(), metrics.clone()),
        hub: Arc::default(),
        sessions: Arc::default(),
        status_cache: Arc::default(),
        events,
        metrics,
        limits,
        stop: CancellationToken::new(),
        conversations: TaskTracker::new(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Served {
        address: listener.local_addr().unwrap(),
        hub: server.hub.clone(),
        sessions: server.sessions.clone(),
        status_cache: server.status_cache.clone(),
        happenings,
        stop: server.stop.clone(),
        task: tokio::spawn(server.run(listener, identity.server_config().unwrap())),
        ca,
    }
}

impl Served {
    /// Publishes a table whose endpoint `e` has these instances, and the route `r`.
    pub(crate) fn publish(&self, namespace: &str, instances: &[Instance]) -> Arc<Snapshot> {
        let mut set = ResourceSet::default();
        for instance in instances {
            set.upsert(Resource::Instance {
                endpoint: "e".into(),
                instance: Arc::new(instance.clone()),
            });
        }
        let metadata = ObjectMeta {
            generation: Some(1),
            ..ObjectMeta::default()
        };
        let route = Verdict::good(Kind::OllaRoute, "r", &metadata);
        let mut verdicts = Verdicts::default();
        verdicts.insert_mut((route.kind, route.name.clone()), route);
        let before = self.hub.current(namespace);
        let content = Content::after(before.as_deref(), set, verdicts);
        let next = Snapshot::next(before.as_deref(), namespace, content).unwrap();
        self.hub.publish(next);
        self.hub.current(namespace).unwrap()
    }

    /// What data planes say of the namespace's newest table.
    pub(crate) fn view(&self, namespace: &str) -> View {
        self.sessions.view(namespace, tokio::time::Instant::now())
    }

    /// A connection from 127.0.0.`host` on which nothing is said.
    pub(crate) async fn tcp_from(&self, host: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        let from = Ipv4Addr::new(127, 0, 0, host);
        socket.bind((from, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// A connection that carries no stream yet, and its task, which ends with it.
    pub(crate) async fn dial(&self, window: Option<u32>) -> (Sending, JoinHandle<()>) {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap())
            .unwrap();
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .initial_connection_window_size(window)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        (sender, task)
    }

    /// The answer's head, and where to write lines.
    pub(crate) async fn request(
        &self,
        path: &str,
        token: Option<&str>,
        window: Option<u32>,
    ) -> (Response<Incoming>, Sender<Bytes>) {
        let (mut sender, _connection) = self.dial(window).await;
        request_over(&mut sender, path, token).await
    }

    /// A data plane whose token is good for `namespace`, before its hello.
    pub(crate) async fn connect(&self, namespace: &str, window: Option<u32>) -> Plane {
        let (mut sender, _connection) = self.dial(window).await;
        connect_over(&mut sender, namespace).await
    }

    /// And after it.
    pub(crate) async fn plane(&self, namespace: &str, revision: Option<Revision>) -> Plane {
        let mut plane = self.connect(namespace, None).await;
        plane.hello(revision).await;
        plane
    }
}

pub(crate) type Sending = http2::SendRequest<Channel<Bytes>>;

pub(crate) async fn request_over(
    sender: &mut Sending,
    path: &str,
    token: Option<&str>,
) -> (Response<Incoming>, Sender<Bytes>) {
    let (tx, body) = Channel::<Bytes>::new(64);
    let mut request = Request::post(format!("https://localhost{path}"));
    if let Some(token) = token {
        let token = token_of(token);
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(body).unwrap();
    let response = timeout(HANG, sender.send_request(request)).await.unwrap();
    (response.unwrap(), tx)
}

pub(crate) async fn connect_over(sender: &mut Sending, namespace: &str) -> Plane {
    let (response, tx) = request_over(sender, STREAM_PATH, Some(namespace)).await;
    assert_eq!(response.status(), StatusCode::OK);
    Plane {
        tx,
        body: response.into_body(),
        decoder: Decoder::new(MAX_TABLE_LINE),
    }
}

pub(crate) struct Plane {
    pub(crate) tx: Sender<Bytes>,
    body: Incoming,
    decoder: Decoder,
}

/// One transaction as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) namespace: String,
    pub(crate) revision: Revision,
    pub(crate) full: bool,
    pub(crate) upserts: usize,
    pub(crate) removes: usize,
}

impl Plane {
    pub(crate) async fn hello(&mut self, revision: Option<Revision>) {
        self.say(&ToOperator::Hello(Hello {
            formats: FORMATS.to_vec(),
            data_plane: "gateway-0".into(),
            version: "0.1.0".into(),
            revision,
        }))
        .await;
    }

    pub(crate) async fn say(&mut self, line: &ToOperator) {
        let line = encode(line, MAX_REPORT_LINE).unwrap();
        self.tx.send_data(line).await.unwrap();
    }

    /// The next line; `None` at a clean end of the stream.
    pub(crate) async fn line(&mut self) -> Option<ToDataPlane> {
        loop {
            if let Some(line) = self.decoder.next().unwrap() {
                return Some(line);
            }
            let frame = timeout(HANG, self.body.frame()).await.unwrap()?;
            self.decoder.push(frame.unwrap().data_ref().unwrap());
        }
    }

    pub(crate) async fn transaction(&mut self) -> Transaction {
        let mut begin = self.line().await;
        if let Some(ToDataPlane::Welcome { format }) = begin {
            assert_eq!(format, FORMAT);
            begin = self.line().await;
        }
        let Some(ToDataPlane::Begin { namespace, full }) = begin else {
            panic!("no begin: {begin:?}");
        };
        let (mut upserts, mut removes) = (0, 0);
        loop {
            match self.line().await.unwrap() {
                ToDataPlane::Upsert(_) => upserts += 1,
                ToDataPlane::Remove(_) => removes += 1,
                ToDataPlane::Commit { revision } => {
                    return Transaction {
                        namespace,
                        revision,
                        full,
                        upserts,
                        removes,
                    };
                }
                other => panic!("inside a transaction: {other:?}"),
            }
        }
    }
}

pub(crate) fn instance(name: &str, host: &str) -> Instance {
    Instance {
        id: format!("e/{name}").into(),
        scheme: Scheme::Http,
        host: host.into(),
        port: 80,
    }
}

/// Waits for the end of a connection.
pub(crate) async fn ended(connection: JoinHandle<()>) {
    timeout(HANG, connection).await.unwrap().unwrap();
}

/// Polls until it holds; what it waits for always comes, or the test hangs visibly.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(HANG, wait).await.expect(what);
}
