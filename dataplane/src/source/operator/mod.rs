//! The operator's stream → tables. Reconnects for ever, with jitter; what was received last
//! serves on meanwhile, and from disk after a restart (without credentials).

mod connect;
mod disk;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use dataplane_protocol::{
    Revision, RoutingTable,
    frame::{self, Decoder},
    resource::ResourceSet,
    sync::{
        FORMAT, Hello, InstanceReport, MAX_REPORT_LINE, MAX_TABLE_LINE, Report, ToDataPlane,
        ToOperator,
    },
};
use http::{StatusCode, Uri};
use http_body_util::{BodyExt as _, channel::Sender};
use tokio::time::timeout;

use self::disk::Keeper;
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
    #[error("read {what} from {path}: {cause}")]
    File {
        what: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    #[error("{path} holds no certificate in PEM form")]
    NoCertificate { path: PathBuf },
    #[error("connect to the operator at {url}: {cause}")]
    Connect { url: Uri, cause: io::Error },
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

#[derive(Debug)]
pub struct Client {
    config: Config,
    host: String,
    port: u16,
    /// What was last committed, in pieces.
    held: ResourceSet,
    /// Takes tables to disk; there while the client follows the operator.
    keeper: Option<Keeper>,
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
        let mut client = Self {
            config,
            host,
            port,
            held: ResourceSet::default(),
            keeper: None,
            heard: false,
        };
        client.make_state_dir();
        Ok(client)
    }

    /// Until the process drains.
    pub async fn follow(mut self, shared: Arc<Shared>) {
        let writing = tokio::spawn(self.start_keeper(shared.drain.clone()));
        self.follow_until_drained(&shared).await;
        // The last table may still be on its way to the disk.
        self.keeper = None;
        let _ = timeout(STEP_TIMEOUT / 5, writing).await;
    }

    async fn follow_until_drained(&mut self, shared: &Arc<Shared>) {
        let mut pause = BACKOFF.0;
        let drain = shared.drain.clone();
        loop {
            self.heard = false;
            let error = tokio::select! {
                () = drain.cancelled() => return,
                Err(error) = self.converse(shared) => error,
            };
            if matches!(error, Error::Hash { .. }) {
                self.held = ResourceSet::default();
            }
            if self.heard {
                pause = BACKOFF.0;
            }
            let wait = pause.mul_f64(0.5 + fastrand::f64());
            let again_ms = wait.as_millis() as u64;
            if self.heard && matches!(error, Error::Closed) {
                // Operators end streams now and then, so that data planes prove themselves anew.
                tracing::debug!(again_ms, "the operator ended the stream");
            } else {
                tracing::warn!(%error, again_ms, "no stream from the operator");
                shared.source_problem(error.to_string());
            }
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
                    let knew = self.heard;
                    while let Some(message) = decoder.next::<ToDataPlane>()? {
                        self.hear(shared, &mut send, &mut transaction, message).await?;
                    }
                    if self.heard && !knew && shared.has_looked() {
                        // An operator that has just started knows nothing else of the instances.
                        last_report -= REPORT_AT_MOST;
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
                let table = Arc::new(table);
                shared.apply(table.clone(), revision, "operator");
                tell(send, &ToOperator::Ack { revision }).await?;
                self.keep(revision, table);
            }
            ToDataPlane::Refused { reason } => return Err(Error::Refused { reason }),
        }
        Ok(())
    }
}

struct Transaction {
    namespace: String,
    set: ResourceSet,
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
