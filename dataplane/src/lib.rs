//! The data plane's shell: the only place here with sockets, tasks, clocks and locks.
//!
//! ```text
//! cli, demo ──▶ app, which wires:
//!
//!   admin (status, metrics, explain)
//!     │
//!   proxy (the phases of a request)      source (files | operator)
//!     │                                    │
//!   client (listener, connections) · backend (pool, connect, prober)
//!     │
//!   state (one Fleet, settings, signals)
//!     │
//!   io, socket, metrics, logging, terminal
//! ```

mod admin;
pub mod app;
mod backend;
pub mod cli;
mod client;
pub mod config;
mod demo;
mod io;
mod logging;
mod metrics;
mod proxy;
mod socket;
pub mod source;
pub mod state;
mod terminal;
