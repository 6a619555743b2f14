//! Kubernetes Events: what happened to an object, for `kubectl describe`.
//!
//! In: [`Happening`]s from the other rooms, never waiting. Out: events.k8s.io/v1; the Recorder
//! counts repetitions instead of writing them again. Each namespace has its [`Share`] of them, and
//! of the writes under way, so that one whose breakers flap, or whose writes hang, drowns nobody's.

mod share;

use std::sync::Arc;

use compile::Kind;
use crds::{GROUP, VERSION};
use futures::{StreamExt as _, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::share::{Share, Taken};
use crate::{
    MANAGER,
    limiter::{Limiter, Limits},
    metrics::Metrics,
};

/// An API server that cannot keep up loses events, not memory.
const QUEUE: usize = 1024;
/// Written at a time.
const LIMITS: Limits = Limits {
    total: 8,
    per_namespace: 2,
    slow: 2,
};
/// Of one namespace that wait to be written; fewer of one whose writes are slow.
const WAITING: usize = 100;
const WAITING_SLOW: usize = 8;
/// The API's limit on a note is 1 kB.
const MAX_NOTE: usize = 1000;

/// Something that a person looking at the object should read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub warning: bool,
    /// CamelCase, one of the condition reasons or `BreakerOpened`, `BreakerClosed`.
    pub reason: String,
    pub note: String,
    /// What the operator was doing: `Compile`, `Program` or `Watch`.
    pub action: &'static str,
    /// The pod it is about, if any; repetitions are counted by pod.
    pub pod: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Events {
    tx: mpsc::Sender<Happening>,
    share: Arc<Mutex<Share>>,
    metrics: Arc<Metrics>,
}

impl Events {
    /// The sending end for all rooms, the receiving one for [`publish`].
    pub fn channel(metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Happening>) {
        let (tx, rx) = mpsc::channel(QUEUE);
        let share = Arc::default();
        let events = Self { tx, share, metrics };
        (events, rx)
    }

    pub fn tell(&self, happening: Happening) {
        let taken = self.share.lock().take(&happening.namespace, Instant::now());
        let why = match taken {
            Taken::Told => match self.tx.try_send(happening) {
                Ok(()) | Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(_)) => "the API server does not keep up",
            },
            Taken::First => {
                let namespace = happening.namespace;
                tracing::warn!(namespace, "events dropped: too many of this namespace");
                "too many of this namespace"
            }
            Taken::More => "too many of this namespace",
        };
        tracing::debug!(why, "event dropped");
        self.metrics.events_dropped.inc();
    }
}

/// Writes what comes until stopped.
pub async fn publish(
    client: Client,
    instance: String,
    rx: mpsc::Receiver<Happening>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let reporter = Reporter {
        controller: format!("{GROUP}/{MANAGER}"),
        instance: Some(instance),
    };
    let recorder = Recorder::new(client, reporter);
    let write = |happening| write(recorder.clone(), happening);
    let all = write_all(rx, &metrics, write);
    tokio::select! {
        () = stop.cancelled() => {}
        () = all => {}
    }
}

/// Each in its namespace's turn.
async fn write_all<F: Future<Output = ()>>(
    mut rx: mpsc::Receiver<Happening>,
    metrics: &Metrics,
    write: impl Fn(Happening) -> F,
) {
    let limiter = Limiter::new(LIMITS);
    let mut writes = FuturesUnordered::new();
    loop {
        let happening = tokio::select! {
            happening = rx.recv() => happening,
            Some(()) = writes.next() => continue,
        };
        let Some(happening) = happening else { return };
        let namespace = happening.namespace.clone();
        let slow = limiter.is_slow(&namespace);
        let most = if slow { WAITING_SLOW } else { WAITING };
        if limiter.pending(&namespace) >= most {
            tracing::debug!(namespace, "event dropped: too many of this namespace wait");
            metrics.events_dropped.inc();
            continue;
        }
        let (limiter, write) = (&limiter, write(happening));
        writes.push(async move {
            let written = limiter.run(&namespace, write).await;
            if written.is_none() {
                tracing::debug!(namespace, "event not written: no answer within 10s");
            }
        });
    }
}

async fn write(recorder: Recorder, happening: Happening) {
    let (event, reference) = event(&happening);
    let Err(error) = recorder.publish(&event, &reference).await else {
        return;
    };
    tracing::debug!(
        namespace = happening.namespace,
        name = happening.name,
        reason = happening.reason,
        %error,
        "event not written"
    );
}

fn event(happening: &Happening) -> (Event, ObjectReference) {
    let mut note = happening.note.clone();
    note.truncate(note.floor_char_boundary(MAX_NOTE));
    let event = Event {
        type_: if happening.warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: happening.reason.clone(),
        note: Some(note),
        action: happening.action.to_owned(),
        secondary: happening.pod.as_ref().map(|pod| ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(happening.namespace.clone()),
            name: Some(pod.clone()),
            ..ObjectReference::default()
        }),
    };
    let reference = ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some(happening.kind.to_string()),
        namespace: Some(happening.namespace.clone()),
        name: Some(happening.name.clone()),
        uid: Some(happening.uid.clone()),
        ..ObjectReference::default()
    };
    (event, reference)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn happening(namespace: &str) -> Happening {
        Happening {
            kind: Kind::LlmEndpoint,
            namespace: namespace.into(),
            name: "e".into(),
            uid: "u".into(),
            warning: true,
            reason: "BreakerOpened".into(),
            note: "it broke".into(),
            action: "Watch",
            pod: Some("p".into()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_whose_events_hang_takes_none_from_the_others() {
        let metrics = Arc::new(Metrics::default());
        let (events, rx) = Events::channel(metrics.clone());
        let written = Mutex::new(0);
        let write = |happening: Happening| {
            let written = &written;
            async move {
                if happening.namespace == "hanging" {
                    std::future::pending::<()>().await;
                }
                *written.lock() += 1;
            }
        };
        let tell = async {
            for turn in 1..=300 {
                events.tell(happening("hanging"));
                events.tell(happening("good"));
                tokio::time::sleep(Duration::from_secs(2)).await;
                assert_eq!(*written.lock(), turn);
            }
        };
        tokio::select! {
            () = write_all(rx, &metrics, write) => {}
            () = tell => {}
        }
        assert!(metrics.events_dropped.get() > 100, "and none piles up");
    }

    #[test]
    fn a_long_note_is_cut_to_what_the_api_takes() {
        let happening = Happening {
            note: "ü".repeat(1000),
            ..happening("a")
        };
        let (event, reference) = event(&happening);
        assert!(event.note.unwrap().len() <= MAX_NOTE);
        assert_eq!(reference.kind.as_deref(), Some("LlmEndpoint"));
        assert_eq!(event.secondary.unwrap().name.as_deref(), Some("p"));
    }
}
