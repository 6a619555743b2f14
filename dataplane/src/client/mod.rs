//! Towards clients: their connections are accepted, counted, served and ended. It knows nothing of
//! what their requests are answered with.

pub(crate) mod connection;
pub(crate) mod listener;
pub(crate) mod share;
pub(crate) mod tls;
pub(crate) mod wake;
