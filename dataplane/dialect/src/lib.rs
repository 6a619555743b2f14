//! Dialects: what clients and backends say, as bytes in and bytes out. No sockets, no clock.
//!
//! - [`scan`] finds the model in a request body without building a tree.
//! - [`listing`] reads backends' model lists and writes the ones clients ask for.
//! - [`multipart`] does so in a form.
//! - [`surface`] says what a client's path asks for, [`operation`] what kind of operation that is,
//!   [`path`] what other readers of a path may see in it.
//! - [`scope`] says which endpoints take it: what their credentials are for.
//! - [`headers`] says which headers pass between clients and backends.
//! - [`stream`] cuts streams at whole events, and ends a broken one honestly.
//! - [`error`] writes errors as each dialect's clients expect them.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod error;
#[cfg(test)]
mod fuzz;
pub mod headers;
pub mod listing;
pub mod multipart;
pub mod operation;
pub mod path;
pub mod scan;
pub mod scope;
pub mod stream;
pub mod surface;
