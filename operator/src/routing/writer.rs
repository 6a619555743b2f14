//! Carries desired statuses to the API server, by server-side apply, and tells of transitions.
//!
//! In: namespaces marked in the ledger. They are looked at [`DELAY`] later, so that one change and
//! the Acks that it brings are one write. Out: patches for what differs from the last status seen. A status that the API server
//! refuses is not offered again and again; see [`refusals`].

mod refusals;
mod writes;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use compile::Kind;
use crds::{Reason, condition};
use futures::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    ledger::Ledger,
    publish::Hub,
    sessions::Sessions,
    status::{ObjectStatus, Said, desired_status},
};
pub use writes::Writes;

use self::refusals::{Refusal, Refusals};
use crate::{
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

struct Update {
    uid: String,
    kind: Kind,
    name: String,
    accepted: bool,
    /// What Events have told so far.
    told: ObjectStatus,
    /// What the API server refused to take last.
    refused: Option<ObjectStatus>,
    status: ObjectStatus,
}

/// What became of an update.
enum Outcome {
    Written,
    Refused(Refusal),
    /// May go well another time.
    Failed,
}

/// A namespace whose patches have ended.
type Landed = (String, Vec<(Kind, String, Outcome)>);

/// When what was or is to be written.
#[derive(Default)]
struct Schedule {
    due: BTreeMap<String, Instant>,
    /// Namespaces whose patches are under way: they are looked at again afterwards.
    busy: BTreeSet<String>,
    written: HashMap<(String, Kind, String), Instant>,
    first_seen: HashMap<String, Instant>,
    refusals: Refusals,
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
                    schedule.land(landed);
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
            schedule.refusals.forget(namespace);
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
        schedule.refusals.keep(namespace, &snapshot.verdicts);
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
            let stamp = Timestamp::now();
            let Some(status) = desired_status(verdict, said, &entry.status, stamp) else {
                continue;
            };
            let refusal = schedule
                .refusals
                .of(namespace, verdict.kind, &verdict.name)
                .filter(|refusal| refusal.uid == entry.uid);
            if let Some(refusal) = refusal
                && desired_status(verdict, said, &refusal.status, stamp).is_none()
                && now < refusal.again
            {
                let again = refusal.again;
                schedule.not_later(namespace.to_owned(), again);
                continue;
            }
            let (told, refused) = match refusal {
                Some(refusal) => (refusal.told.clone(), Some(refusal.status.clone())),
                None => (entry.status.clone(), None),
            };
            let last = refused.as_ref().unwrap_or(&entry.status);
            let key = (namespace.to_owned(), verdict.kind, verdict.name.clone());
            let again = schedule.written.get(&key).map(|at| *at + MESSAGE_INTERVAL);
            if !last.moved(&status)
                && let Some(again) = again.filter(|again| now < *again)
            {
                schedule.not_later(namespace.to_owned(), again);
                continue;
            }
            schedule.written.insert(key, now);
            updates.push(Update {
                uid: entry.uid,
                kind: verdict.kind,
                name: verdict.name.clone(),
                accepted: verdict.accepted.is_ok(),
                told,
                refused,
                status,
            });
        }
        updates
    }

    async fn write(&self, namespace: String, updates: Vec<Update>) -> Landed {
        let outcomes = stream::iter(updates)
            .map(|update| self.write_one(&namespace, update))
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        (namespace, outcomes)
    }

    async fn write_one(&self, namespace: &str, update: Update) -> (Kind, String, Outcome) {
        let (kind, name, status) = (update.kind, &update.name, &update.status);
        let outcome = match self.writes.patch(namespace, kind, name, status).await {
            Ok(()) => {
                self.count("ok");
                self.tell(namespace, &update);
                self.ledger.wrote(namespace, kind, name, status.clone());
                Outcome::Written
            }
            Err(Some(kube::Error::Api(answer))) if refusals::FOR_GOOD.contains(&answer.code) => {
                self.refused(namespace, &update, answer.code, &answer.message)
            }
            Err(error) => {
                self.count("error");
                let problem = error.map_or_else(
                    || "no answer within 10s".to_owned(),
                    |error| error.to_string(),
                );
                tracing::warn!(namespace, %kind, name, problem, "status not written, will be tried again");
                Outcome::Failed
            }
        };
        (kind, update.name, outcome)
    }

    /// Warns and tells Events when that is news; the status itself cannot say it.
    fn refused(&self, namespace: &str, update: &Update, code: u16, problem: &str) -> Outcome {
        let mut told = update.told.clone();
        // Most likely deleted meanwhile: there is nothing left to say it on.
        if code != 404 {
            self.count("error");
            let (kind, name) = (update.kind, &update.name);
            let refused = update.refused.as_ref();
            if refused.is_none_or(|refused| refused.moved(&update.status)) {
                tracing::warn!(namespace, %kind, name, problem, "status refused by the API server");
            } else {
                tracing::debug!(namespace, %kind, name, problem, "status refused again");
            }
            self.tell(namespace, update);
            told.clone_from(&update.status);
        }
        Outcome::Refused(Refusal {
            uid: update.uid.clone(),
            status: update.status.clone(),
            told,
            again: Instant::now() + refusals::PATIENCE,
        })
    }

    fn count(&self, result: &'static str) {
        self.metrics
            .status_writes
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    fn tell(&self, namespace: &str, update: &Update) {
        for (type_, action) in [
            (condition::ACCEPTED, "Compile"),
            (condition::RESOLVED_REFS, "Compile"),
            (condition::PROGRAMMED, "Program"),
        ] {
            let (before, after) = (update.told.condition(type_), update.status.condition(type_));
            let Some((warning, reason, note)) = transition(type_, before, after) else {
                continue;
            };
            if type_ != condition::ACCEPTED && !update.accepted {
                continue;
            }
            self.events.tell(Happening {
                kind: update.kind,
                namespace: namespace.to_owned(),
                name: update.name.clone(),
                uid: update.uid.clone(),
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

    fn land(&mut self, (namespace, outcomes): Landed) {
        self.busy.remove(&namespace);
        let now = Instant::now();
        for (kind, name, outcome) in outcomes {
            match outcome {
                Outcome::Written => self.refusals.remove(&namespace, kind, &name),
                Outcome::Refused(refusal) => {
                    self.not_later(namespace.clone(), refusal.again);
                    self.refusals.insert(&namespace, kind, name, refusal);
                }
                Outcome::Failed => self.not_later(namespace.clone(), now + RETRY),
            }
        }
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
