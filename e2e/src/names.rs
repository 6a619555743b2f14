//! Names and addresses that several rooms must agree on.

use std::net::Ipv4Addr;

/// The machine's address inside the namespaces; `e2e/test` gives it to the bridge.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// The node all pods are on. The EndpointSlice controller leaves out pods without one.
pub const NODE: &str = "node-1";

/// Where the chart is installed, as the documentation says.
pub const SYSTEM: &str = "olla-system";

/// What names of Services end with, for pods that run.
pub(crate) const DNS_DOMAIN: &str = "cluster.local";

/// The operator's port for data planes.
pub(crate) const PUSH_PORT: u16 = 9443;

/// Files of the API server's audit in its folder.
pub(crate) const AUDIT_POLICY: &str = "audit-policy.json";
pub(crate) const AUDIT_LOG: &str = "audit.log";

/// What data planes are given as `--operator`.
pub fn operator_url() -> String {
    format!("https://{HOST}:{PUSH_PORT}")
}
