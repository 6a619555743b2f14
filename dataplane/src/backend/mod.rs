//! Towards backends: connections to instances, how they are addressed, what is sent, and probes. It
//! knows nothing of the requests that it serves.

pub(crate) mod address;
pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod prober;
pub(crate) mod resolve;
pub(crate) mod upload;
pub(crate) mod upstream;
