//! `health`: asks a data plane on this machine whether it is healthy, for images without a shell or
//! an HTTP client of their own.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::HealthArgs;

/// Its answers are a hundred bytes long; more is somebody else's.
const LONGEST_ANSWER: usize = 64 << 10;

pub(super) fn health(args: &HealthArgs) -> Result<ExitCode> {
    let addr = reachable(args.admin_listen.unwrap_or(args.listen.addr));
    let path = match (args.ready, args.started) {
        (true, _) => "/internal/ready",
        (_, true) => "/internal/started",
        _ => "/internal/health",
    };
    let limit = Duration::from_secs(args.timeout_seconds);
    ask(addr, path, limit).with_context(|| format!("GET http://{addr}{path}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Where something that listens on `listen` is reached from its own machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, listen.port())
}

/// An error unless the answer is 200, whole, and there within `limit` after the connection.
fn ask(addr: SocketAddr, path: &str, limit: Duration) -> Result<()> {
    let mut stream = connect(addr, limit).context("connect")?;
    let deadline = Instant::now() + limit;
    stream.set_write_timeout(Some(limit))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("ask")?;
    let answer = read(&mut stream, deadline)
        .context("read the answer (does this port speak TLS? then use --admin-listen)")?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1);
    ensure!(
        head.starts_with("HTTP/1.1 ") && status.is_some(),
        "no HTTP answer (does this port speak TLS? then use --admin-listen)"
    );
    ensure!(status == Some("200"), "{}: {body}", status.unwrap_or("?"));
    Ok(())
}

/// All that comes until the other side closes.
fn read(stream: &mut TcpStream, deadline: Instant) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "it takes too long");
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(answer);
        }
        answer.extend(piece.iter().take(count));
        ensure!(answer.len() <= LONGEST_ANSWER, "it is too long");
    }
}

/// `[::]` is IPv4 alone on machines without IPv6.
fn connect(addr: SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&addr, limit).or_else(|error| {
        if addr.ip() != Ipv6Addr::LOCALHOST {
            return Err(error);
        }
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port()));
        TcpStream::connect_timeout(&addr, limit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_all_interfaces_is_asked_at_this_machine() {
        for (listen, asked) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:2", "[::1]:2"),
            ("10.0.0.7:3", "10.0.0.7:3"),
        ] {
            let (listen, asked): (SocketAddr, SocketAddr) =
                (listen.parse().unwrap(), asked.parse().unwrap());
            assert_eq!(reachable(listen), asked);
        }
    }
}
