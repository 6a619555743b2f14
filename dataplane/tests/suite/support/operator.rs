//! An operator that says what a test wants it to say, over TLS and HTTP/2.

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use dataplane::source::{
    file,
    operator::{self, Config},
};
use dataplane_protocol::{
    Revision, RoutingTable,
    frame::{self, Decoder},
    resource::ResourceSet,
    sync::{FORMAT, Hello, MAX_REPORT_LINE, MAX_TABLE_LINE, Report, ToDataPlane, ToOperator},
};
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, Channel, Either, Full, channel::Sender};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use manifest::Source;
use parking_lot::Mutex;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{PATIENCE, plane::Yaml};

type Body = Either<Channel<Bytes, Infallible>, Full<Bytes>>;

pub(crate) struct Operator {
    addr: SocketAddr,
    certificate: String,
    tls: TlsAcceptor,
    opened: Arc<Opened>,
    streams: UnboundedReceiver<Stream>,
    serving: JoinSet<()>,
}

struct Opened {
    streams: UnboundedSender<Stream>,
    /// Instead of a stream, data planes get this.
    refusal: Mutex<Option<(StatusCode, &'static str)>>,
}

impl Operator {
    pub(crate) async fn start() -> Self {
        let addr = super::backend::own_address();
        let names = vec![addr.ip().to_string()];
        let pair = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (opened, streams) = mpsc::unbounded_channel();
        let mut operator = Self {
            addr,
            certificate: pair.cert.pem(),
            tls: TlsAcceptor::from(Arc::new(config)),
            opened: Arc::new(Opened {
                streams: opened,
                refusal: Mutex::default(),
            }),
            streams,
            serving: JoinSet::new(),
        };
        operator.restart().await;
        operator
    }

    /// What a data plane is told of it; its files lie in `folder`.
    pub(crate) fn config(&self, folder: &Path, token: &str) -> Config {
        let ca_file = folder.join("ca.crt");
        fs::write(&ca_file, &self.certificate).unwrap();
        let token_file = folder.join("token");
        fs::write(&token_file, token).unwrap();
        Config {
            url: self.url().parse().unwrap(),
            ca_file,
            token_file,
            state_dir: None,
            name: "pod-1".to_owned(),
        }
    }

    fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    pub(crate) fn refuse(&self, refusal: Option<(StatusCode, &'static str)>) {
        *self.opened.refusal.lock() = refusal;
    }

    /// All streams and the listener are gone.
    pub(crate) async fn stop(&mut self) {
        self.serving.shutdown().await;
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        let listener = TcpListener::bind(self.addr).await.unwrap();
        self.addr = listener.local_addr().unwrap();
        let (tls, opened) = (self.tls.clone(), self.opened.clone());
        self.serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, opened) = (tls.clone(), opened.clone());
                connections.spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |req| {
                        std::future::ready(Ok::<_, Infallible>(answer(&opened, req)))
                    });
                    let _ = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
    }

    /// The next stream that a data plane opens.
    pub(crate) async fn stream(&mut self) -> Stream {
        let next = timeout(PATIENCE, self.streams.recv()).await;
        next.expect("a data plane connects").unwrap()
    }
}

fn answer(opened: &Opened, req: Request<Incoming>) -> Response<Body> {
    if let Some((status, text)) = *opened.refusal.lock() {
        let mut rsp = Response::new(Either::Right(Full::from(text)));
        *rsp.status_mut() = status;
        return rsp;
    }
    let (head, mut lines) = req.into_parts();
    let (heard, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut decoder = Decoder::new(MAX_REPORT_LINE);
        while let Some(Ok(frame)) = lines.frame().await {
            decoder.push(&frame.into_data().unwrap_or_default());
            while let Some(message) = decoder.next::<ToOperator>().unwrap() {
                let _ = heard.send(message);
            }
        }
    });
    let (send, body) = Channel::new(1024);
    let bearer = head.headers[AUTHORIZATION].to_str().unwrap().to_owned();
    let _ = opened.streams.send(Stream {
        path: head.uri.path().to_owned(),
        bearer,
        send,
        piece: usize::MAX,
        heard: receiver,
    });
    Response::new(Either::Left(body))
}

/// One data plane's stream. Dropped, it ends.
pub(crate) struct Stream {
    pub(crate) path: String,
    pub(crate) bearer: String,
    send: Sender<Bytes>,
    /// Bytes sent at a time.
    piece: usize,
    heard: UnboundedReceiver<ToOperator>,
}

impl Stream {
    pub(crate) async fn hello(&mut self) -> Hello {
        match self.hear().await {
            ToOperator::Hello(hello) => hello,
            other => panic!("no hello: {other:?}"),
        }
    }

    async fn hear(&mut self) -> ToOperator {
        let next = timeout(PATIENCE, self.heard.recv()).await;
        next.expect("the data plane says something")
            .expect("it is there")
    }

    pub(crate) async fn say(&mut self, message: &ToDataPlane) {
        self.raw(frame::encode(message, MAX_TABLE_LINE).unwrap())
            .await;
    }

    pub(crate) async fn raw(&mut self, line: impl AsRef<[u8]>) {
        for piece in line.as_ref().chunks(self.piece) {
            let piece = Bytes::copy_from_slice(piece);
            self.send.send_data(piece).await.unwrap();
        }
    }

    pub(crate) fn in_pieces(mut self, bytes: usize) -> Self {
        self.piece = bytes;
        self
    }

    /// `table` in full.
    pub(crate) async fn table(&mut self, table: &RoutingTable) -> Revision {
        self.change(&ResourceSet::default(), table, true).await
    }

    /// What makes `table` of `held`.
    pub(crate) async fn change(
        &mut self,
        held: &ResourceSet,
        table: &RoutingTable,
        full: bool,
    ) -> Revision {
        let newer = ResourceSet::of(table);
        let difference = held.difference(&newer);
        let namespace = table.namespace.clone();
        self.say(&ToDataPlane::Welcome { format: FORMAT }).await;
        self.say(&ToDataPlane::Begin { namespace, full }).await;
        for resource in difference.upserts {
            self.say(&ToDataPlane::Upsert(resource)).await;
        }
        for key in difference.keeps {
            self.say(&ToDataPlane::Keep(key)).await;
        }
        for key in difference.removes {
            self.say(&ToDataPlane::Remove(key)).await;
        }
        let revision = newer.revision();
        self.say(&ToDataPlane::Commit { revision }).await;
        revision
    }

    /// The next Ack's revision, or the next Nack's and its reason.
    pub(crate) async fn verdict(&mut self) -> Result<Revision, (Revision, String)> {
        loop {
            match self.hear().await {
                ToOperator::Ack { revision } => return Ok(revision),
                ToOperator::Nack { revision, reason } => return Err((revision, reason)),
                ToOperator::Report(_) | ToOperator::Hello(_) => {}
            }
        }
    }

    pub(crate) async fn report(&mut self) -> Report {
        loop {
            if let ToOperator::Report(report) = self.hear().await {
                return report;
            }
        }
    }
}

/// What `yaml` means.
pub(crate) fn table(yaml: &Yaml) -> RoutingTable {
    let source = Source {
        name: "test.yaml".to_owned(),
        text: yaml.text(),
    };
    file::usable(&[source], None).unwrap().compiled.table
}

/// With a folder to keep tables in.
pub(crate) fn keeping(mut config: Config, folder: &Path) -> (Config, PathBuf) {
    config.state_dir = Some(folder.to_owned());
    (config, folder.join("table.json"))
}

/// As [`App::start`](dataplane::app::App::start) takes it.
pub(crate) fn from(config: &operator::Config) -> dataplane::app::From {
    dataplane::app::From::Operator(config.clone())
}
