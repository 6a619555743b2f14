//! A route made ready for decisions: its targets resolved to the live instances behind them, in
//! order of tier, once for each table instead of once for each request.

use std::{ops::Range, sync::Arc};

use dataplane_protocol::table::{Endpoint, Profile, Route};

use crate::models::Models;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) route: Arc<Route>,
    /// Sorted by tier, then endpoint.
    pub(crate) targets: Vec<TargetPlan>,
    /// Instances of all targets, in their order: those of one target lie together.
    pub(crate) members: Vec<Member>,
}

#[derive(Clone, Debug)]
pub(crate) struct TargetPlan {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) profile: Arc<Profile>,
    pub(crate) tier: u32,
    pub(crate) priority: u32,
    pub(crate) weight: u32,
    /// Only of an endpoint without instances: what it served when it had some.
    pub(crate) absent: Option<Models>,
}

impl Plan {
    /// Places in `members` of the instances of the target at `place`.
    pub(crate) fn members_of(&self, place: usize) -> Range<usize> {
        let from = self.members.partition_point(|member| member.target < place);
        let rest = self.members.get(from..).unwrap_or_default();
        from..from + rest.partition_point(|member| member.target == place)
    }
}

/// One instance as a route sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// Place in the fleet.
    pub(crate) slot: usize,
    /// Place in `targets`.
    pub(crate) target: usize,
    pub(crate) tier: u32,
    pub(crate) weight: u32,
}

/// Whose turn it is: the running sums of smooth weighted round robin, for targets and for the
/// instances inside each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns {
    pub(crate) targets: Vec<i64>,
    pub(crate) members: Vec<i64>,
}
