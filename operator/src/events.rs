//! Kubernetes Events: what happened to an object, for `kubectl describe`.
//!
//! In: [`ObjectEvent`]s from the other rooms, never waiting. Out: events.k8s.io/v1; the Recorder
//! counts repetitions instead of writing them again. Each namespace has its [`Budget`], and its
//! part of the writes under way, so that one whose breakers flap, or whose writes hang, drowns
//! nobody's.

use std::{sync::Arc, time::Duration};

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

use crate::{
    MANAGER,
    budget::{Admission, Budget},
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
pub struct ObjectEvent {
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

/// Events of a namespace at once, and how long each takes to become free again.
const BURST: u32 = 100;
const EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Events {
    tx: mpsc::Sender<ObjectEvent>,
    budget: Arc<Mutex<Budget>>,
    metrics: Arc<Metrics>,
}

impl Events {
    /// The sending end for all rooms, the receiving one for [`publish`].
    pub fn channel(metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<ObjectEvent>) {
        let (tx, rx) = mpsc::channel(QUEUE);
        let budget = Arc::new(Mutex::new(Budget::new(BURST, EVERY)));
        let events = Self {
            tx,
            budget,
            metrics,
        };
        (events, rx)
    }

    pub fn emit(&self, event: ObjectEvent) {
        let taken = self.budget.lock().take(&event.namespace, Instant::now());
        let why = match taken {
            Admission::Allowed => match self.tx.try_send(event) {
                Ok(()) | Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(_)) => "the API server does not keep up",
            },
            Admission::FirstDrop => {
                let namespace = event.namespace;
                tracing::warn!(
                    namespace,
                    "Events dropped: the namespace exceeds its rate limit"
                );
                "the namespace exceeds its rate limit"
            }
            Admission::Drop => "the namespace exceeds its rate limit",
        };
        tracing::debug!(why, "event dropped");
        self.metrics.events_dropped.inc();
    }
}

/// Writes what comes until stopped.
pub async fn publish(
    client: Client,
    instance: String,
    rx: mpsc::Receiver<ObjectEvent>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let reporter = Reporter {
        controller: format!("{GROUP}/{MANAGER}"),
        instance: Some(instance),
    };
    let recorder = Recorder::new(client, reporter);
    let write = |event| write(recorder.clone(), event);
    let all = write_all(rx, &metrics, write);
    tokio::select! {
        () = stop.cancelled() => {}
        () = all => {}
    }
}

/// Each in its namespace's turn.
async fn write_all<F: Future<Output = ()>>(
    mut rx: mpsc::Receiver<ObjectEvent>,
    metrics: &Metrics,
    write: impl Fn(ObjectEvent) -> F,
) {
    let limiter = Limiter::new(LIMITS);
    let mut writes = FuturesUnordered::new();
    loop {
        let event = tokio::select! {
            event = rx.recv() => event,
            Some(()) = writes.next() => continue,
        };
        let Some(event) = event else { return };
        let namespace = event.namespace.clone();
        let slow = limiter.is_slow(&namespace);
        let most = if slow { WAITING_SLOW } else { WAITING };
        if limiter.pending(&namespace) >= most {
            tracing::debug!(
                namespace,
                "Event dropped: too many of this namespace are waiting"
            );
            metrics.events_dropped.inc();
            continue;
        }
        let (limiter, write) = (&limiter, write(event));
        writes.push(async move {
            let written = limiter.run(&namespace, write).await;
            if written.is_none() {
                tracing::debug!(namespace, "event not written: no answer within 10s");
            }
        });
    }
}

async fn write(recorder: Recorder, event: ObjectEvent) {
    let (written, reference) = to_kubernetes(&event);
    let Err(error) = recorder.publish(&written, &reference).await else {
        return;
    };
    tracing::debug!(
        namespace = event.namespace,
        name = event.name,
        reason = event.reason,
        %error,
        "event not written"
    );
}

fn to_kubernetes(event: &ObjectEvent) -> (Event, ObjectReference) {
    let mut note = event.note.clone();
    note.truncate(note.floor_char_boundary(MAX_NOTE));
    let written = Event {
        type_: if event.warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: event.reason.clone(),
        note: Some(note),
        action: event.action.to_owned(),
        secondary: event.pod.as_ref().map(|pod| ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(event.namespace.clone()),
            name: Some(pod.clone()),
            ..ObjectReference::default()
        }),
    };
    let reference = ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some(event.kind.to_string()),
        namespace: Some(event.namespace.clone()),
        name: Some(event.name.clone()),
        uid: Some(event.uid.clone()),
        ..ObjectReference::default()
    };
    (written, reference)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn event(namespace: &str) -> ObjectEvent {
        ObjectEvent {
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
        let write = |event: ObjectEvent| {
            let written = &written;
            async move {
                if event.namespace == "hanging" {
                    std::future::pending::<()>().await;
                }
                *written.lock() += 1;
            }
        };
        let tell = async {
            for turn in 1..=300 {
                events.emit(event("hanging"));
                events.emit(event("good"));
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
        let event = ObjectEvent {
            note: "ü".repeat(1000),
            ..event("a")
        };
        let (written, reference) = to_kubernetes(&event);
        assert!(written.note.unwrap().len() <= MAX_NOTE);
        assert_eq!(reference.kind.as_deref(), Some("LlmEndpoint"));
        assert_eq!(written.secondary.unwrap().name.as_deref(), Some("p"));
    }
}
