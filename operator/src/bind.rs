//! A port of the operator's, bound.

use std::net::SocketAddr;

use serving::listen;
use tokio::net::TcpListener;

use crate::Error;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// The error names the purpose.
pub(crate) fn bind(purpose: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    listen::bind(address, BACKLOG).map_err(|source| Error::Listen {
        purpose,
        address,
        source,
    })
}
