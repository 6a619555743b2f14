//! What can end the operator. Errors of one object, one stream or one API call do not: they end
//! in a condition, an answer or a log line.

use std::{io, net::SocketAddr, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {address} for {purpose}")]
    Listen {
        purpose: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "connect to the cluster (neither the in-cluster configuration nor KUBECONFIG is usable)"
    )]
    Cluster(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{attempt}")]
    Api {
        attempt: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{attempt}: no answer from the API server within 10s")]
    ApiTimeout { attempt: String },
    #[error("generate a certificate for {names:?}")]
    Certificate {
        names: Vec<String>,
        #[source]
        source: rcgen::Error,
    },
    #[error("use the certificate from {origin}: {problem}")]
    UnusableCertificate { origin: String, problem: String },
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{task} ended unexpectedly")]
    TaskEnded { task: &'static str },
}
