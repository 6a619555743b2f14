//! What to do: the pure decision maker of the data plane. Values go in, values come out; no
//! clock, no sockets, no tasks, no global randomness. The shell carries out what comes out.
//!
//! ```text
//!   RoutingTable ──apply──▶ ┌─────────── Fleet ───────────┐ ──▶ Events  (what changed)
//!   Query ────pick/retry──▶ │ route → models → select     │ ──▶ Pick    (where to send it)
//!   Ticket ─first_byte────▶ │ breaker · health · load     │
//!          ─finish────────▶ │ saturation · ramp · budget  │
//!   Mono ─────due─────────▶ │                             │ ──▶ Orders  (probes, listings)
//!   …Result ─probed/listed▶ └─────────────────────────────┘ ──▶ views for people
//! ```
//!
//! One function decides ([`Fleet::pick`] and [`Fleet::explain`] both call it), so that proxy,
//! status pages and tests cannot disagree.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod breaker;
mod catalogue;
pub mod classify;
mod fleet;
mod glob;
mod health;
mod load;
mod models;
mod order;
mod pick;
mod plan;
mod ramp;
mod retry;
mod rng;
mod route;
mod saturation;
mod select;
mod time;
mod view;
mod window;

#[cfg(test)]
use dataplane_protocol::testing;

pub use classify::{Cause, Outcome};
pub use dataplane_protocol::status::{
    CandidateView, Decision, Explanation, InstanceKey, InstanceView, PlaceView,
};
pub use fleet::{Fleet, LISTING_TIMEOUT, Size};
pub use order::{Event, ListingResult, Order, ProbeResult};
pub use pick::{InstanceInfo, Pick, Refusal, Ticket};
pub use route::Query;
pub use time::Mono;
pub use view::{FleetView, ModelView, RouteView, TargetView};
