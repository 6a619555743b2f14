//! What a user would notice of the fleet's decisions, by subject.

mod changes;
mod choose;
mod common;
mod failover;
mod models;
mod probes;
mod retries;
mod tables;
