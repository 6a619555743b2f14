//! Requests from their arrival to the end of their last attempt, and what must hold at each step.

use std::time::Duration;

use dataplane_core::{
    Cause, Decision, Event, FleetView, InstanceKey, InstanceView, Outcome, Pick, Ticket,
};
use dataplane_protocol::{
    sync::{Breaker, Health},
    table::WhenAllOpen,
};

use crate::{
    common::query,
    world::{ATTEMPTS, MODEL, Mood, OPEN_FOR, Sim, Step},
};

/// Until a backend that hangs is given up.
pub(crate) const FIRST_TOKEN: Duration = Duration::from_secs(30);

/// An attempt under way.
pub(crate) struct Flight {
    pub(crate) ticket: Ticket,
    pub(crate) tried: Vec<InstanceKey>,
    pub(crate) model: Option<&'static str>,
    pub(crate) answered: bool,
    /// Its breaker was not closed when it was sent, and it was no last resort.
    pub(crate) trial: bool,
}

impl Sim {
    pub(crate) fn arrive(&mut self) {
        let model = self.one_in(3).then_some(MODEL);
        let before = self.view();
        match self.fleet.pick(&query(model), self.now) {
            Ok(pick) => {
                if pick.decision == Decision::LastResort {
                    let able = before
                        .instances
                        .iter()
                        .find(|i| i.usable && serves(i, model));
                    assert!(able.is_none(), "last resort beside {able:?}");
                }
                assert_eq!(pick.attempt, 1);
                self.start(pick, Vec::new(), model, &before);
            }
            Err(refusal) => {
                self.note(format!("refused: {}", refusal.reason()));
                let mut serving = before.instances.iter().filter(|i| serves(i, model));
                let alive = serving.find(|i| self.may_be_asked(i));
                assert!(alive.is_none(), "{refusal:?} though {alive:?} may answer");
                assert!(refusal.retry_after().is_none_or(|wait| wait.as_secs() >= 1));
            }
        }
    }

    /// An attempt was given out: it must be allowed, then it meets its backend.
    fn start(
        &mut self,
        pick: Pick,
        mut tried: Vec<InstanceKey>,
        model: Option<&'static str>,
        before: &FleetView,
    ) {
        self.serial += 1;
        let id = self.serial;
        let key = pick.ticket.key();
        let name = pick.instance.instance.id.to_string();
        let view = before
            .instances
            .iter()
            .find(|view| view.key == key)
            .expect("it is known");
        self.note(format!(
            "#{id} attempt {} to {name}, {:?}",
            pick.attempt, pick.decision
        ));
        assert_ne!(
            view.health,
            Health::Unhealthy,
            "an unhealthy one was picked"
        );
        assert!(serves(view, model), "it does not serve the model");
        assert!(!tried.contains(&key), "tried twice");
        assert!(pick.attempt <= ATTEMPTS, "too many attempts");
        assert_eq!(pick.attempt as usize, tried.len() + 1);
        // Half-open may be: a permit was free, and only saturation made it the last resort.
        let shut = view.breaker == Breaker::Open && view.breaker_reopens_in_ms != Some(0);
        let may_fail = self.when_all_open == Some(WhenAllOpen::Fail);
        assert!(!(shut && may_fail), "the policy says to fail: {view:?}");
        let trial = view.breaker != Breaker::Closed && pick.decision != Decision::LastResort;
        if trial {
            self.check_trial(key, id, view);
        }
        tried.push(key);
        let flight = Flight {
            ticket: pick.ticket,
            tried,
            model,
            answered: false,
            trial,
        };
        self.flights.insert(id, flight);
        self.meet(id, &name);
    }

    fn check_trial(&mut self, key: InstanceKey, id: u64, view: &InstanceView) {
        assert!(
            view.breaker == Breaker::HalfOpen || view.breaker_reopens_in_ms == Some(0),
            "sent through an open breaker: {view:?}"
        );
        let (out, last) = self.trials.entry(key).or_default();
        if view.breaker == Breaker::Open {
            out.clear();
        }
        assert!(
            out.len() < self.permits as usize || self.now.since(*last) >= OPEN_FOR,
            "more half-open trials than permits"
        );
        out.insert(id);
        *last = self.now;
    }

    fn meet(&mut self, id: u64, name: &str) {
        let latency = 20 + self.random(300);
        let stream = latency + self.random(3_000);
        let failure = |failure| Step::End(id, Outcome::Failure(failure));
        if self.one_in(20) {
            return self.after(latency / 2, Step::End(id, Outcome::Cancelled));
        }
        match self.mood(name) {
            Mood::Good => {
                self.after(latency, Step::FirstByte(id));
                self.after(stream, Step::End(id, Outcome::Success));
            }
            Mood::Refuses => self.after(1, failure(Cause::ConnectFailure)),
            Mood::Hangs => {
                let wait = FIRST_TOKEN.as_millis() as u64;
                self.after(wait, failure(Cause::FirstTokenTimeout));
            }
            Mood::Resets => self.after(latency, failure(Cause::Reset)),
            Mood::Fails => self.after(latency, failure(Cause::Status(503))),
            Mood::Full => {
                let asked = 1 + self.random(15);
                let retry_after = self.one_in(2).then(|| Duration::from_secs(asked));
                self.after(latency, Step::End(id, Outcome::Saturated { retry_after }));
            }
            Mood::Truncates => {
                self.after(latency, Step::FirstByte(id));
                self.after(stream, failure(Cause::Truncated));
            }
        }
    }

    pub(crate) fn end(&mut self, id: u64, outcome: Outcome) {
        let cause = match outcome {
            // A connection that broke, before the answer or in it.
            Outcome::Failure(Cause::Truncated) => Some(Cause::Reset),
            Outcome::Failure(cause) => Some(cause),
            Outcome::Saturated { .. } => Some(Cause::Status(429)),
            _ => None,
        };
        self.end_by(id, outcome, cause);
    }

    /// As the shell does it: first it asks who is next, then it says how this one ended.
    fn end_by(&mut self, id: u64, outcome: Outcome, cause: Option<Cause>) {
        let before = self.view();
        // Cut before, when its instance went unhealthy.
        let Some(flight) = self.flights.remove(&id) else {
            return;
        };
        self.note(format!("#{id} ends: {outcome:?}"));
        let next = cause.and_then(|cause| self.next(&flight, cause, &before));
        let key = flight.ticket.key();
        if flight.trial
            && let Some((out, _)) = self.trials.get_mut(&key)
        {
            out.remove(&id);
        }
        self.answered += u64::from(outcome == Outcome::Success);
        if !matches!(outcome, Outcome::Success | Outcome::Cancelled) {
            self.last_fault = self.now;
        }
        let events = self.fleet.finish(flight.ticket, outcome, self.now);
        if let Some(pick) = next {
            self.start(pick, flight.tried, flight.model, &before);
        }
        self.take(events);
    }

    fn next(&mut self, flight: &Flight, cause: Cause, before: &FleetView) -> Option<Pick> {
        let Flight {
            ticket,
            tried,
            model,
            ..
        } = flight;
        let pick = self
            .fleet
            .retry(&query(*model), tried, ticket, cause, self.now);
        if pick.is_some() {
            assert!(!flight.answered, "tried again after the client got a part");
            return pick;
        }
        self.note(format!("no retry after {}", cause.label()));
        if cause == Cause::ConnectFailure && tried.len() < ATTEMPTS as usize {
            let mut others = before
                .instances
                .iter()
                .filter(|i| serves(i, *model) && !tried.contains(&i.key) && self.may_be_asked(i));
            let other = others.next();
            assert!(other.is_none(), "no retry though {other:?} is left");
        }
        None
    }

    pub(crate) fn take(&mut self, events: Vec<Event>) {
        for event in events {
            self.note(format!("{event:?}"));
            match event {
                Event::CutUnanswered { key, .. } => self.cut(key),
                Event::Gone { key } => {
                    self.trials.remove(&key);
                }
                _ => {}
            }
        }
    }

    fn cut(&mut self, key: InstanceKey) {
        let of_key = |flight: &Flight| flight.ticket.key() == key && !flight.answered;
        let ids: Vec<_> = self
            .flights
            .iter()
            .filter(|(_, flight)| of_key(flight))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.end_by(id, Outcome::Cancelled, Some(Cause::Unhealthy));
        }
    }

    /// Whether the policy lets an instance be asked, be it as a last resort.
    fn may_be_asked(&self, view: &InstanceView) -> bool {
        let shut = view.breaker != Breaker::Closed && view.breaker_reopens_in_ms != Some(0);
        let kept_shut = self.when_all_open == Some(WhenAllOpen::Fail) && shut;
        view.health != Health::Unhealthy && !kept_shut
    }
}

/// Whether an instance is a candidate for the model, by what it is known to list.
fn serves(view: &InstanceView, model: Option<&str>) -> bool {
    model.is_none_or(|model| {
        let models = view.models.as_ref();
        models.is_some_and(|models| models.iter().any(|name| name.as_str() == model))
    })
}
