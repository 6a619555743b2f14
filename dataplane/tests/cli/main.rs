//! The binary as its users meet it: commands, exit codes, what is printed, signals. Backends and
//! clients are plain sockets of this process; all waiting is for conditions.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails there, and says where"
)]

mod access_log;
mod check;
mod demo;
mod descriptors;
mod explain;
mod health;
mod https;
mod malformed;
mod memory;
mod run;
mod signals;
mod started;
mod support;
