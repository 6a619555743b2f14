//! Static settings, read once from flags and environment, before anything is bound.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use injection::Defaults;

use crate::gateway::Settings;

#[derive(Clone, Debug)]
pub struct Config {
    /// Where data planes connect, TLS. Default [::]:9443, IPv4 and IPv6; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where data planes that the operator starts reach `listen`. Default
    /// https://olla-operator.olla-system.svc:9443.
    pub operator_url: String,
    /// Where the API server asks about pods that are created, TLS. Default [::]:9444.
    pub webhook: SocketAddr,
    /// Whether it can, and pods get sidecars. Default true.
    pub injection: bool,
    /// Image of the sidecars. `None`: there are none, and who asks for one gets a warning.
    pub data_plane_image: Option<String>,
    /// For what a pod's annotations say nothing about its sidecar. Default: those of the
    /// crate.
    pub injection_defaults: Defaults,
    /// Health and metrics, plain HTTP. Default [::]:9090.
    pub admin: SocketAddr,
    /// Namespace of the operator itself: its certificate's Secret lives there. Default
    /// olla-system.
    pub namespace: String,
    /// Who writes Events: the pod's name. Default olla-operator.
    pub instance: String,
    /// `tls.crt`, `tls.key` and `ca.crt` from a directory instead of a self-signed certificate.
    pub cert_dir: Option<PathBuf>,
    /// Names in the certificate beside those of the Service.
    pub tls_san: Vec<String>,
    /// After the first publication, how long a status stays as it was found while no data plane
    /// has come back yet, so that a restart is not seen in statuses. Default 30s: a data plane tries
    /// again after at most 22.5 s.
    pub settle: Duration,
    /// Connections of data planes at a time. Default 20,000.
    pub connections: usize,
    /// Absent: no gateways are run, and those there are stay as they are. Default absent.
    pub gateways: Option<Settings>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv6Addr::UNSPECIFIED, 9443).into(),
            operator_url: "https://olla-operator.olla-system.svc:9443".into(),
            webhook: (Ipv6Addr::UNSPECIFIED, 9444).into(),
            injection: true,
            data_plane_image: None,
            injection_defaults: Defaults::default(),
            admin: (Ipv6Addr::UNSPECIFIED, 9090).into(),
            namespace: "olla-system".into(),
            instance: "olla-operator".into(),
            cert_dir: None,
            tls_san: Vec::new(),
            settle: Duration::from_secs(30),
            connections: 20_000,
            gateways: None,
        }
    }
}
