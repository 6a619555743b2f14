//! Tests against a real control plane. Run by `./e2e/test cluster [FILTER]`, which makes it and
//! the private network they live in.

mod breaker;
mod chart;
mod clients;
mod control_plane;
mod election;
mod example;
mod examples;
mod gateways;
mod injection;
mod litellm;
mod metrics;
mod objects;
mod outage;
mod pods;
mod propagation;
mod readers;
mod rights;
mod rules;
mod scale;
mod secrets;
mod storm;
mod streams;
mod support;
