//! Which headers pass, in both directions, and what is added.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
};

use crate::upstream::Upstream;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Between two hops only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// A client's credentials are for us, if for anyone: backends get those of their endpoint.
const CLIENTS_OWN: [HeaderName; 5] = [
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-auth-token"),
];

/// Turns a client's headers into those that any backend gets.
pub(super) fn clean_request(
    headers: &mut HeaderMap,
    peer: IpAddr,
    uri: &Uri,
    request_id: &HeaderValue,
) {
    drop_hop_by_hop(headers);
    for name in &CLIENTS_OWN {
        headers.remove(name);
    }
    headers.remove(EXPECT);
    // The client of hyper writes it from the body's exact length.
    headers.remove(CONTENT_LENGTH);
    append(headers, &FORWARDED_FOR, &peer.to_canonical().to_string());
    // HTTP/2 has it in the URI.
    let authority = || HeaderValue::from_str(uri.authority()?.as_str()).ok();
    if let Some(host) = headers.get(HOST).cloned().or_else(authority) {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
    headers
        .entry(FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));
    append(headers, &VIA, "1.1 olla");
    headers.insert(REQUEST_ID, request_id.clone());
}

/// What one backend gets beyond that; done for each attempt.
pub(super) fn address_to(headers: &mut HeaderMap, upstream: &Upstream) {
    headers.insert(HOST, upstream.authority.clone());
    if let Some((name, value)) = &upstream.credential {
        headers.insert(name.clone(), value.clone());
    }
}

/// Takes what must not reach a client out of a backend's headers.
pub(super) fn clean_response(headers: &mut HeaderMap, upstream: &Upstream) {
    drop_hop_by_hop(headers);
    headers.remove(SET_COOKIE);
    for name in &CLIENTS_OWN {
        headers.remove(name);
    }
    if let Some((name, _)) = &upstream.credential {
        headers.remove(name);
    }
    // A backend that is itself an Olla must not speak for us.
    let theirs: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-olla-"))
        .cloned()
        .collect();
    for name in theirs {
        headers.remove(name);
    }
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let lines = headers.get_all(CONNECTION).iter();
    let named: Vec<HeaderName> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Joins all lines of `name` into one that ends with `value`.
fn append(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    let old = headers.get_all(name).iter();
    let mut list: Vec<&str> = old.filter_map(|line| line.to_str().ok()).collect();
    list.push(value);
    if let Ok(joined) = HeaderValue::try_from(list.join(", ")) {
        headers.insert(name, joined);
    }
}

/// The client's own id if it is 1 to 128 printable characters, else a fresh one.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let usable = |value: &&HeaderValue| {
        (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers
        .get(REQUEST_ID)
        .filter(usable)
        .cloned()
        .unwrap_or_else(|| {
            let id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
            HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("unknown"))
        })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn cleaned(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers: HeaderMap = pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        let id = HeaderValue::from_static("r-1");
        clean_request(
            &mut headers,
            IpAddr::from(Ipv4Addr::new(10, 0, 0, 9)),
            &Uri::default(),
            &id,
        );
        headers
    }

    #[test]
    fn what_connection_names_is_dropped_with_the_hop_by_hop_headers() {
        let headers = cleaned(&[
            ("connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("te", "trailers"),
            ("proxy-connection", "keep-alive"),
            ("x-kept", "1"),
        ]);
        for name in ["connection", "x-secret-hop", "te", "proxy-connection"] {
            assert!(!headers.contains_key(name), "{name}");
        }
        assert_eq!(headers["x-kept"], "1");
    }

    #[test]
    fn a_clients_credentials_stay_here() {
        let headers = cleaned(&[
            ("authorization", "Bearer a"),
            ("x-api-key", "b"),
            ("cookie", "c"),
        ]);
        for name in ["authorization", "x-api-key", "cookie"] {
            assert!(!headers.contains_key(name), "{name}");
        }
    }

    #[test]
    fn the_peer_is_appended_to_what_earlier_hops_said() {
        let headers = cleaned(&[("x-forwarded-for", "9.9.9.9"), ("host", "a.example")]);
        assert_eq!(headers["x-forwarded-for"], "9.9.9.9, 10.0.0.9");
        assert_eq!(headers["x-forwarded-host"], "a.example");
        assert_eq!(headers["via"], "1.1 olla");
    }

    #[test]
    fn a_usable_request_id_is_adopted_and_another_replaced() {
        let with =
            |id: &'static str| HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static(id))]);
        assert_eq!(request_id(&with("abc-1")), "abc-1");
        assert_eq!(request_id(&with("has space")).len(), 32);
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
