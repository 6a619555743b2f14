//! The data plane's shell: the only place here with sockets, tasks, clocks and locks.
//!
//! ```text
//! source (files | operator) ──▶ state (one Fleet) ◀── prober
//!                                  ▲  │
//! client ──▶ listener ──▶ proxy ───┘  └──▶ admin (status, metrics, explain)
//!                           │
//!                           └──▶ upstream ──▶ backend
//! ```

mod admin;
pub mod app;
mod backend;
mod bell;
pub mod cli;
mod clients;
mod clock;
pub mod config;
mod cut;
mod demo;
mod downstream;
mod error;
mod explain;
mod io;
mod listener;
mod logging;
mod metrics;
mod proxy;
mod socket;
pub mod source;
pub mod state;
mod template;
mod terminal;
pub mod tls;
