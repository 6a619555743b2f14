//! Dialects: what clients and backends say, as bytes in and bytes out. No sockets, no clock.
//!
//! - [`scan`] finds the model in a request body without building a tree.
//! - [`listing`] reads backends' model lists and writes the ones clients ask for.
//! - [`multipart`] does so in a form.
//! - [`paths`] tells what kind of operation a path names.
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
pub mod listing;
pub mod multipart;
pub mod paths;
pub mod scan;
pub mod stream;
