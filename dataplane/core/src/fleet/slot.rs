//! The live state of one instance, all its signals in one place, and what each change of them
//! sets off.

use std::{collections::BTreeSet, sync::Arc};

use dataplane_protocol::{
    status::InstanceKey,
    sync::{Breaker as BreakerState, Health},
    table::{BreakerPolicy, Endpoint, Profile},
};

use crate::{
    breaker::{self, Admission, Breaker},
    health::{self, Monitor},
    load::Load,
    models::Models,
    order::Event,
    pick::InstanceInfo,
    ramp::Ramp,
    saturation::Saturation,
    select::Standing,
    time::Mono,
};

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) info: Arc<InstanceInfo>,
    pub(crate) monitor: Monitor,
    pub(crate) breaker: Breaker,
    pub(crate) saturation: Saturation,
    pub(crate) ramp: Ramp,
    pub(crate) load: Load,
    pub(crate) models: Models,
    /// How often it has gone unhealthy.
    pub(crate) outages: u32,
    /// Its entry in the fleet's agenda.
    scheduled: Option<Mono>,
}

impl Slot {
    pub(crate) fn new(info: InstanceInfo, now: Mono) -> Self {
        let endpoint = &info.endpoint;
        let mut slot = Self {
            monitor: Monitor::new(&endpoint.health, now),
            breaker: Breaker::default(),
            saturation: Saturation::default(),
            ramp: Ramp::default(),
            load: Load::default(),
            models: Models::new(&endpoint.models),
            outages: 0,
            info: Arc::new(info),
            scheduled: None,
        };
        if slot.monitor.state() == Health::Healthy {
            slot.models.wake(&slot.info.endpoint.models, now);
        }
        slot
    }

    pub(crate) fn key(&self) -> InstanceKey {
        self.info.key
    }

    /// Takes a new table's word for its endpoint. State stays; what was changed is looked at
    /// at once.
    pub(crate) fn adopt(
        &mut self,
        endpoint: &Arc<Endpoint>,
        profile: &Arc<Profile>,
        now: Mono,
        events: &mut Vec<Event>,
    ) {
        let same = *self.info.endpoint == **endpoint;
        if same && self.info.profile == *profile {
            return;
        }
        self.info = Arc::new(InstanceInfo {
            endpoint: endpoint.clone(),
            profile: profile.clone(),
            ..(*self.info).clone()
        });
        if same {
            return;
        }
        if let Some(change) = self.monitor.adopt(&endpoint.health, now) {
            self.health_changed(change, now, events);
        }
        if self.models.adopt(&endpoint.models) {
            events.push(self.models_event());
        }
        if self.monitor.state() == Health::Healthy {
            self.models.wake(&endpoint.models, now);
        }
    }

    /// Moves its entry in the agenda to where its next probe or listing now is. Nothing is asked
    /// of an instance whose credential is withheld.
    pub(crate) fn schedule(&mut self, place: usize, agenda: &mut BTreeSet<(Mono, usize)>) {
        let wanted = [self.monitor.next(), self.models.next()];
        let next = wanted.into_iter().flatten().min();
        let next = next.filter(|_| !self.info.is_withheld());
        if self.scheduled == next {
            return;
        }
        if let Some(at) = self.scheduled {
            agenda.remove(&(at, place));
        }
        if let Some(at) = next {
            agenda.insert((at, place));
        }
        self.scheduled = next;
    }

    /// It is gone: its entry, too.
    pub(crate) fn unschedule(&mut self, place: usize, agenda: &mut BTreeSet<(Mono, usize)>) {
        if let Some(at) = self.scheduled.take() {
            agenda.remove(&(at, place));
        }
    }

    /// A listing told what an `auto` endpoint is.
    pub(crate) fn detected(&mut self, profile: &Arc<Profile>) {
        if self.info.profile.name != profile.name {
            self.info = Arc::new(InstanceInfo {
                profile: profile.clone(),
                ..(*self.info).clone()
            });
        }
    }

    /// Health, credential, saturation and breaker joined: whether it may be sent a request of a
    /// route with this policy, where it has this weight.
    pub(crate) fn standing(
        &self,
        weight: u32,
        policy: Option<&BreakerPolicy>,
        now: Mono,
    ) -> Standing {
        if weight == 0 {
            return Standing::NoShare;
        }
        if self.info.is_withheld() {
            return Standing::Withheld;
        }
        if self.monitor.state() == Health::Unhealthy {
            return Standing::Unhealthy;
        }
        if let Some(policy) = policy
            && let Admission::No { since, until } = self.breaker.admission(policy, now)
        {
            return Standing::Open { since, until };
        }
        match self.saturation.until(now) {
            Some(until) => Standing::Saturated { until },
            None => Standing::Selectable,
        }
    }

    pub(crate) fn health_changed(
        &mut self,
        change: health::Change,
        now: Mono,
        events: &mut Vec<Event>,
    ) {
        let (from, to) = (change.from, change.to);
        events.push(Event::Health {
            endpoint: self.info.endpoint.id.clone(),
            instance: self.info.instance.id.clone(),
            key: self.key(),
            from,
            to,
            reason: change.reason,
        });
        match to {
            Health::Unhealthy => {
                self.models.rest();
                self.outages = self.outages.saturating_add(1);
                events.push(Event::CutUnanswered {
                    key: self.key(),
                    outages: self.outages,
                });
            }
            Health::Healthy => {
                if from == Health::Unhealthy {
                    self.ramp.begin(now);
                }
                let info = self.info.clone();
                self.models.wake(&info.endpoint.models, now);
            }
            Health::Unknown => {}
        }
    }

    pub(crate) fn breaker_changed(
        &mut self,
        change: breaker::Change,
        now: Mono,
        events: &mut Vec<Event>,
    ) {
        if change.to == BreakerState::Closed {
            self.ramp.begin(now);
        }
        events.push(Event::Breaker {
            endpoint: self.info.endpoint.id.clone(),
            instance: self.info.instance.id.clone(),
            from: change.from,
            to: change.to,
            reason: change.reason,
        });
    }

    pub(crate) fn models_event(&self) -> Event {
        Event::Models {
            endpoint: self.info.endpoint.id.clone(),
            instance: self.info.instance.id.clone(),
            count: self.models.serves().len(),
        }
    }
}
