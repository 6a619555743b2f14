//! The way back: once all is well, everything serves again within its bounds, and nothing is left.

use std::{collections::BTreeMap, time::Duration};

use dataplane_core::Outcome;
use dataplane_protocol::{sync::Breaker, table::Balancer};

use crate::{
    common::query,
    requests::FIRST_TOKEN,
    world::{MAX_OPEN_FOR, Sim},
};

impl Sim {
    /// All is well from here on.
    pub(crate) fn heal(&mut self) {
        self.trouble = false;
        self.moods.clear();
        self.pods = 2;
        self.note("healed".into());
        self.apply();
    }

    /// Until the longest that recovery may take has passed since the last fault was seen: a
    /// health interval, an open breaker, the ramp. A backend's own wish to rest comes before.
    pub(crate) fn settle(&mut self) {
        let asked = Duration::from_secs(16);
        let bound = Duration::from_secs(11) + MAX_OPEN_FOR + Duration::from_secs(10);
        self.run_until(self.now + FIRST_TOKEN + asked);
        let end = (self.last_fault + bound).max(self.now);
        self.run_until(end);
        assert!(
            end >= self.last_fault + bound,
            "a fault after all was healed"
        );
    }

    pub(crate) fn check_the_way_back(&mut self) {
        for view in self.view().instances {
            assert!(view.usable, "not back: {view:?}");
            // A tier without traffic has nobody to try whether it is well again.
            if self.balancer != Balancer::Priority || view.places.iter().any(|p| p.tier == 0) {
                let back = (view.breaker, view.ramp_permille);
                assert_eq!(back, (Breaker::Closed, 1_000), "{view:?}");
            }
        }
        let mut shares: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..400 {
            let pick = self
                .fleet
                .pick(&query(None), self.now)
                .expect("all are usable");
            *shares
                .entry(pick.instance.endpoint.id.to_string())
                .or_default() += 1;
            let events = self.fleet.finish(pick.ticket, Outcome::Success, self.now);
            self.take(events);
        }
        self.note(format!("shares at the end: {shares:?}"));
        let even = |names: &[&str], count: u32| {
            let each = names
                .iter()
                .map(|name| shares.get(*name).copied().unwrap_or(0));
            each.into_iter().all(|share| share.abs_diff(count) <= 4)
        };
        match self.balancer {
            Balancer::Priority => assert!(even(&["a", "b"], 200), "{shares:?}"),
            Balancer::RoundRobin => assert!(even(&["a", "b", "c", "cloud"], 100), "{shares:?}"),
            // What is still in flight decides.
            Balancer::LeastConnections => assert!(!shares.is_empty()),
        }
    }

    /// Every attempt ends; nothing may be left in flight.
    pub(crate) fn drain(&mut self) {
        for id in self.flights.keys().copied().collect::<Vec<_>>() {
            self.end(id, Outcome::Cancelled);
        }
        assert!(self.flights.is_empty());
        for view in self.view().instances {
            assert_eq!(view.in_flight, 0, "{view:?}");
        }
    }
}
