//! The operator's stream → tables. Reconnects for ever, with jitter; what was received last
//! serves on meanwhile, and from disk after a restart (without credentials).

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dataplane_protocol::{
    Revision, RoutingTable,
    frame::{self, Decoder},
    resource::ResourceSet,
    sync::{
        FORMAT, Hello, InstanceReport, MAX_REPORT_LINE, MAX_TABLE_LINE, Report, STREAM_PATH,
        ToDataPlane, ToOperator,
    },
};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Channel, channel::Sender};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::state::Shared;

/// For each step until the stream stands.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Dead peers are found out by HTTP/2 pings.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// At most one report in this time, and one at least every [`REPORT_AT_LEAST`].
const REPORT_AT_MOST: Duration = Duration::from_secs(1);
const REPORT_AT_LEAST: Duration = Duration::from_secs(30);

/// File of the last good table in the state folder.
const TABLE_FILE: &str = "table.json";

#[derive(Clone, Debug)]
pub struct Config {
    /// `https://host:port`
    pub url: Uri,
    /// PEM of the operator's CA; read anew for each connection, because it rotates.
    pub ca_file: PathBuf,
    /// ServiceAccount token for audience `olla-operator`; read anew for each connection.
    pub token_file: PathBuf,
    /// Folder for the last good table; absent: none is kept.
    pub state_dir: Option<PathBuf>,
    /// Who this is, for people: the pod's name.
    pub name: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("--operator {url}: must be https://host:port")]
    Url { url: Uri },
    #[error("read {what} from {path}: {source}")]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} holds no certificate in PEM form")]
    NoCertificate { path: PathBuf },
    #[error("connect to the operator at {url}: {source}")]
    Connect { url: Uri, source: io::Error },
    #[error("no answer from the operator in {}s", STEP_TIMEOUT.as_secs())]
    Timeout,
    #[error("the stream broke: {0}")]
    Http(#[from] hyper::Error),
    #[error("the operator answered {status}: {text}")]
    Status { status: StatusCode, text: String },
    #[error("the operator refused: {reason}")]
    Refused { reason: String },
    #[error(transparent)]
    Frame(#[from] frame::Error),
    #[error("table {revision} came out different from what the operator has: asking for all of it")]
    Hash { revision: Revision },
    #[error("the operator closed the stream")]
    Closed,
    #[error("the operator sent a change outside of a transaction")]
    OutOfOrder,
}

/// What is kept on disk.
#[derive(Deserialize, Serialize)]
struct OnDisk {
    format: u32,
    revision: Revision,
    table: RoutingTable,
}

/// Of the stream's head.
type Answer = Result<http::Response<hyper::body::Incoming>, hyper::Error>;

#[derive(Debug)]
pub struct Client {
    config: Config,
    host: String,
    port: u16,
    /// What was last committed, in pieces.
    held: ResourceSet,
    /// The stream under way brought a table, or the word that ours is the newest.
    heard: bool,
}

impl Client {
    pub fn prepare(config: Config) -> Result<Self, Error> {
        let (Some("https"), Some(host)) = (config.url.scheme_str(), config.url.host()) else {
            return Err(Error::Url { url: config.url });
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = config.url.port_u16().unwrap_or(443);
        Ok(Self {
            config,
            host,
            port,
            held: ResourceSet::default(),
            heard: false,
        })
    }

    /// Serves from disk until the operator speaks.
    pub fn load_last_good(&self, shared: &Shared) {
        let Some(path) = self.table_path() else {
            return;
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "last good table not read");
                return;
            }
        };
        match serde_json::from_slice::<OnDisk>(&text) {
            Ok(kept) if kept.format == FORMAT => {
                shared.apply(Arc::new(kept.table), kept.revision, "disk");
            }
            Ok(kept) => {
                tracing::warn!(format = kept.format, "last good table is of another format");
            }
            Err(error) => tracing::warn!(%error, "last good table is damaged"),
        }
    }

    /// Until the process drains.
    pub async fn follow(mut self, shared: Arc<Shared>) {
        let mut pause = BACKOFF.0;
        let drain = shared.drain.clone();
        loop {
            self.heard = false;
            let error = tokio::select! {
                () = drain.cancelled() => return,
                Err(error) = self.converse(&shared) => error,
            };
            if matches!(error, Error::Hash { .. }) {
                self.held = ResourceSet::default();
            }
            if self.heard {
                pause = BACKOFF.0;
            }
            let wait = pause.mul_f64(0.5 + fastrand::f64());
            tracing::warn!(%error, again_ms = wait.as_millis() as u64, "no stream from the operator");
            shared.source_problem(error.to_string());
            tokio::select! {
                () = drain.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// One stream, from connect to its end; there is no good one.
    async fn converse(&mut self, shared: &Arc<Shared>) -> Result<std::convert::Infallible, Error> {
        let (mut send, rsp, _guard) = self.open().await?;
        let hello = Hello {
            format: FORMAT,
            data_plane: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hash: (!self.held.is_empty()).then(|| self.held.hash()),
        };
        tell(&mut send, &ToOperator::Hello(hello)).await?;
        let rsp = timeout(STEP_TIMEOUT, rsp)
            .await
            .map_err(|_| Error::Timeout)??;
        let status = rsp.status();
        let mut body = rsp.into_body();
        if status != StatusCode::OK {
            let text = timeout(
                STEP_TIMEOUT,
                http_body_util::Limited::new(body, 4096).collect(),
            );
            let text = text
                .await
                .ok()
                .and_then(Result::ok)
                .map(http_body_util::Collected::to_bytes);
            let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
            return Err(Error::Status { status, text });
        }
        let mut decoder = Decoder::new(MAX_TABLE_LINE);
        let mut transaction: Option<Transaction> = None;
        let mut changes = shared.changes();
        let mut last_report = tokio::time::Instant::now();
        let mut dirty = true;
        loop {
            let next_report = last_report
                + if dirty {
                    REPORT_AT_MOST
                } else {
                    REPORT_AT_LEAST
                };
            tokio::select! {
                frame = body.frame() => {
                    let frame = frame.ok_or(Error::Closed)??;
                    let Ok(data) = frame.into_data() else { continue };
                    decoder.push(&data);
                    while let Some(message) = decoder.next::<ToDataPlane>()? {
                        self.hear(shared, &mut send, &mut transaction, message).await?;
                    }
                }
                Ok(()) = changes.changed() => dirty = true,
                () = tokio::time::sleep_until(next_report) => {
                    tell(&mut send, &ToOperator::Report(report(shared))).await?;
                    last_report = tokio::time::Instant::now();
                    dirty = false;
                }
            }
        }
    }

    async fn hear(
        &mut self,
        shared: &Arc<Shared>,
        send: &mut Sender<Bytes>,
        transaction: &mut Option<Transaction>,
        message: ToDataPlane,
    ) -> Result<(), Error> {
        match message {
            ToDataPlane::Begin {
                namespace, full, ..
            } => {
                let set = if full {
                    ResourceSet::default()
                } else {
                    self.held.clone()
                };
                *transaction = Some(Transaction { namespace, set });
            }
            ToDataPlane::Upsert(resource) => {
                transaction
                    .as_mut()
                    .ok_or(Error::OutOfOrder)?
                    .set
                    .upsert(resource);
            }
            ToDataPlane::Remove(key) => {
                transaction
                    .as_mut()
                    .ok_or(Error::OutOfOrder)?
                    .set
                    .remove(&key);
            }
            ToDataPlane::Commit { revision, hash } => {
                let Transaction { namespace, set } = transaction.take().ok_or(Error::OutOfOrder)?;
                if set.hash() != hash {
                    return Err(Error::Hash { revision });
                }
                let table = set.to_table(&namespace);
                if let Err(reason) = acceptable(&table) {
                    tracing::error!(%revision, reason, "table refused: the last good one serves on");
                    return tell(send, &ToOperator::Nack { revision, reason }).await;
                }
                self.held = set;
                self.heard = true;
                shared.apply(Arc::new(table.clone()), revision, "operator");
                self.keep(revision, &table);
                tell(send, &ToOperator::Ack { revision }).await?;
            }
            ToDataPlane::Refused { reason } => return Err(Error::Refused { reason }),
        }
        Ok(())
    }

    /// Connects and opens the stream. The response comes after the first line is sent.
    async fn open(
        &self,
    ) -> Result<(Sender<Bytes>, impl Future<Output = Answer> + use<>, Guard), Error> {
        let url = self.config.url.clone();
        let failed = |source| Error::Connect {
            url: url.clone(),
            source,
        };
        let token = read(&self.config.token_file, "the token")?;
        let tls = TlsConnector::from(Arc::new(self.tls()?));
        let name =
            ServerName::try_from(self.host.clone()).map_err(|_| Error::Url { url: url.clone() })?;
        let connecting = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            tls.connect(name, stream).await
        };
        let stream = timeout(STEP_TIMEOUT, connecting)
            .await
            .map_err(|_| Error::Timeout)?
            .map_err(failed)?;
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(KEEP_ALIVE))
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream));
        let (mut sender, connection) = timeout(STEP_TIMEOUT, handshake)
            .await
            .map_err(|_| Error::Timeout)??;
        let guard = Guard(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the operator ended");
            }
        }));
        let (send, body) = Channel::<Bytes, std::convert::Infallible>::new(64);
        let token = String::from_utf8_lossy(&token).trim().to_owned();
        let mut bearer =
            header::HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| Error::File {
                what: "the token",
                path: self.config.token_file.clone(),
                source: io::Error::other("it is no header value"),
            })?;
        bearer.set_sensitive(true);
        let uri = format!(
            "https://{}{STREAM_PATH}",
            url.authority().map_or("", |a| a.as_str())
        );
        let mut req = Request::new(body);
        *req.method_mut() = http::Method::POST;
        *req.uri_mut() = uri.parse().map_err(|_| Error::Url { url: url.clone() })?;
        req.headers_mut().insert(header::AUTHORIZATION, bearer);
        Ok((send, sender.send_request(req), guard))
    }

    fn tls(&self) -> Result<ClientConfig, Error> {
        let path = &self.config.ca_file;
        let pem = read(path, "the operator's CA")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem).flatten() {
            // One that cannot be used is as good as none: the count below tells.
            let _ = roots.add(certificate);
        }
        if roots.is_empty() {
            return Err(Error::NoCertificate { path: path.clone() });
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Connect {
                url: self.config.url.clone(),
                source: io::Error::other(error),
            })?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn table_path(&self) -> Option<PathBuf> {
        self.config
            .state_dir
            .as_ref()
            .map(|dir| dir.join(TABLE_FILE))
    }

    /// Writes the table for the next start: all of it or nothing, and no credential.
    fn keep(&self, revision: Revision, table: &RoutingTable) {
        let Some(path) = self.table_path() else {
            return;
        };
        let kept = OnDisk {
            format: FORMAT,
            revision,
            table: table.without_credentials(),
        };
        let written = serde_json::to_vec(&kept)
            .map_err(io::Error::other)
            .and_then(|text| {
                let temporary = path.with_extension("tmp");
                let mut options = fs::OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                let mut file = options.open(&temporary)?;
                // One left over by an older release may be open to others.
                file.set_permissions(fs::Permissions::from_mode(0o600))?;
                file.write_all(&text)?;
                // Renamed only once it is whole, also after a power cut.
                file.sync_all()?;
                fs::rename(&temporary, &path)
            });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "table not kept on disk");
        }
    }
}

struct Transaction {
    namespace: String,
    set: ResourceSet,
}

/// Ends the connection's task with the stream.
struct Guard(tokio::task::JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A table whose parts do not fit together would route wrongly: better the one before.
fn acceptable(table: &RoutingTable) -> Result<(), String> {
    for route in &table.routes {
        for target in &route.targets {
            let Some(endpoint) = table.endpoints.get(&target.endpoint) else {
                return Err(format!(
                    "route {} names endpoint {}, which is not there",
                    route.id, target.endpoint
                ));
            };
            if !table.profiles.contains_key(&endpoint.profile) {
                return Err(format!(
                    "endpoint {} is of type {}, which is not there",
                    endpoint.id, endpoint.profile
                ));
            }
        }
    }
    Ok(())
}

fn report(shared: &Shared) -> Report {
    let instances = shared
        .view()
        .instances
        .into_iter()
        .map(|instance| InstanceReport {
            endpoint: instance.endpoint,
            instance: instance.instance,
            health: instance.health,
            breaker: instance.breaker,
            in_flight: instance.in_flight,
            models: instance.models.map(|models| models.len() as u32),
            reason: instance.why_not,
        })
        .collect();
    Report { instances }
}

async fn tell(send: &mut Sender<Bytes>, message: &ToOperator) -> Result<(), Error> {
    let line = frame::encode(message, MAX_REPORT_LINE)?;
    let sending = timeout(STEP_TIMEOUT, send.send_data(line)).await;
    sending
        .map_err(|_| Error::Timeout)?
        .map_err(|_| Error::Closed)
}

fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File {
        what,
        path: path.to_owned(),
        source,
    })
}
