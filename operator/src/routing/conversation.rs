//! One data plane's stream: it says hello, gets its namespace's table, then each change.
//!
//! In: its lines, and the namespace's snapshots. Out: transactions, newest only: what was
//! published while it read slowly is one difference. Its Acks, Nacks and reports go to `sessions`.

mod lines;
mod send;
mod sent_tables;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use compile::Kind;
use dataplane_protocol::{
    Revision,
    frame::{self, encode},
    sync::{FORMATS, MAX_TABLE_LINE, Report, ToDataPlane, ToOperator, common_format},
};
use http_body_util::channel::Sender;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serving::slots::Slot;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::{
    lines::{Lines, Share},
    send::{TableSender, send},
    sent_tables::{SentTable, SentTables},
};
use super::{
    hub::{Hub, Receiver},
    sessions::{AffectedRoutes, BreakerChange, MAX_REASON, Session, Sessions, shortened},
    status_cache::StatusCache,
};
use crate::{
    events::{Events, ObjectEvent},
    metrics::{Metrics, ResultLabel},
    tokens::Identity,
};

const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_secs(1);
/// As long as a pod's name may be, bytes.
const MAX_NAME: usize = 253;

/// What a conversation works with.
#[derive(Clone, Debug)]
pub struct Context {
    pub hub: Arc<Hub>,
    pub sessions: Arc<Sessions>,
    pub status_cache: Arc<StatusCache>,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    /// Data planes of one namespace at a time.
    pub limit: usize,
    /// From the first byte of a line to its last.
    pub line: Duration,
    /// From hello to the stream's end, so that a data plane has to prove itself again.
    pub lifetime: Duration,
}

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
enum EndReason {
    #[error("the data plane closed the stream")]
    Closed,
    #[error("the stream broke")]
    Broken(#[source] hyper::Error),
    #[error("no hello within 10s")]
    NoHello,
    #[error("a message was not completed in time")]
    Unfinished,
    #[error("the data plane read nothing for 30s")]
    Stalled,
    #[error("the data plane read a table at less than 128 KiB/s")]
    TooSlow,
    #[error(
        "the routing table changed repeatedly while the data plane was reading it; it has to reconnect"
    )]
    Behind,
    #[error("{0}")]
    Frame(#[from] frame::Error),
    /// Trying again will not help: the data plane is told.
    #[error("refused: {0}")]
    Refused(String),
    #[error("the stream reached its maximum age; the data plane has to authenticate again")]
    Expired,
    #[error("the operator is shutting down")]
    Stopped,
}

/// From its hello to the end of the stream. A data plane whose stream reached its lifetime is
/// expected back: it is handed out, to be dropped when it does not come.
pub async fn run(
    context: Context,
    identity: Identity,
    lines: Incoming,
    mut tx: Sender<Bytes>,
    slot: &Arc<Slot>,
    stop: CancellationToken,
) -> Option<DataPlane> {
    let share = Share {
        sessions: context.sessions.clone(),
        namespace: identity.namespace.clone(),
    };
    let mut lines = Lines::new(lines, context.line, share);
    let ended = tokio::select! {
        () = stop.cancelled() => Err(EndReason::Stopped),
        ended = run_stream(&context, &identity, &mut lines, &mut tx, slot) => ended,
    };
    let end = match ended {
        Ok(data_plane) => {
            let namespace = identity.namespace;
            tracing::debug!(namespace, end = %EndReason::Expired, "stream closed, the data plane will reconnect");
            return Some(data_plane);
        }
        Err(end) => end,
    };
    if context
        .sessions
        .may_log(&identity.namespace, Instant::now())
    {
        let end = shortened(&end.to_string(), MAX_REASON);
        tracing::info!(
            namespace = identity.namespace,
            end,
            "data plane disconnected"
        );
    }
    let EndReason::Refused(reason) = end else {
        return None;
    };
    if let Ok(line) = encode(&ToDataPlane::Refused { reason }, MAX_TABLE_LINE) {
        // Whoever does not read it is gone anyway.
        let _ = timeout(GOODBYE, tx.send_data(line)).await;
    }
    None
}

/// The data plane, when its stream reached its lifetime.
async fn run_stream(
    context: &Context,
    identity: &Identity,
    lines: &mut Lines,
    tx: &mut Sender<Bytes>,
    slot: &Arc<Slot>,
) -> Result<DataPlane, EndReason> {
    let hello = match timeout(HELLO_TIMEOUT, lines.next()).await {
        Ok(Ok(ToOperator::Hello(hello))) => hello,
        Ok(Ok(_)) => return Err(EndReason::Refused("the first line must be a hello".into())),
        Ok(Err(end)) => return Err(end),
        Err(_) => return Err(EndReason::NoHello),
    };
    let Some(format) = common_format(&hello.formats) else {
        let theirs = &hello.formats;
        return Err(EndReason::Refused(format!(
            "no common protocol format: the data plane supports {theirs:?}, the operator {FORMATS:?}; \
             upgrade the older one"
        )));
    };
    lines.allow_reports();
    let Some(data_plane) = DataPlane::open(context, &identity.namespace, &hello.data_plane) else {
        let reason = "this namespace has too many data planes connected";
        return Err(EndReason::Refused(reason.into()));
    };
    // Not for a good token alone: that has no share, and one namespace could hold all slots.
    let _authenticated = slot.authenticate();
    if context
        .sessions
        .may_log(&identity.namespace, Instant::now())
    {
        tracing::info!(
            namespace = identity.namespace,
            service_account = identity.service_account,
            data_plane = shortened(&hello.data_plane, MAX_NAME),
            version = shortened(&hello.version, MAX_NAME),
            "data plane connected"
        );
    }
    let _connected = ConnectedGuard::new(context);
    let welcome = ToDataPlane::Welcome { format };
    send(tx, &encode(&welcome, MAX_TABLE_LINE)?).await?;
    // From when on it counts, if it does not answer.
    context.status_cache.mark_dirty(&identity.namespace, []);
    match data_plane.converse(hello.revision, lines, tx).await {
        EndReason::Expired => {
            data_plane.expect_back();
            Ok(data_plane)
        }
        end => Err(end),
    }
}

/// A data plane that said hello, and its namespace's tables. While it is expected back, too: the
/// numbers of tables that it acknowledged would mean nothing if the namespace were forgotten.
/// Dropping it, however its stream ended, takes it out of all statuses.
#[derive(Debug)]
pub struct DataPlane {
    session: Session,
    tables: Receiver,
    /// Last: it is dropped after the others.
    cleanup: Cleanup,
}

#[derive(Debug)]
struct Cleanup {
    context: Context,
    namespace: String,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        self.context.hub.release(&self.namespace);
        self.context.status_cache.mark_all_dirty(&self.namespace);
    }
}

impl DataPlane {
    /// `None` when the namespace has too many.
    pub fn open(context: &Context, namespace: &str, data_plane: &str) -> Option<Self> {
        let (limit, now) = (context.limit, Instant::now());
        let session = context.sessions.open(namespace, data_plane, limit, now)?;
        Some(Self {
            session,
            tables: context.hub.subscribe(namespace),
            cleanup: Cleanup {
                context: context.clone(),
                namespace: namespace.to_owned(),
            },
        })
    }

    /// Its stream has ended, but it is to open another soon.
    pub fn expect_back(&self) {
        self.session.expect_back();
    }

    async fn converse(
        &self,
        resumed: Option<Revision>,
        lines: &mut Lines,
        tx: &mut Sender<Bytes>,
    ) -> EndReason {
        let sent_tables = Mutex::new(SentTables::default());
        let sender = TableSender {
            tables: self.tables.clone(),
            resumed,
            sent_tables: &sent_tables,
            expiry: Instant::now() + self.cleanup.context.lifetime,
        };
        tokio::select! {
            end = sender.run(tx) => end,
            end = self.read(lines, &sent_tables) => end,
        }
    }

    async fn read(&self, lines: &mut Lines, sent_tables: &Mutex<SentTables>) -> EndReason {
        loop {
            let line = match lines.next().await {
                Ok(line) => line,
                Err(end) => return end,
            };
            match line {
                ToOperator::Hello(_) => return EndReason::Refused("a second hello".into()),
                ToOperator::Ack { revision } => {
                    let acked = sent_tables.lock().acked(revision);
                    self.acked(acked);
                }
                ToOperator::Nack { revision, reason } => {
                    let refused = sent_tables.lock().nacked(revision);
                    self.nacked(refused, &reason);
                }
                ToOperator::Report(report) => self.reported(&report),
            }
        }
    }

    /// An answer to what was not sent counts for nothing.
    fn acked(&self, acked: Option<SentTable>) {
        self.count("ack");
        let Some(acked) = acked else {
            return;
        };
        let waited = acked.at.elapsed().as_secs_f64();
        self.cleanup.context.metrics.push_to_ack.observe(waited);
        self.mark(self.session.ack(acked.number, Instant::now()));
    }

    /// The same.
    fn nacked(&self, refused: Option<SentTable>, reason: &str) {
        self.count("nack");
        let Some(refused) = refused else {
            return;
        };
        let (namespace, now) = (&self.cleanup.namespace, Instant::now());
        if self.cleanup.context.sessions.may_log(namespace, now) {
            let (revision, reason) = (refused.revision, shortened(reason, MAX_REASON));
            tracing::warn!(namespace, %revision, reason, "routing table rejected by a data plane");
        }
        self.mark(self.session.nack(refused.number, reason, now));
    }

    fn mark(&self, affected: AffectedRoutes) {
        let status_cache = &self.cleanup.context.status_cache;
        match affected {
            AffectedRoutes::None => {}
            AffectedRoutes::All => status_cache.mark_all_dirty(&self.cleanup.namespace),
            AffectedRoutes::After(number) => {
                let snapshot = self.tables.newest();
                let routes: Vec<_> = (snapshot.iter())
                    .flat_map(|snapshot| snapshot.routes_numbered(number, u64::MAX))
                    .map(|name| (Kind::OllaRoute, name.to_owned()))
                    .collect();
                if !routes.is_empty() {
                    status_cache.mark_dirty(&self.cleanup.namespace, routes);
                }
            }
        }
    }

    fn reported(&self, report: &Report) {
        let snapshot = self.tables.newest();
        let Some(snapshot) = snapshot else { return };
        let changes = self.session.report(report, &snapshot.set);
        for change in changes.breakers {
            self.emit_breaker_event(change);
        }
        if !changes.endpoints.is_empty() {
            let endpoints = changes.endpoints.into_iter();
            let endpoints = endpoints.map(|id| (Kind::LlmEndpoint, id.as_str().to_owned()));
            self.cleanup
                .context
                .status_cache
                .mark_dirty(&self.cleanup.namespace, endpoints);
        }
    }

    fn emit_breaker_event(&self, change: BreakerChange) {
        let name = change.endpoint.as_str();
        let uid =
            self.cleanup
                .context
                .status_cache
                .uid(&self.cleanup.namespace, Kind::LlmEndpoint, name);
        let Some(uid) = uid else { return };
        let instance = &change.instance;
        let (reason, note) = if change.open {
            let mut note = format!(
                "circuit breaker of instance {instance} opened, no requests are sent to it"
            );
            if !change.reason.is_empty() {
                note = format!("{note}: {}", change.reason);
            }
            ("BreakerOpened", note)
        } else {
            let note = format!(
                "circuit breaker of instance {instance} closed, requests are sent to it again"
            );
            ("BreakerClosed", note)
        };
        self.cleanup.context.events.emit(ObjectEvent {
            kind: Kind::LlmEndpoint,
            namespace: self.cleanup.namespace.clone(),
            name: name.to_owned(),
            uid,
            warning: change.open,
            reason: reason.to_owned(),
            note,
            action: "Watch",
            pod: instance
                .as_str()
                .split_once('/')
                .map(|(_, pod)| pod.to_owned()),
        });
    }

    fn count(&self, result: &'static str) {
        self.cleanup
            .context
            .metrics
            .acks
            .get_or_create(&ResultLabel { result })
            .inc();
    }
}

/// One in the gauge of data planes.
struct ConnectedGuard<'a>(&'a Metrics);

impl<'a> ConnectedGuard<'a> {
    fn new(context: &'a Context) -> Self {
        context.metrics.data_planes.inc();
        Self(&context.metrics)
    }
}

impl Drop for ConnectedGuard<'_> {
    fn drop(&mut self) {
        self.0.data_planes.dec();
    }
}
