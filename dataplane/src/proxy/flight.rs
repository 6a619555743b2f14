//! One attempt under way: its ticket is finished exactly once, by whoever holds this last.

use std::sync::Arc;

use dataplane_core::{Outcome, Ticket};

use crate::state::Shared;

/// Dropped without a verdict, the attempt was cancelled: the client left, or we cut it.
#[derive(Debug)]
pub(super) struct Flight {
    shared: Arc<Shared>,
    ticket: Option<Ticket>,
}

impl Flight {
    pub(super) fn new(shared: Arc<Shared>, ticket: Ticket) -> Self {
        Self {
            shared,
            ticket: Some(ticket),
        }
    }

    pub(super) fn first_byte(&self) {
        if let Some(ticket) = &self.ticket {
            self.shared.first_byte(ticket);
        }
    }

    pub(super) fn finish(&mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.finish(ticket, outcome);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.finish(Outcome::Cancelled);
    }
}
