//! Statuses that the API server did not take, so that they are not offered on each report.
//!
//! In: answers with a code in [`FOR_GOOD`]. Out: the last rejection of an object, while it is in its
//! namespace's table. Another object of that name, generation or status is offered at once; the
//! same only after its [`patience`].

use std::{collections::HashMap, time::Duration};

use compile::{Kind, Verdicts};
use tokio::time::Instant;

use crate::routing::status::ObjectStatus;

/// Not permitted, not there, or against the kind's rules: the same again gets the same answer.
pub(super) const FOR_GOOD: [u16; 3] = [403, 404, 422];

/// Until the same is tried again, quietly: a permission may be granted and a CRD replaced without a
/// change to any object. The former soon: an API server that has just started permits nothing until
/// it has read its roles, and so does one where the operator was installed a moment ago. `tries`:
/// how often the same was refused before.
pub(super) fn patience(code: u16, tries: u32) -> Duration {
    const MOST: Duration = Duration::from_mins(1);
    match code {
        403 => Duration::from_secs(2 << tries.min(5)).min(MOST),
        422 => Duration::from_mins(10),
        _ => MOST,
    }
}

#[derive(Clone, Debug)]
pub(super) struct Rejection {
    pub(super) uid: String,
    /// What was refused, its generation in it.
    pub(super) status: ObjectStatus,
    /// What Events have told.
    pub(super) last_announced: ObjectStatus,
    pub(super) again: Instant,
    /// How often the same was refused before.
    pub(super) tries: u32,
}

#[derive(Debug, Default)]
pub(super) struct Rejections {
    namespaces: HashMap<String, HashMap<(Kind, String), Rejection>>,
}

impl Rejections {
    pub(super) fn of(&self, namespace: &str, kind: Kind, name: &str) -> Option<&Rejection> {
        let rejections = self.namespaces.get(namespace)?;
        rejections.get(&(kind, name.to_owned()))
    }

    pub(super) fn insert(
        &mut self,
        namespace: &str,
        kind: Kind,
        name: String,
        rejection: Rejection,
    ) {
        let rejections = self.namespaces.entry(namespace.to_owned()).or_default();
        rejections.insert((kind, name), rejection);
    }

    pub(super) fn remove(&mut self, namespace: &str, kind: Kind, name: &str) {
        if let Some(rejections) = self.namespaces.get_mut(namespace) {
            rejections.remove(&(kind, name.to_owned()));
        }
    }

    /// Those of objects without a verdict are forgotten.
    pub(super) fn keep(&mut self, namespace: &str, verdicts: &Verdicts) {
        let Some(rejections) = self.namespaces.get_mut(namespace) else {
            return;
        };
        rejections.retain(|name, _| verdicts.contains_key(name));
        if rejections.is_empty() {
            self.namespaces.remove(namespace);
        }
    }

    pub(super) fn forget(&mut self, namespace: &str) {
        self.namespaces.remove(namespace);
    }
}
