//! What data planes say of instances, counted. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use dataplane_protocol::{
    EndpointId, InstanceId,
    sync::{Breaker, Health, InstanceReport},
};

use super::{MAX_REASON, shortened};

pub(super) type Instance = Arc<(EndpointId, InstanceId)>;

/// How many data planes say what of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceView {
    pub reported: u32,
    /// Not unhealthy, breaker not open.
    pub usable: u32,
    pub open: u32,
    /// The last reason given for not being usable.
    pub reason: String,
}

/// Seen by the first data plane (opened) or no longer by any (closed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerChange {
    pub endpoint: EndpointId,
    pub instance: InstanceId,
    pub open: bool,
    pub reason: String,
}

/// What a report says that was not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportChanges {
    /// Whose status may be another by it.
    pub endpoints: BTreeSet<EndpointId>,
    pub breakers: Vec<BreakerChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags {
    usable: bool,
    open: bool,
}

/// Takes what is said of an instance of the table, and notes what is new by it.
pub(super) fn count(
    instances: &mut BTreeMap<Instance, InstanceView>,
    plane: &mut HashMap<Instance, Flags>,
    said: &InstanceReport,
    changes: &mut ReportChanges,
) {
    let flags = Flags {
        usable: said.health != Health::Unhealthy && said.breaker != Breaker::Open,
        open: said.breaker == Breaker::Open,
    };
    let key = (said.endpoint.clone(), said.instance.clone());
    let known = instances
        .get_key_value(&key)
        .map(|(known, _)| known.clone());
    let instance = known.unwrap_or_else(|| Arc::new(key));
    let before = plane.insert(instance.clone(), flags);
    let seen = instances.entry(instance).or_default();
    let (was, was_open) = (seen.shown(), seen.open > 0);
    if let Some(before) = before {
        seen.usable = seen.usable.saturating_sub(u32::from(before.usable));
        seen.open = seen.open.saturating_sub(u32::from(before.open));
    } else {
        seen.reported += 1;
    }
    seen.usable += u32::from(flags.usable);
    seen.open += u32::from(flags.open);
    let reason = shortened(&said.reason, MAX_REASON);
    if !flags.usable {
        seen.reason.clone_from(&reason);
    }
    if was != seen.shown() {
        changes.endpoints.insert(said.endpoint.clone());
    }
    let open = seen.open > 0;
    if open != was_open {
        changes.breakers.push(BreakerChange {
            endpoint: said.endpoint.clone(),
            instance: said.instance.clone(),
            open,
            reason: if open { reason } else { String::new() },
        });
    }
}

impl InstanceView {
    /// What a status may show of it.
    fn shown(&self) -> (bool, Option<String>) {
        let usable = self.usable > 0;
        (self.reported > 0, (!usable).then(|| self.reason.clone()))
    }
}

pub(super) fn uncount(
    instances: &mut BTreeMap<Instance, InstanceView>,
    instance: &Instance,
    said: Flags,
) {
    if let Some(seen) = instances.get_mut(instance) {
        seen.reported = seen.reported.saturating_sub(1);
        seen.usable = seen.usable.saturating_sub(u32::from(said.usable));
        seen.open = seen.open.saturating_sub(u32::from(said.open));
        if seen.reported == 0 {
            instances.remove(instance);
        }
    }
}
