//! What a client still sends after it was refused. If the connection were closed with some of it
//! unread, the kernel would reset it, and the client, busy sending, would never see why.

use std::time::Duration;

use http::{HeaderMap, Version, header::EXPECT};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

/// How long a refused client may go on sending, and how much.
const LIMIT: Duration = Duration::from_secs(2);
const MAX_BYTES: usize = 64 << 20;

/// Takes the rest of `body` and forgets it, beside the answer. The task ends with the body, the
/// client, or a limit; the connection is closed then, or serves on if all has come.
pub(super) fn discard(version: Version, mut body: Incoming) {
    // A stream of HTTP/2 is reset by itself.
    if version == Version::HTTP_2 || body.is_end_stream() {
        return;
    }
    let all = async move {
        let mut left = MAX_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, bytes::Bytes::len);
            let Some(less) = left.checked_sub(length) else {
                return;
            };
            left = less;
        }
    };
    tokio::task::spawn_local(tokio::time::timeout(LIMIT, all));
}

/// The same for a request of which nothing has been read: one that waits to be told to go on
/// sends nothing.
pub(super) fn discard_unread(version: Version, headers: &HeaderMap, body: Incoming) {
    if !headers.contains_key(EXPECT) {
        discard(version, body);
    }
}
