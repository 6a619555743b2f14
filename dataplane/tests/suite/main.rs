//! The data plane as its users meet it: real sockets, real requests, backends that misbehave to
//! order, all in one process. Each test's name is a claim.
//!
//! Nothing here sleeps to let something happen: tests wait for conditions, and backends for
//! gates.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    clippy::format_push_string,
    reason = "a test that cannot go on fails there, and says where"
)]

mod admin;
mod balance;
mod bodies;
mod breaker;
mod clients;
mod drain;
mod failover;
mod garbage;
mod headers;
mod health;
mod http2;
mod limits;
mod metrics;
mod models;
mod operator_stream;
mod reload;
mod routing;
mod scope;
mod secrets;
mod streams;
mod support;
mod surface;
mod tls;
