//! Kubernetes Events: what happened to an object, for `kubectl describe`.
//!
//! In: [`Happening`]s from the other rooms, never waiting. Out: events.k8s.io/v1; the Recorder
//! counts repetitions instead of writing them again. Each namespace has its [`Share`] of them, so
//! that one whose breakers flap drowns nobody's.

mod share;

use std::{sync::Arc, time::Duration};

use compile::Kind;
use crds::{GROUP, VERSION};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use self::share::{Share, Taken};
use crate::{MANAGER, metrics::Metrics};

/// An API server that cannot keep up loses events, not memory.
const QUEUE: usize = 1024;
/// Written at a time: one that hangs holds up no other.
const CONCURRENCY: usize = 8;
const API_TIMEOUT: Duration = Duration::from_secs(10);
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
    stop: CancellationToken,
) {
    let reporter = Reporter {
        controller: format!("{GROUP}/{MANAGER}"),
        instance: Some(instance),
    };
    let recorder = Recorder::new(client, reporter);
    let happenings = stream::unfold(rx, async |mut rx| Some((rx.recv().await?, rx)));
    let all = happenings.for_each_concurrent(CONCURRENCY, |it| write(&recorder, it));
    tokio::select! {
        () = stop.cancelled() => {}
        () = all => {}
    }
}

async fn write(recorder: &Recorder, happening: Happening) {
    let (event, reference) = event(&happening);
    let written = timeout(API_TIMEOUT, recorder.publish(&event, &reference)).await;
    let problem = match written {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer within 10s".to_owned(),
    };
    tracing::debug!(
        namespace = happening.namespace,
        name = happening.name,
        reason = happening.reason,
        problem,
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
    use super::*;

    #[test]
    fn a_long_note_is_cut_to_what_the_api_takes() {
        let happening = Happening {
            kind: Kind::LlmEndpoint,
            namespace: "a".into(),
            name: "e".into(),
            uid: "u".into(),
            warning: true,
            reason: "BreakerOpened".into(),
            note: "ü".repeat(1000),
            action: "Watch",
            pod: Some("p".into()),
        };
        let (event, reference) = event(&happening);
        assert!(event.note.unwrap().len() <= MAX_NOTE);
        assert_eq!(reference.kind.as_deref(), Some("LlmEndpoint"));
        assert_eq!(event.secondary.unwrap().name.as_deref(), Some("p"));
    }
}
