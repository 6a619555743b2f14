//! What operator and data plane say to each other. Serde only: no sockets, no clock, no decisions.
//!
//! ```text
//! operator ── Begin, Upsert…, Keep…, Remove…, Commit ──▶ data plane
//!          ◀── Hello, Ack | Nack, Report ────────
//! ```
//!
//! [`RoutingTable`] is the one intermediate form: `compile` makes it, the wire carries it in
//! [`Resource`]s, `dataplane-core` decides by it.

pub mod change;
pub mod check;
pub mod dialect;
pub mod frame;
#[cfg(test)]
mod fuzz;
pub mod id;
mod key;
pub mod resource;
pub mod secret;
mod selection;
pub mod status;
pub mod sync;
pub mod table;
mod targets;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transaction;

pub use dialect::Dialect;
pub use id::{EndpointId, InstanceId, ModelName, Revision, RouteId, SetId};
pub use key::ResourceKey;
pub use resource::Resource;
pub use secret::Secret;
pub use table::RoutingTable;
pub use targets::Target;
