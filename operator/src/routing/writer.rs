//! Carries desired statuses to the API server, by server-side apply, and tells of transitions.
//!
//! In: namespaces marked in the ledger. They are looked at [`DELAY`] later, so that one change and
//! the Acks that it brings are one write. Out: patches for what differs from the last status seen.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use compile::{Kind, Verdict};
use crds::{GROUP, LlmEndpoint, OllaRoute, Reason, VERSION, condition};
use futures::{StreamExt as _, stream};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    ledger::{Entry, Ledger},
    publish::Hub,
    sessions::Sessions,
    status::{ObjectStatus, Said, desired_status},
};
use crate::{
    MANAGER,
    events::{Events, Happening},
    metrics::{Metrics, ResultLabel},
};

/// From the first mark of a namespace to looking at it.
const DELAY: Duration = Duration::from_millis(200);
/// Counts in messages move with each data plane that comes or goes; that alone is written no more
/// often than this.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(2);
/// After a patch that failed.
const RETRY: Duration = Duration::from_secs(2);
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// Patches under way at a time.
const CONCURRENCY: usize = 8;

/// Writes statuses until stopped.
#[derive(Debug)]
pub struct Writer {
    pub writes: Writes,
    pub hub: Arc<Hub>,
    pub sessions: Arc<Sessions>,
    pub ledger: Arc<Ledger>,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    /// As [`Config::settle`](crate::config::Config::settle).
    pub settle: Duration,
}

/// How a status is written.
#[derive(Clone)]
pub struct Writes(Client);

impl std::fmt::Debug for Writes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writes")
    }
}

struct Update {
    kind: Kind,
    name: String,
    status: ObjectStatus,
}

impl Writer {
    pub async fn run(self, stop: CancellationToken) {
        let mut due: BTreeMap<String, Instant> = BTreeMap::new();
        let mut written: HashMap<(String, Kind, String), Instant> = HashMap::new();
        let mut first_seen: HashMap<String, Instant> = HashMap::new();
        loop {
            let next = due.values().min().copied();
            let wait = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                marked = self.ledger.marked() => {
                    for namespace in marked {
                        // It may be due already, but only much later.
                        let soon = Instant::now() + DELAY;
                        let at = due.entry(namespace).or_insert(soon);
                        *at = soon.min(*at);
                    }
                }
                () = wait => {
                    let now = Instant::now();
                    let (ready, later) = due.into_iter().partition(|(_, at)| *at <= now);
                    due = later;
                    let ready: BTreeMap<String, Instant> = ready;
                    for namespace in ready.into_keys() {
                        let again = self.flush(&namespace, &mut written, &mut first_seen).await;
                        if let Some(again) = again {
                            due.insert(namespace, again);
                        }
                    }
                    written.retain(|_, at| at.elapsed() < MESSAGE_INTERVAL);
                }
            }
        }
    }

    /// Writes what differs. Answers when the namespace is to be looked at again unmarked.
    async fn flush(
        &self,
        namespace: &str,
        written: &mut HashMap<(String, Kind, String), Instant>,
        first_seen: &mut HashMap<String, Instant>,
    ) -> Option<Instant> {
        let Some(snapshot) = self.hub.current(namespace) else {
            first_seen.remove(namespace);
            return None;
        };
        let now = Instant::now();
        let view = self.sessions.view(namespace);
        let since = *first_seen.entry(namespace.to_owned()).or_insert(now);
        let settled = now >= since + self.settle;
        let mut again = (!settled && view.connected == 0).then(|| since + self.settle);
        let mut updates = Vec::new();
        for verdict in &snapshot.verdicts {
            let Some(entry) = self.ledger.entry(namespace, verdict.kind, &verdict.name) else {
                continue;
            };
            let revision = snapshot.route_revisions.get(&verdict.name).copied();
            let said = Said {
                view: &view,
                revision: revision.unwrap_or(snapshot.revision),
                settled,
            };
            let Some(status) = desired_status(verdict, said, &entry.status, Timestamp::now())
            else {
                continue;
            };
            let key = (namespace.to_owned(), verdict.kind, verdict.name.clone());
            if !entry.status.moved(&status)
                && let Some(at) = written.get(&key)
                && now < *at + MESSAGE_INTERVAL
            {
                again = Some(sooner(again, *at + MESSAGE_INTERVAL));
                continue;
            }
            written.insert(key, now);
            self.tell(namespace, verdict, &entry, &status);
            updates.push(Update {
                kind: verdict.kind,
                name: verdict.name.clone(),
                status,
            });
        }
        if self.write(namespace, updates).await {
            again
        } else {
            Some(sooner(again, Instant::now() + RETRY))
        }
    }

    /// Whether all went well.
    async fn write(&self, namespace: &str, updates: Vec<Update>) -> bool {
        let results = stream::iter(updates)
            .map(|update| self.write_one(namespace, update))
            .buffer_unordered(CONCURRENCY)
            .collect::<Vec<bool>>()
            .await;
        results.into_iter().all(|ok| ok)
    }

    async fn write_one(&self, namespace: &str, update: Update) -> bool {
        let Update { kind, name, status } = update;
        let problem = match self.writes.patch(namespace, kind, &name, &status).await {
            Ok(()) => {
                self.count("ok");
                self.ledger.wrote(namespace, kind, &name, status);
                return true;
            }
            // Deleted meanwhile: there is nothing left to say it on.
            Err(Some(kube::Error::Api(answer))) if answer.code == 404 => return true,
            Err(Some(error)) => error.to_string(),
            Err(None) => "no answer within 10s".to_owned(),
        };
        self.count("error");
        tracing::warn!(namespace, %kind, name, problem, "status not written, will be tried again");
        false
    }

    fn count(&self, result: &'static str) {
        self.metrics
            .status_writes
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    fn tell(&self, namespace: &str, verdict: &Verdict, entry: &Entry, status: &ObjectStatus) {
        for (type_, action) in [
            (condition::ACCEPTED, "Compile"),
            (condition::RESOLVED_REFS, "Compile"),
            (condition::PROGRAMMED, "Program"),
        ] {
            let (before, after) = (entry.status.condition(type_), status.condition(type_));
            let Some((warning, reason, note)) = transition(type_, before, after) else {
                continue;
            };
            if type_ != condition::ACCEPTED && verdict.accepted.is_err() {
                continue;
            }
            self.events.tell(Happening {
                kind: verdict.kind,
                namespace: namespace.to_owned(),
                name: verdict.name.clone(),
                uid: entry.uid.clone(),
                warning,
                reason,
                note,
                action,
                pod: None,
            });
        }
    }
}

impl Writes {
    pub fn by_client(client: Client) -> Self {
        Self(client)
    }

    /// `Err(None)` when the API server does not answer.
    async fn patch(
        &self,
        namespace: &str,
        kind: Kind,
        name: &str,
        status: &ObjectStatus,
    ) -> Result<(), Option<kube::Error>> {
        let resource = match kind {
            Kind::LlmEndpoint => ApiResource::erase::<LlmEndpoint>(&()),
            Kind::OllaRoute => ApiResource::erase::<OllaRoute>(&()),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.0.clone(), namespace, &resource);
        let patch = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": kind.to_string(),
            "metadata": { "name": name },
            "status": status,
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&patch);
        let write = api.patch_status(name, &parameters, &patch);
        match timeout(API_TIMEOUT, write).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Some(error)),
            Err(_) => Err(None),
        }
    }
}

/// What an Event says of a condition that changed: acceptance, and each new kind of trouble.
fn transition(
    type_: &str,
    before: Option<&Condition>,
    after: Option<&Condition>,
) -> Option<(bool, String, String)> {
    let after = after?;
    let same =
        before.is_some_and(|before| before.status == after.status && before.reason == after.reason);
    let trouble = after.status == "False";
    // Programmed is False for a moment after each change; only a refusal is news.
    let news = match type_ {
        condition::ACCEPTED => true,
        condition::PROGRAMMED => after.reason == Reason::Refused.as_str(),
        _ => trouble,
    };
    (news && !same).then(|| (trouble, after.reason.clone(), after.message.clone()))
}

fn sooner(one: Option<Instant>, other: Instant) -> Instant {
    one.map_or(other, |one| one.min(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn condition(status: &str, reason: &str) -> Condition {
        Condition {
            type_: String::new(),
            status: status.into(),
            reason: reason.into(),
            message: "m".into(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    #[test]
    fn events_tell_of_acceptance_refusal_and_nothing_twice() {
        let (good, bad) = (condition("True", "Accepted"), condition("False", "Invalid"));
        let pending = condition("False", "Pending");
        let refused = condition("False", "Refused");
        for (type_, before, after, warning) in [
            (condition::ACCEPTED, None, &good, Some(false)),
            (condition::ACCEPTED, Some(&good), &good, None),
            (condition::ACCEPTED, Some(&good), &bad, Some(true)),
            (condition::ACCEPTED, Some(&bad), &bad, None),
            (condition::RESOLVED_REFS, None, &good, None),
            (condition::PROGRAMMED, None, &pending, None),
            (condition::PROGRAMMED, Some(&pending), &refused, Some(true)),
        ] {
            let told = transition(type_, before, Some(after)).map(|(warning, ..)| warning);
            assert_eq!(told, warning, "{type_} {before:?} {after:?}");
        }
    }
}
