//! One data plane's stream: it says hello, gets its namespace's table, then each change.
//!
//! In: its lines, and the namespace's snapshots. Out: transactions, newest only: what was
//! published while it read slowly is one difference. Its Acks, Nacks and reports go to `sessions`.

mod base;
mod lines;
mod write;

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
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::{
    base::{Base, Sent},
    lines::Lines,
    write::{Writer, send},
};
use super::{
    hub::{Hub, Receiver},
    ledger::Ledger,
    sessions::{BreakerChange, Concerned, Session, Sessions},
};
use crate::{
    events::{Events, Happening},
    metrics::{Metrics, ResultLabel},
    tokens::Identity,
};

const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_secs(1);

/// What a conversation works with.
#[derive(Clone, Debug)]
pub struct Context {
    pub hub: Arc<Hub>,
    pub sessions: Arc<Sessions>,
    pub ledger: Arc<Ledger>,
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
enum End {
    #[error("the data plane closed the stream")]
    Closed,
    #[error("the stream broke")]
    Broken(#[source] hyper::Error),
    #[error("no hello within 10s")]
    NoHello,
    #[error("a line did not end in time")]
    Unfinished,
    #[error("the data plane read nothing for 30s")]
    Stalled,
    #[error("the data plane read a table at less than 128 KiB/s")]
    TooSlow,
    #[error(
        "the table changed too often while the data plane read it: it is to ask for the newest"
    )]
    Behind,
    #[error("{0}")]
    Frame(#[from] frame::Error),
    /// Trying again will not help: the data plane is told.
    #[error("refused: {0}")]
    Refused(String),
    #[error("the stream reached its lifetime: the data plane is to prove itself again")]
    Expired,
    #[error("the operator stops")]
    Stopped,
}

/// From its hello to the end of the stream. A data plane whose stream reached its lifetime is
/// expected back: it is handed out, to be dropped when it does not come.
pub async fn hold(
    context: Context,
    identity: Identity,
    lines: Incoming,
    mut tx: Sender<Bytes>,
    stop: CancellationToken,
) -> Option<Joined> {
    let mut lines = Lines::new(lines, context.line);
    let talked = tokio::select! {
        () = stop.cancelled() => Err(End::Stopped),
        talked = talk(&context, &identity, &mut lines, &mut tx) => talked,
    };
    let end = match talked {
        Ok(joined) => {
            let namespace = identity.namespace;
            tracing::debug!(namespace, end = %End::Expired, "data plane is sent round");
            return Some(joined);
        }
        Err(end) => end,
    };
    tracing::info!(namespace = identity.namespace, %end, "data plane left");
    let End::Refused(reason) = end else {
        return None;
    };
    if let Ok(line) = encode(&ToDataPlane::Refused { reason }, MAX_TABLE_LINE) {
        // Whoever does not read it is gone anyway.
        let _ = timeout(GOODBYE, tx.send_data(line)).await;
    }
    None
}

/// The data plane, when its stream reached its lifetime.
async fn talk(
    context: &Context,
    identity: &Identity,
    lines: &mut Lines,
    tx: &mut Sender<Bytes>,
) -> Result<Joined, End> {
    let hello = match timeout(HELLO_TIMEOUT, lines.next()).await {
        Ok(Ok(ToOperator::Hello(hello))) => hello,
        Ok(Ok(_)) => return Err(End::Refused("the first line must be a hello".into())),
        Ok(Err(end)) => return Err(end),
        Err(_) => return Err(End::NoHello),
    };
    let Some(format) = common_format(&hello.formats) else {
        let theirs = &hello.formats;
        return Err(End::Refused(format!(
            "the data plane speaks formats {theirs:?}, the operator {FORMATS:?}: upgrade one of \
             them to a neighbouring release of the other"
        )));
    };
    lines.allow_reports();
    let Some(joined) = Joined::open(context, &identity.namespace, &hello.data_plane) else {
        let reason = "this namespace has too many data planes connected";
        return Err(End::Refused(reason.into()));
    };
    tracing::info!(
        namespace = identity.namespace,
        service_account = identity.service_account,
        data_plane = hello.data_plane,
        version = hello.version,
        "data plane connected"
    );
    let _counted = Counted::new(context);
    let welcome = ToDataPlane::Welcome { format };
    send(tx, &encode(&welcome, MAX_TABLE_LINE)?).await?;
    // From when on it counts, if it does not answer.
    context.ledger.mark(&identity.namespace, []);
    match joined.converse(hello.revision, lines, tx).await {
        End::Expired => {
            joined.expect_back();
            Ok(joined)
        }
        end => Err(end),
    }
}

/// A data plane that said hello, and its namespace's tables. While it is expected back, too: the
/// numbers of tables that it acknowledged would mean nothing if the namespace were forgotten.
/// Dropping it, however its stream ended, takes it out of all statuses.
#[derive(Debug)]
pub struct Joined {
    session: Session,
    tables: Receiver,
    /// Last: it is dropped after the others.
    left: Left,
}

#[derive(Debug)]
struct Left {
    context: Context,
    namespace: String,
}

impl Drop for Left {
    fn drop(&mut self) {
        self.context.hub.release(&self.namespace);
        self.context.ledger.mark_all(&self.namespace);
    }
}

impl Joined {
    /// `None` when the namespace has too many.
    pub fn open(context: &Context, namespace: &str, data_plane: &str) -> Option<Self> {
        let (limit, now) = (context.limit, Instant::now());
        let session = context.sessions.open(namespace, data_plane, limit, now)?;
        Some(Self {
            session,
            tables: context.hub.subscribe(namespace),
            left: Left {
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
    ) -> End {
        let base = Mutex::new(Base::default());
        let writer = Writer {
            tables: self.tables.clone(),
            resumed,
            base: &base,
            expiry: Instant::now() + self.left.context.lifetime,
        };
        tokio::select! {
            end = writer.run(tx) => end,
            end = self.read(lines, &base) => end,
        }
    }

    async fn read(&self, lines: &mut Lines, base: &Mutex<Base>) -> End {
        loop {
            let line = match lines.next().await {
                Ok(line) => line,
                Err(end) => return end,
            };
            match line {
                ToOperator::Hello(_) => return End::Refused("a second hello".into()),
                ToOperator::Ack { revision } => {
                    let acked = base.lock().acked(revision);
                    self.acked(acked);
                }
                ToOperator::Nack { revision, reason } => {
                    tracing::warn!(namespace = self.left.namespace, %revision, reason, "table refused");
                    let refused = base.lock().nacked(revision);
                    self.count("nack");
                    if let Some(refused) = refused {
                        let now = Instant::now();
                        let concerned = self.session.nack(refused.number, &reason, now);
                        self.mark(concerned);
                    }
                }
                ToOperator::Report(report) => self.reported(&report),
            }
        }
    }

    /// An answer to what was not sent counts for nothing.
    fn acked(&self, acked: Option<Sent>) {
        self.count("ack");
        let Some(acked) = acked else {
            return;
        };
        let waited = acked.at.elapsed().as_secs_f64();
        self.left.context.metrics.push_to_ack.observe(waited);
        self.mark(self.session.ack(acked.number, Instant::now()));
    }

    fn mark(&self, concerned: Concerned) {
        let ledger = &self.left.context.ledger;
        match concerned {
            Concerned::None => {}
            Concerned::All => ledger.mark_all(&self.left.namespace),
            Concerned::After(number) => {
                let snapshot = self.tables.newest();
                let routes: Vec<_> = (snapshot.iter())
                    .flat_map(|snapshot| snapshot.routes_numbered(number, u64::MAX))
                    .map(|name| (Kind::OllaRoute, name.to_owned()))
                    .collect();
                if !routes.is_empty() {
                    ledger.mark(&self.left.namespace, routes);
                }
            }
        }
    }

    fn reported(&self, report: &Report) {
        let snapshot = self.tables.newest();
        let Some(snapshot) = snapshot else { return };
        let news = self.session.report(report, &snapshot.set);
        for change in news.breakers {
            self.tell(change);
        }
        if !news.endpoints.is_empty() {
            let endpoints = news.endpoints.into_iter();
            let endpoints = endpoints.map(|id| (Kind::LlmEndpoint, id.as_str().to_owned()));
            self.left
                .context
                .ledger
                .mark(&self.left.namespace, endpoints);
        }
    }

    fn tell(&self, change: BreakerChange) {
        let name = change.endpoint.as_str();
        let entry = self
            .left
            .context
            .ledger
            .entry(&self.left.namespace, Kind::LlmEndpoint, name);
        let Some(entry) = entry else { return };
        let instance = &change.instance;
        let (reason, note) = if change.open {
            let mut note = format!("instance {instance} keeps failing and gets no traffic");
            if !change.reason.is_empty() {
                note = format!("{note}: {}", change.reason);
            }
            ("BreakerOpened", note)
        } else {
            let note = format!("instance {instance} answers again and gets traffic");
            ("BreakerClosed", note)
        };
        self.left.context.events.tell(Happening {
            kind: Kind::LlmEndpoint,
            namespace: self.left.namespace.clone(),
            name: name.to_owned(),
            uid: entry.uid,
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
        self.left
            .context
            .metrics
            .acks
            .get_or_create(&ResultLabel { result })
            .inc();
    }
}

/// One in the gauge of data planes.
struct Counted<'a>(&'a Metrics);

impl<'a> Counted<'a> {
    fn new(context: &'a Context) -> Self {
        context.metrics.data_planes.inc();
        Self(&context.metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.data_planes.dec();
    }
}
