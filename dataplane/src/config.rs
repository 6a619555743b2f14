//! Static settings: read once from flags and environment, before any port is bound.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// Port of the data plane, as Olla has it.
pub const DEFAULT_PORT: u16 = 40114;

/// Where `/internal/…` is told with an operator: to this machine, or pod, alone.
pub const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40115);

/// Where the listener's certificate lies.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, and those between it and a root, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    /// With 127.0.0.1 in `listen`: the same port of `::1` as well, where there is one.
    pub both_loopbacks: bool,
    /// Where `/internal/…` is told, if not on `listen`.
    pub admin: Option<SocketAddr>,
    /// Clients must speak TLS.
    pub tls: Option<TlsFiles>,
    /// Threads that serve requests.
    pub workers: usize,
    /// Longest request body that is kept for a retry, bytes. A longer one is streamed once.
    pub replay_bytes: usize,
    /// All kept bodies of the process together, bytes.
    pub replay_total_bytes: usize,
    /// Those of one client address, bytes.
    pub replay_client_bytes: usize,
    /// Connections that one client address may hold; an HTTP/2 connection counts for its streams.
    pub client_connections: usize,
    /// Connections of all clients together: what the process may open leaves as many for backends.
    pub all_client_connections: usize,
    /// From the start until it counts as started without a routing table.
    pub start_without_table: Duration,
    /// Made once it has started, for the next process. Default: absent.
    pub started_file: Option<PathBuf>,
    /// Between SIGTERM, when it says that it is not ready, and the end of accepting: balancers
    /// need that long to look away.
    pub drain_delay: Duration,
    /// How long running streams may go on after that.
    pub drain_timeout: Duration,
    /// One log line a request.
    pub access_log: bool,
    /// A client's connection that asks for nothing for so long, or does not end a head that it
    /// began, is closed.
    pub client_idle: Duration,
    /// Longest time that a client may leave unread what was written to it.
    pub client_stall: Duration,
    /// Longest silence of a client inside its body; while it is read to be kept, each span of so
    /// long must bring 1 KiB for each of its seconds, or the end.
    pub body_idle: Duration,
    /// Between two looks at all connections, to both sides.
    pub look_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)),
            both_loopbacks: false,
            admin: None,
            tls: None,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            replay_bytes: 16 << 20,
            replay_total_bytes: 256 << 20,
            replay_client_bytes: 24 << 20,
            client_connections: 1024,
            all_client_connections: usize::MAX,
            start_without_table: Duration::from_secs(10),
            started_file: None,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(25),
            access_log: true,
            client_idle: Duration::from_secs(75),
            client_stall: Duration::from_secs(120),
            body_idle: Duration::from_secs(60),
            look_every: Duration::from_secs(5),
        }
    }
}
