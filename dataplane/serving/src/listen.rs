//! A bound port, and its next connection.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// Out of file descriptors, most likely: some will be given back.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// `[::]` takes IPv4 as well, and is IPv4 alone where the machine has no IPv6. `backlog`:
/// connections that the kernel holds until they are accepted.
pub fn bind(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let any = address.is_ipv6() && address.ip().is_unspecified();
    match bind_one(address, backlog) {
        Err(error) if any && error.kind() != io::ErrorKind::AddrInUse => {
            bind_one((Ipv4Addr::UNSPECIFIED, address.port()).into(), backlog)
        }
        bound => bound,
    }
}

fn bind_one(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    TcpListener::from_std(socket.into())
}

/// The next connection, however often accepting fails. `port` is its name in the log. Loses no
/// connection when dropped.
pub async fn accept(listener: &TcpListener, port: &'static str) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(port, %error, "accepting a connection failed");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpStream};

    use super::*;

    #[tokio::test]
    async fn the_unspecified_address_takes_ipv4_and_ipv6() {
        let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, 0).into();
        let bound = bind(any, 8).unwrap().local_addr().unwrap();
        let listener = bind(bound, 8).unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, bound.port())).unwrap();
        accept(&listener, "test").await;
        if bound.is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, bound.port())).unwrap();
            accept(&listener, "test").await;
        }
    }
}
