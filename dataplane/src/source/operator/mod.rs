//! The operator's stream → tables. Reconnects for ever, with jitter; what was received last
//! serves on meanwhile, and from disk after a restart (without credentials).

mod connect;
mod disk;
mod report;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use dataplane_protocol::{
    frame::{self, Decoder},
    resource::ResourceSet,
    sync::{FORMATS, Hello, MAX_REPORT_LINE, MAX_TABLE_LINE, ToDataPlane, ToOperator},
    transaction::{Commit, Mismatch, Transaction, Update},
};
use http::{Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Collected, Limited, channel::Sender};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use self::{
    disk::{Keeper, Snapshot},
    report::Reports,
};
use crate::state::Shared;

/// For each step until the stream stands.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Dead peers are found out by HTTP/2 pings.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// What changed is reported at most this often.
const REPORT_AT_MOST: Duration = Duration::from_secs(1);
/// All of it is said again this often: the operator passes over what is said of
/// an instance that is not in its newest table, and that one may be back in the next.
const REPORT_ALL_EVERY: Duration = Duration::from_mins(5);

/// Text of a refusal that is read, bytes.
const MAX_REFUSAL: usize = 4096;

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
    #[error("{0}; requesting the whole table")]
    Mismatch(#[from] Mismatch),
    #[error("the operator speaks format {format}, this data plane only {FORMATS:?}")]
    Format { format: u32 },
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
    /// What was last committed, in pieces; after a start, what the disk had.
    held: ResourceSet,
    /// A change from it made another table than the operator has: the whole table is needed.
    doubted: bool,
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
            doubted: false,
            keeper: None,
            heard: false,
        };
        client.make_state_dir();
        Ok(client)
    }

    /// Until the process drains.
    pub async fn follow(mut self, shared: Arc<Shared>) {
        let writing = tokio::spawn(self.start_keeper(shared.life.drain.clone()));
        self.follow_until_drained(&shared).await;
        // The last table may still be on its way to the disk.
        self.keeper = None;
        let _ = timeout(STEP_TIMEOUT / 5, writing).await;
    }

    async fn follow_until_drained(&mut self, shared: &Arc<Shared>) {
        let mut pause = BACKOFF.0;
        let drain = shared.life.drain.clone();
        loop {
            self.heard = false;
            let error = tokio::select! {
                () = drain.cancelled() => return,
                Err(error) = self.converse(shared) => error,
            };
            self.doubted |= matches!(error, Error::Mismatch(_));
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
        let resumes = !self.held.is_empty() && !self.doubted;
        let hello = Hello {
            formats: FORMATS.to_vec(),
            data_plane: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: resumes.then(|| self.held.revision()),
        };
        tell(&mut send, &ToOperator::Hello(hello)).await?;
        let rsp = timeout(STEP_TIMEOUT, rsp)
            .await
            .map_err(|_| Error::Timeout)??;
        let mut body = accepted(rsp).await?;
        let mut decoder = Decoder::new(MAX_TABLE_LINE);
        let mut transaction: Option<Transaction> = None;
        let mut changes = shared.changes();
        let mut reports = Reports::default();
        let mut last_report = Instant::now();
        let mut all_said = last_report;
        let mut dirty = true;
        loop {
            let mut next_report = all_said + REPORT_ALL_EVERY;
            if dirty {
                next_report = next_report.min(last_report + REPORT_AT_MOST);
            }
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
                    let now = Instant::now();
                    if now >= all_said + REPORT_ALL_EVERY {
                        reports = Reports::default();
                        all_said = now;
                    }
                    for report in reports.next(shared.reports().into_iter()) {
                        tell(&mut send, &ToOperator::Report(report)).await?;
                    }
                    last_report = now;
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
        let under_way = transaction.as_mut().ok_or(Error::OutOfOrder);
        match message {
            ToDataPlane::Welcome { format } if FORMATS.contains(&format) => {}
            ToDataPlane::Welcome { format } => return Err(Error::Format { format }),
            ToDataPlane::Begin { namespace, full } => {
                *transaction = Some(Transaction::begin(&self.held, namespace, full));
            }
            ToDataPlane::Upsert(resource) => under_way?.upsert(resource),
            ToDataPlane::Keep(key) => under_way?.keep(&key, &self.held),
            ToDataPlane::Remove(key) => under_way?.remove(&key),
            ToDataPlane::Commit { revision } => {
                let transaction = transaction.take().ok_or(Error::OutOfOrder)?;
                let commit = transaction.commit(&self.held, revision)?;
                if let Err(reason) = commit.check() {
                    tracing::error!(%revision, reason, "table refused: the last good one stays in use");
                    return tell(send, &ToOperator::Nack { revision, reason }).await;
                }
                let Commit {
                    namespace,
                    set,
                    update,
                } = commit;
                self.held = set.clone();
                self.doubted = false;
                self.heard = true;
                match update {
                    Update::Whole(table) => shared.apply(Arc::new(table), revision, "operator"),
                    Update::Change(change) => shared.apply_change(change, revision, "operator"),
                }
                tell(send, &ToOperator::Ack { revision }).await?;
                self.keep(Snapshot { namespace, set });
            }
            ToDataPlane::Refused { reason } => return Err(Error::Refused { reason }),
        }
        Ok(())
    }
}

/// The lines of an answer, if it is a good one.
async fn accepted(rsp: Response<Incoming>) -> Result<Incoming, Error> {
    let status = rsp.status();
    let body = rsp.into_body();
    if status == StatusCode::OK {
        return Ok(body);
    }
    let text = Limited::new(body, MAX_REFUSAL).collect();
    let text = timeout(STEP_TIMEOUT, text).await.ok().and_then(Result::ok);
    let text = text.map(Collected::to_bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    Err(Error::Status { status, text })
}

async fn tell(send: &mut Sender<Bytes>, message: &ToOperator) -> Result<(), Error> {
    let line = frame::encode(message, MAX_REPORT_LINE)?;
    let sending = timeout(STEP_TIMEOUT, send.send_data(line)).await;
    sending
        .map_err(|_| Error::Timeout)?
        .map_err(|_| Error::Closed)
}
