//! Towards backends: connections to instances, how they are addressed, and probes. It knows nothing
//! of the requests that it serves.

pub(crate) mod address;
pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod pool;
pub(crate) mod prober;
pub(crate) mod resolve;
