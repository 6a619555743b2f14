//! Carries desired statuses to the API server, by server-side apply, and tells of transitions.
//!
//! In: namespaces marked in the ledger. They are looked at [`DELAY`] later, so that one change and
//! the Acks that it brings are one write. Out: patches for what differs from the last status seen.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use compile::{Kind, Verdict};
use crds::{GROUP, LlmEndpoint, OllaRoute, Reason, VERSION, condition};
use futures::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
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
/// Patches of one namespace under way at a time; namespaces do not wait for each other.
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

/// When what was or is to be written.
#[derive(Default)]
struct Schedule {
    due: BTreeMap<String, Instant>,
    /// Namespaces whose patches are under way: they are looked at again afterwards.
    busy: BTreeSet<String>,
    written: HashMap<(String, Kind, String), Instant>,
    first_seen: HashMap<String, Instant>,
}

impl Writer {
    pub async fn run(self, stop: CancellationToken) {
        let mut schedule = Schedule::default();
        let mut flights = FuturesUnordered::new();
        loop {
            let next = schedule.next();
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
                        schedule.not_later(namespace, Instant::now() + DELAY);
                    }
                }
                Some(landed) = flights.next() => {
                    let (namespace, ok): (String, bool) = landed;
                    schedule.busy.remove(&namespace);
                    if !ok {
                        schedule.not_later(namespace, Instant::now() + RETRY);
                    }
                }
                () = wait => {
                    for namespace in schedule.take_due(Instant::now()) {
                        let updates = self.updates(&namespace, &mut schedule);
                        if !updates.is_empty() {
                            schedule.busy.insert(namespace.clone());
                            flights.push(self.write(namespace, updates));
                        }
                    }
                }
            }
        }
    }

    /// What differs. Schedules when the namespace is to be looked at again unmarked.
    fn updates(&self, namespace: &str, schedule: &mut Schedule) -> Vec<Update> {
        let Some(snapshot) = self.hub.current(namespace) else {
            schedule.first_seen.remove(namespace);
            return Vec::new();
        };
        let now = Instant::now();
        let view = self.sessions.view(namespace);
        let first_seen = &mut schedule.first_seen;
        let since = *first_seen.entry(namespace.to_owned()).or_insert(now);
        let settled = now >= since + self.settle;
        if !settled && view.connected == 0 {
            schedule.not_later(namespace.to_owned(), since + self.settle);
        }
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
            let again = schedule.written.get(&key).map(|at| *at + MESSAGE_INTERVAL);
            if !entry.status.moved(&status)
                && let Some(again) = again.filter(|again| now < *again)
            {
                schedule.not_later(namespace.to_owned(), again);
                continue;
            }
            schedule.written.insert(key, now);
            self.tell(namespace, verdict, &entry, &status);
            updates.push(Update {
                kind: verdict.kind,
                name: verdict.name.clone(),
                status,
            });
        }
        updates
    }

    /// The namespace, and whether all went well.
    async fn write(&self, namespace: String, updates: Vec<Update>) -> (String, bool) {
        let ok = stream::iter(updates)
            .map(|update| self.write_one(&namespace, update))
            .buffer_unordered(CONCURRENCY)
            .fold(true, |all, ok| std::future::ready(all && ok))
            .await;
        (namespace, ok)
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
            // Its own rules cannot be evaluated on it: no status gets in before its spec changes,
            // which marks the namespace again. The Event has told why.
            Err(Some(kube::Error::Api(answer))) if answer.code == 422 => {
                self.count("error");
                let problem = answer.message;
                tracing::warn!(namespace, %kind, name, problem, "status refused by the API server");
                return true;
            }
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

impl Schedule {
    fn next(&self) -> Option<Instant> {
        let free = self
            .due
            .iter()
            .filter(|(name, _)| !self.busy.contains(*name));
        free.map(|(_, at)| *at).min()
    }

    /// It may be due already, but only much later.
    fn not_later(&mut self, namespace: String, at: Instant) {
        let due = self.due.entry(namespace).or_insert(at);
        *due = at.min(*due);
    }

    fn take_due(&mut self, now: Instant) -> Vec<String> {
        self.written.retain(|_, at| now < *at + MESSAGE_INTERVAL);
        let due = self.due.iter().filter(|(_, at)| **at <= now);
        let free = due.filter(|(name, _)| !self.busy.contains(*name));
        let taken: Vec<String> = free.map(|(name, _)| name.clone()).collect();
        for name in &taken {
            self.due.remove(name);
        }
        taken
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
        let write = async {
            let parameters = PatchParams::apply(MANAGER).force();
            let patch = Patch::Apply(&patch);
            match api.patch_status(name, &parameters, &patch).await {
                // Apply wants the whole object typed, which an undecodable one is not; a merge
                // looks only at what changes.
                Err(kube::Error::Api(answer)) if answer.code == 500 => {
                    let parameters = PatchParams {
                        field_manager: Some(MANAGER.to_owned()),
                        ..PatchParams::default()
                    };
                    let patch = Patch::Merge(json!({ "status": status }));
                    api.patch_status(name, &parameters, &patch).await
                }
                other => other,
            }
        };
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
