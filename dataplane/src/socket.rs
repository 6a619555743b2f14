//! How long the kernel waits for a peer that is gone without a word. One rule for both sides:
//! clients and backends.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Asks a peer that is silent whether it is still there.
const KEEP_ALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// Cuts the connection when the peer takes nothing of what was sent to it for `limit`, or does not
/// say for about as long that it is there. Both are needed: a question is only asked while nothing
/// sent is unacknowledged, and what is sent is sent again for a quarter of an hour otherwise.
pub(crate) fn watch(stream: &TcpStream, limit: Duration) {
    let socket = SockRef::from(stream);
    // Refused by no system that has them; without, its own longer limits hold.
    let _ = socket.set_tcp_keepalive(&KEEP_ALIVE);
    // Elsewhere (a developer's macOS) there is none.
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(limit));
    #[cfg(not(target_os = "linux"))]
    let _ = limit;
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Only a host that loses its power shows it in full; here is what the kernel was told.
    #[tokio::test]
    async fn the_kernel_gives_up_a_peer_that_is_gone_whether_or_not_something_was_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stream = TcpStream::connect(addr).await.unwrap();
        let limit = Duration::from_secs(60);
        watch(&stream, limit);
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(limit));
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(30)
        );
    }
}
