//! Carries desired statuses to the API server, by server-side apply, and tells of transitions.
//!
//! In: objects marked in the status cache. They are looked at [`DELAY`] later, so that one change
//! and the Acks that it brings are one write. Out: patches for what differs from the last status
//! seen. A status that the API server rejects is not offered again and again; see [`rejections`].

mod patcher;
mod rejections;
mod schedule;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use compile::{Kind, Verdict};
use crds::{Reason, condition};
use dataplane_protocol::InstanceId;
use futures::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    hub::Hub,
    sessions::{InstanceView, Sessions, View},
    snapshot::Snapshot,
    status::{DataPlaneReports, ObjectStatus, desired_status},
    status_cache::{DirtyStatuses, StatusCache},
};
pub use patcher::StatusPatcher;

use self::{
    rejections::Rejection,
    schedule::{Outcome, Schedule, WriteResults},
};
use crate::{
    events::{Events, ObjectEvent},
    metrics::{Metrics, ResultLabel},
};

/// From the first mark of a namespace to looking at it.
const DELAY: Duration = Duration::from_millis(200);
/// Patches of one namespace that wait for their turn at a time.
const CONCURRENCY: usize = 8;

/// Writes statuses until stopped.
#[derive(Debug)]
pub struct Writer {
    pub patcher: StatusPatcher,
    pub hub: Arc<Hub>,
    pub sessions: Arc<Sessions>,
    pub status_cache: Arc<StatusCache>,
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
    /// Conditions that others have put there.
    others: Vec<Condition>,
    /// What Events have told so far.
    last_announced: ObjectStatus,
    /// What the API server refused to take last.
    last_rejected: Option<Rejection>,
    status: ObjectStatus,
}

/// One look at a namespace.
struct Pass<'a> {
    namespace: &'a str,
    snapshot: &'a Snapshot,
    view: &'a View,
    settled: bool,
    now: Instant,
}

impl Pass<'_> {
    fn reports<'s>(
        &'s self,
        name: &str,
        seen: &'s BTreeMap<InstanceId, InstanceView>,
    ) -> DataPlaneReports<'s> {
        let number = self.snapshot.route_numbers.get(name).copied();
        DataPlaneReports {
            view: self.view,
            seen,
            number: number.unwrap_or(self.snapshot.number),
            settled: self.settled,
        }
    }
}

impl Writer {
    pub async fn run(self, stop: CancellationToken) {
        let mut schedule = Schedule::default();
        let mut writes = FuturesUnordered::new();
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
                marked = self.status_cache.next_dirty() => {
                    for (namespace, marks) in marked {
                        schedule.not_later(&namespace, marks, Instant::now() + DELAY);
                    }
                }
                Some(results) = writes.next() => {
                    schedule.record(results);
                }
                () = wait => {
                    for (namespace, marks) in schedule.take_due(Instant::now()) {
                        let updates = self.updates(&namespace, &marks, &mut schedule);
                        if !updates.is_empty() {
                            schedule.busy.insert(namespace.clone());
                            writes.push(self.write(namespace, updates));
                        }
                    }
                }
            }
        }
    }

    /// What differs of what is marked. Schedules what is to be looked at again unmarked.
    fn updates(
        &self,
        namespace: &str,
        marks: &DirtyStatuses,
        schedule: &mut Schedule,
    ) -> Vec<Update> {
        let Some(snapshot) = self.hub.current(namespace) else {
            schedule.first_seen.remove(namespace);
            schedule.rejections.forget(namespace);
            return Vec::new();
        };
        let now = Instant::now();
        let view = self.sessions.view(namespace, now);
        let first_seen = &mut schedule.first_seen;
        let since = *first_seen.entry(namespace.to_owned()).or_insert(now);
        let settled = now >= since + self.settle;
        if !settled {
            schedule.all_not_later(namespace, since + self.settle);
        }
        if let Some(counts) = view.joining {
            schedule.all_not_later(namespace, counts);
        }
        schedule.rejections.keep(namespace, &snapshot.verdicts);
        let pass = Pass {
            namespace,
            snapshot: &snapshot,
            view: &view,
            settled,
            now,
        };
        let verdicts: Vec<&Verdict> = if marks.all {
            snapshot.verdicts.values().collect()
        } else {
            let marked = marks.objects.iter();
            marked
                .filter_map(|name| snapshot.verdicts.get(name))
                .collect()
        };
        let updates = verdicts.into_iter();
        updates
            .filter_map(|verdict| self.update(&pass, verdict, schedule))
            .collect()
    }

    fn update(
        &self,
        pass: &Pass<'_>,
        verdict: &Verdict,
        schedule: &mut Schedule,
    ) -> Option<Update> {
        let (namespace, kind, name) = (pass.namespace, verdict.kind, &verdict.name);
        let entry = self.status_cache.get(namespace, kind, name)?;
        let seen = match kind {
            Kind::LlmEndpoint => self.sessions.seen(namespace, name, &pass.snapshot.set),
            Kind::OllaRoute => BTreeMap::new(),
        };
        let (reports, stamp) = (pass.reports(name, &seen), Timestamp::now());
        let status = desired_status(verdict, reports, &entry.status, stamp)?;
        let rejection = schedule.rejections.of(namespace, kind, name);
        let rejection = rejection
            .filter(|rejection| rejection.uid == entry.uid)
            .cloned();
        if let Some(rejection) = &rejection
            && pass.now < rejection.again
            && desired_status(verdict, reports, &rejection.status, stamp).is_none()
        {
            schedule.one_not_later(namespace, (kind, name.clone()), rejection.again);
            return None;
        }
        let (last_announced, last_offered) = match &rejection {
            Some(rejection) => (&rejection.last_announced, &rejection.status),
            None => (&entry.status, &entry.status),
        };
        let key = (namespace.to_owned(), (kind, name.clone()));
        if !last_offered.moved(&status)
            && let Some(again) = schedule.held(&key, pass.now)
        {
            schedule.one_not_later(namespace, key.1, again);
            return None;
        }
        let last_announced = last_announced.clone();
        schedule.written.insert(key, pass.now);
        let others = entry.status.conditions.into_iter();
        let others = others.filter(|it| status.condition(&it.type_).is_none());
        Some(Update {
            others: others.collect(),
            uid: entry.uid,
            kind,
            name: name.clone(),
            accepted: verdict.accepted.is_ok(),
            last_announced,
            last_rejected: rejection,
            status,
        })
    }

    async fn write(&self, namespace: String, updates: Vec<Update>) -> WriteResults {
        let outcomes = stream::iter(updates)
            .map(|update| self.write_one(&namespace, update))
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        (namespace, outcomes)
    }

    async fn write_one(&self, namespace: &str, update: Update) -> (Kind, String, Outcome) {
        let (kind, name, status) = (update.kind, &update.name, &update.status);
        let written = self
            .patcher
            .patch(namespace, kind, name, status, &update.others)
            .await;
        let outcome = match written {
            Ok(()) => {
                self.count("ok");
                self.emit_events(namespace, &update);
                let mut written = status.clone();
                written.conditions.extend(update.others.iter().cloned());
                let uid = &update.uid;
                self.status_cache
                    .set_written(namespace, kind, name, uid, written);
                Outcome::Written
            }
            Err(Some(kube::Error::Api(answer))) if rejections::FOR_GOOD.contains(&answer.code) => {
                self.refused(namespace, &update, answer.code, &answer.message)
            }
            Err(error) => {
                self.count("error");
                let problem = error.map_or_else(
                    || "no answer within 10s".to_owned(),
                    |error| error.to_string(),
                );
                tracing::warn!(namespace, %kind, name, problem, "status not written; will be retried");
                Outcome::Failed
            }
        };
        (kind, update.name, outcome)
    }

    /// Warns and tells Events when that is news; the status itself cannot say it.
    fn refused(&self, namespace: &str, update: &Update, code: u16, problem: &str) -> Outcome {
        let mut last_announced = update.last_announced.clone();
        let same = update.last_rejected.as_ref();
        let same = same.filter(|rejection| !rejection.status.moved(&update.status));
        // Most likely deleted meanwhile: there is nothing left to say it on.
        if code != 404 {
            self.count("error");
            let (kind, name) = (update.kind, &update.name);
            if same.is_none() {
                tracing::warn!(namespace, %kind, name, problem, "status rejected by the API server");
            } else {
                tracing::debug!(namespace, %kind, name, problem, "status rejected again");
            }
            self.emit_events(namespace, update);
            last_announced.clone_from(&update.status);
        }
        let tries = same.map_or(0, |rejection| rejection.tries + 1);
        Outcome::Refused(Rejection {
            uid: update.uid.clone(),
            status: update.status.clone(),
            last_announced,
            again: Instant::now() + rejections::patience(code, tries),
            tries,
        })
    }

    fn count(&self, result: &'static str) {
        self.metrics
            .status_writes
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    fn emit_events(&self, namespace: &str, update: &Update) {
        for (type_, action) in [
            (condition::ACCEPTED, "Compile"),
            (condition::RESOLVED_REFS, "Compile"),
            (condition::PROGRAMMED, "Program"),
        ] {
            let (before, after) = (
                update.last_announced.condition(type_),
                update.status.condition(type_),
            );
            let Some((warning, reason, note)) = transition(type_, before, after) else {
                continue;
            };
            if type_ != condition::ACCEPTED && !update.accepted {
                continue;
            }
            self.events.emit(ObjectEvent {
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

/// What an Event says of a condition that changed: acceptance, and each new kind of trouble.
fn transition(
    type_: &str,
    before: Option<&Condition>,
    after: Option<&Condition>,
) -> Option<(bool, String, String)> {
    let after = after?;
    let trouble = after.status == "False";
    // Each refusal of an object is about an edit of its own, though its reason be the same.
    let refusal = trouble && type_ == condition::ACCEPTED;
    let same = before.is_some_and(|before| {
        before.status == after.status
            && before.reason == after.reason
            && (!refusal || before.message == after.message)
    });
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
        let worse = Condition {
            message: "another".into(),
            ..bad.clone()
        };
        let empty = condition("False", "NoReadyInstances");
        let pending = condition("False", "Pending");
        let refused = condition("False", "Refused");
        for (type_, before, after, warning) in [
            (condition::ACCEPTED, None, &good, Some(false)),
            (condition::ACCEPTED, Some(&good), &good, None),
            (condition::ACCEPTED, Some(&good), &bad, Some(true)),
            (condition::ACCEPTED, Some(&bad), &bad, None),
            (condition::ACCEPTED, Some(&bad), &worse, Some(true)),
            (condition::RESOLVED_REFS, None, &good, None),
            (condition::READY, Some(&good), &empty, Some(true)),
            (condition::READY, Some(&empty), &empty, None),
            (condition::PROGRAMMED, None, &pending, None),
            (condition::PROGRAMMED, Some(&pending), &refused, Some(true)),
        ] {
            let told = transition(type_, before, Some(after)).map(|(warning, ..)| warning);
            assert_eq!(told, warning, "{type_} {before:?} {after:?}");
        }
    }
}
