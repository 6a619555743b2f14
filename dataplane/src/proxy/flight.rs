//! One attempt under way: its ticket is finished exactly once, by whoever holds this last.

use std::{rc::Rc, time::Instant};

use dataplane_core::{Cause, InstanceKey, Outcome, Pick, Query, Ticket};

use super::Caller;

/// Dropped without a verdict, the attempt was cancelled: the client left, or we cut it.
#[derive(Debug)]
pub(super) struct Flight {
    caller: Rc<Caller>,
    ticket: Option<Ticket>,
}

impl Flight {
    pub(super) fn new(caller: Rc<Caller>, mut ticket: Ticket) -> Self {
        ticket.asked_by(caller.connection.share.address());
        Self {
            caller,
            ticket: Some(ticket),
        }
    }

    /// Where to try next, the attempt having ended by `cause`.
    pub(super) fn retry(
        &self,
        query: &Query<'_>,
        tried: &[InstanceKey],
        cause: Cause,
    ) -> Option<Pick> {
        let ticket = self.ticket.as_ref()?;
        self.caller.shared().retry(query, tried, ticket, cause)
    }

    /// How often its instance had gone unhealthy when it was picked.
    pub(super) fn outages(&self) -> u32 {
        self.ticket.as_ref().map_or(0, Ticket::outages)
    }

    /// From here on nothing can be tried elsewhere.
    pub(super) fn commit(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.commit();
        }
    }

    pub(super) fn first_byte(&self, now: Instant) {
        if let Some(ticket) = &self.ticket {
            self.caller.shared().first_byte(ticket, now);
        }
    }

    pub(super) fn finish(&mut self, outcome: Outcome, now: Instant) {
        if let Some(ticket) = self.ticket.take() {
            self.caller.shared().finish(ticket, outcome, now);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.finish(Outcome::Cancelled, Instant::now());
    }
}
