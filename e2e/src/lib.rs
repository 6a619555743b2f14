//! The harness of the end-to-end tests: a real Kubernetes control plane, with or without a node
//! that runs pods, and our own programs as processes that can be killed and frozen. Tests should read like what a user would say; whatever
//! does not is in here.
//!
//! in: the environment that `e2e/test` sets (where the programs are); out: handles that end with
//! the test. It sees the operator and the data plane only from outside: binaries, files, sockets.

pub mod api;
pub mod audit;
mod audit_policy;
pub mod client;
pub mod cluster;
pub mod data_plane;
pub mod litellm;
pub mod mock_llm;
pub mod names;
pub mod node;
mod objects;
mod pki;
pub mod process;
mod python;
mod runtime;
mod tenant;
mod wait;
pub mod world;

pub use client::Client;
pub use cluster::Cluster;
pub use data_plane::DataPlane;
pub use mock_llm::MockLlm;
pub use node::Node;
pub use process::Process;
pub use python::run_python;
pub use tenant::Tenant;
pub use wait::wait;
pub use world::World;
