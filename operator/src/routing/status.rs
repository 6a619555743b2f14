//! Verdict, Acks and reports → the status an object should have. Pure; `writer.rs` writes it.
//!
//! `lastTransitionTime` moves only when a condition's status does; a status that would say the
//! same again is not written.

use std::collections::BTreeMap;

use compile::{Kind, Problem, Verdict};
use crds::{Reason, condition, endpoint::InstanceCounts};
use dataplane_protocol::InstanceId;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use serde::{Deserialize, Serialize};

use crate::condition::ConditionState;

use super::sessions::{InstanceView, View};

/// The status of either kind; a route has no `instances`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    #[serde(default)]
    pub conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<InstanceCounts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl ObjectStatus {
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }

    /// Whether `newer` differs in more than messages and counts. Conditions that it does not have
    /// are of others, and not looked at.
    pub fn moved(&self, newer: &Self) -> bool {
        let essence = |condition: Option<&Condition>| {
            condition.map(|it| (it.status.clone(), it.reason.clone()))
        };
        let mut conditions = newer.conditions.iter();
        self.observed_generation != newer.observed_generation
            || conditions.any(|it| essence(self.condition(&it.type_)) != essence(Some(it)))
    }
}

/// What data planes say that matters for one object.
#[derive(Clone, Copy, Debug)]
pub struct DataPlaneReports<'a> {
    pub view: &'a View,
    /// What is said of an endpoint's instances; empty for a route.
    pub seen: &'a BTreeMap<InstanceId, InstanceView>,
    /// Number of the first table that held the route's current generation; unused for an endpoint.
    pub number: u64,
    /// False shortly after the operator's start: data planes are expected to come back, and what
    /// the status says of them is kept until then.
    pub settled: bool,
}

/// The status that the object should have, or nothing when `previous` says it already.
pub fn desired_status(
    verdict: &Verdict,
    reports: DataPlaneReports<'_>,
    previous: &ObjectStatus,
    now: Timestamp,
) -> Option<ObjectStatus> {
    let mut states = vec![
        from_result(
            condition::ACCEPTED,
            &verdict.accepted,
            Reason::Accepted,
            "accepted and included in the routing table",
        ),
        references(verdict),
    ];
    let mut instances = None;
    let last = match verdict.kind {
        Kind::LlmEndpoint => {
            let (state, counts) = readiness(verdict, reports);
            instances = Some(counts);
            state
        }
        Kind::OllaRoute => programmed(verdict, reports),
    };
    let kept = kept(verdict, reports, previous, &last);
    if kept.is_some() && verdict.kind == Kind::LlmEndpoint {
        instances.clone_from(&previous.instances);
    }
    states.push(last);
    let mut conditions: Vec<Condition> = states
        .into_iter()
        .map(|state| {
            let before = previous.condition(state.type_);
            state.condition(verdict.generation, before, now)
        })
        .collect();
    if let (Some(kept), Some(last)) = (kept, conditions.last_mut()) {
        *last = kept;
    }
    if verdict.kind == Kind::OllaRoute
        && let Some(programmed) = conditions.last()
    {
        let ready = route_readiness(verdict, programmed);
        let before = previous.condition(ready.type_);
        conditions.push(ready.condition(verdict.generation, before, now));
    }
    let desired = ObjectStatus {
        conditions,
        instances,
        observed_generation: Some(verdict.generation),
    };
    (!says_the_same(previous, &desired)).then_some(desired)
}

fn from_result(
    type_: &'static str,
    judgement: &Result<(), Problem>,
    good: Reason,
    message: &str,
) -> ConditionState {
    match judgement {
        Ok(()) => ConditionState {
            type_,
            status: "True",
            reason: good,
            message: message.to_owned(),
        },
        Err(problem) => ConditionState {
            type_,
            status: match problem.reason {
                Reason::Pending => "Unknown",
                _ => "False",
            },
            reason: problem.reason,
            message: problem.to_string(),
        },
    }
}

/// Of an object that is not used nobody has looked at the references.
fn references(verdict: &Verdict) -> ConditionState {
    if let Err(problem) = &verdict.accepted
        && verdict.in_use.is_none()
    {
        return ConditionState {
            type_: condition::RESOLVED_REFS,
            status: "Unknown",
            reason: problem.reason,
            message: "not evaluated because the object is not accepted".into(),
        };
    }
    from_result(
        condition::RESOLVED_REFS,
        &verdict.resolved_refs,
        Reason::ResolvedRefs,
        "all references are resolved",
    )
}

fn programmed(verdict: &Verdict, reports: DataPlaneReports<'_>) -> ConditionState {
    let state = |status, reason, message| ConditionState {
        type_: condition::PROGRAMMED,
        status,
        reason,
        message,
    };
    if let Err(problem) = &verdict.accepted {
        return state("False", problem.reason, problem.to_string());
    }
    let View {
        connected,
        acked,
        refusals,
        ..
    } = reports.view;
    if *connected == 0 {
        return state(
            "False",
            Reason::Pending,
            "no data plane is connected".into(),
        );
    }
    let number = reports.number;
    let done = connected - acked.partition_point(|acked| *acked < number);
    let refusal = refusals
        .iter()
        .find(|refusal| refusal.acked < number && number <= refusal.refused);
    if let Some(refusal) = refusal {
        let message = format!(
            "data plane {} rejected the routing table and keeps serving the previous one: {}",
            refusal.data_plane, refusal.reason
        );
        return state("False", Reason::Refused, message);
    }
    if done == *connected {
        // No number in it: data planes come and go, and no route should be written for that.
        let message = "in use by all connected data planes".into();
        state("True", Reason::Programmed, message)
    } else {
        let message = format!("in use by {done} of {connected} connected data planes");
        state("False", Reason::Pending, message)
    }
}

/// Of an older form that is in use it speaks as an endpoint's does. Unknown, not False, where it
/// is not programmed: `Programmed` says why, and after each change that is so for a moment.
fn route_readiness(verdict: &Verdict, programmed: &Condition) -> ConditionState {
    let state = |status, reason, message| ConditionState {
        type_: condition::READY,
        status,
        reason,
        message,
    };
    if let Err(problem) = &verdict.accepted
        && verdict.in_use.is_none()
    {
        state("False", problem.reason, problem.to_string())
    } else if let Err(problem) = &verdict.reachable {
        state("False", problem.reason, problem.to_string())
    } else if programmed.status == "True" || verdict.in_use.is_some() {
        let message = "at least one endpoint has a ready address".into();
        state("True", Reason::Ready, message)
    } else {
        state("Unknown", Reason::Pending, programmed.message.clone())
    }
}

fn readiness(verdict: &Verdict, reports: DataPlaneReports<'_>) -> (ConditionState, InstanceCounts) {
    let reported = reports.seen.len();
    let mut ready = 0;
    let mut why = None;
    for (id, seen) in reports.seen {
        if seen.usable > 0 {
            ready += 1;
        } else if !seen.reason.is_empty() {
            why = why.or(Some((id, &seen.reason)));
        }
    }
    let total = verdict.instances;
    let ready = ready.min(total);
    let counts = InstanceCounts {
        total: total.try_into().unwrap_or(i32::MAX),
        ready: ready.try_into().unwrap_or(i32::MAX),
        summary: format!("{ready}/{total}"),
    };
    let state = |status, reason, message| ConditionState {
        type_: condition::READY,
        status,
        reason,
        message,
    };
    // Of an older form that is in use, data planes say as much.
    let state = if let Err(problem) = &verdict.accepted
        && verdict.in_use.is_none()
    {
        state("False", problem.reason, problem.to_string())
    } else if let Err(problem) = unlisted(verdict)
        && verdict.in_use.is_none()
    {
        state("Unknown", problem.reason, problem.to_string())
    } else if let Err(problem) = &verdict.resolved_refs
        && !matches!(problem.reason, Reason::Pending | Reason::TooLarge)
    {
        // What addresses there are is not used.
        state("False", Reason::NoReadyInstances, problem.to_string())
    } else if total == 0 {
        let message = "no ready address found".into();
        state("False", Reason::NoReadyInstances, message)
    } else if reports.view.connected == 0 {
        let message = "no data plane is connected".into();
        state("Unknown", Reason::Pending, message)
    } else if ready > 0 {
        let message = format!("{ready} of {total} instances can be used");
        state("True", Reason::Ready, message)
    } else if reported == 0 {
        let message = "no data plane has reported instance health yet".into();
        state("Unknown", Reason::Pending, message)
    } else {
        let mut message = format!("none of {total} instances can be used");
        if let Some((id, reason)) = why {
            message = format!("{message}; {id}: {reason}");
        }
        state("False", Reason::NoReadyInstances, message)
    };
    (state, counts)
}

/// Whether its instances are known.
fn unlisted(verdict: &Verdict) -> Result<(), &Problem> {
    match &verdict.resolved_refs {
        Err(problem) if problem.reason == Reason::Pending => Err(problem),
        _ => Ok(()),
    }
}

/// The last condition as it was, where nobody is there yet to say otherwise.
fn kept(
    verdict: &Verdict,
    reports: DataPlaneReports<'_>,
    previous: &ObjectStatus,
    last: &ConditionState,
) -> Option<Condition> {
    let unreported = match verdict.kind {
        // No data plane has reported on it.
        Kind::LlmEndpoint => last.status == "Unknown",
        Kind::OllaRoute => reports.view.connected == 0,
    };
    let expecting = (!reports.settled || unlisted(verdict).is_err()) && unreported;
    let expecting = expecting && verdict.accepted.is_ok();
    previous
        .condition(last.type_)
        .filter(|before| expecting && before.observed_generation == Some(verdict.generation))
        .cloned()
}

/// Whether `previous` says all that `desired` does; conditions of others are not looked at.
fn says_the_same(previous: &ObjectStatus, desired: &ObjectStatus) -> bool {
    previous.observed_generation == desired.observed_generation
        && previous.instances == desired.instances
        && desired
            .conditions
            .iter()
            .all(|condition| previous.condition(&condition.type_) == Some(condition))
}

#[cfg(test)]
mod tests;
