//! A bound port, and its next connection.

use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    slice,
    task::Poll,
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

/// 127.0.0.1, and `::1` where the machine has it: clients that say `localhost` may mean either.
/// Port 0 takes a free one, the same on both.
pub fn bind_loopback(port: u16, backlog: i32) -> io::Result<Vec<TcpListener>> {
    let v4 = bind_one((Ipv4Addr::LOCALHOST, port).into(), backlog)?;
    let port = v4.local_addr()?.port();
    match bind_one((Ipv6Addr::LOCALHOST, port).into(), backlog) {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => Ok(vec![v4]),
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
    accept_any(slice::from_ref(listener), port).await
}

/// The same of several listeners, which one task accepts from.
pub async fn accept_any(listeners: &[TcpListener], port: &'static str) -> (TcpStream, SocketAddr) {
    loop {
        match next(listeners).await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(port, %error, "accepting a connection failed");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn next(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        let mut all = listeners.iter().map(|it| it.poll_accept(context));
        all.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

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

    #[tokio::test]
    async fn both_loopback_addresses_have_the_same_port_and_no_other_address_has_it() {
        let bound = bind_loopback(0, 8).unwrap();
        let addresses: Vec<SocketAddr> = bound.iter().map(|it| it.local_addr().unwrap()).collect();
        assert_eq!(addresses[0].ip(), Ipv4Addr::LOCALHOST);
        for address in &addresses {
            assert_eq!(address.port(), addresses[0].port());
            let client = TcpStream::connect(address).unwrap();
            let (_, peer) = accept_any(&bound, "test").await;
            assert_eq!(peer, client.local_addr().unwrap());
        }
        let elsewhere: SocketAddr = ([127, 0, 0, 2], addresses[0].port()).into();
        assert!(TcpStream::connect(elsewhere).is_err());
    }

    #[tokio::test]
    async fn a_loopback_port_that_is_taken_in_one_family_is_taken() {
        let Ok(v6) = bind_one((Ipv6Addr::LOCALHOST, 0).into(), 8) else {
            return;
        };
        let port = v6.local_addr().unwrap().port();
        let error = bind_loopback(port, 8).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
