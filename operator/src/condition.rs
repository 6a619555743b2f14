//! Conditions of our kinds' statuses, as all of them are made.

use crds::Reason;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// A condition before it is known whether it is a transition.
pub(crate) struct ConditionState {
    pub(crate) type_: &'static str,
    pub(crate) status: &'static str,
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl ConditionState {
    /// `before`: the condition of this type as it was.
    pub(crate) fn condition(
        self,
        generation: i64,
        before: Option<&Condition>,
        now: Timestamp,
    ) -> Condition {
        let since = before
            .filter(|before| before.status == self.status)
            .map_or(Time(now), |before| before.last_transition_time.clone());
        Condition {
            type_: self.type_.to_owned(),
            status: self.status.to_owned(),
            reason: self.reason.as_str().to_owned(),
            message: self.message,
            observed_generation: Some(generation),
            last_transition_time: since,
        }
    }
}

/// Makes states of one type of condition.
pub(crate) fn states_of(
    type_: &'static str,
) -> impl Fn(&'static str, Reason, String) -> ConditionState {
    move |status, reason, message| ConditionState {
        type_,
        status,
        reason,
        message,
    }
}
