//! Which headers pass, in both directions, and what is added.

use dialect::{
    headers::{self, Towards},
    stream::Framing,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri, Version,
    header::{
        CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, FORWARDED, HOST,
        LOCATION, VIA,
    },
    uri::PathAndQuery,
};
use http1::{Head, Length, Lines};

use super::upstream::Upstream;
use crate::backend::address::Address;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

static VIA_HTTP_1: HeaderValue = HeaderValue::from_static("1.1 olla");
static VIA_HTTP_2: HeaderValue = HeaderValue::from_static("2.0 olla");
static HTTP: HeaderValue = HeaderValue::from_static("http");
static HTTPS: HeaderValue = HeaderValue::from_static("https");

/// How a request came here.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathHere<'a> {
    /// The client's IP address.
    pub peer: &'a HeaderValue,
    pub uri: &'a Uri,
    pub version: Version,
    /// It came by TLS.
    pub secure: bool,
}

impl PathHere<'_> {
    fn proto(&self) -> &'static HeaderValue {
        if self.secure { &HTTPS } else { &HTTP }
    }
}

/// Adds a client's headers as the backend at `address` gets them, but for the body's length.
pub(super) fn for_backend(
    lines: &mut Lines,
    address: &Address,
    client: &HeaderMap,
    here: &PathHere<'_>,
    request_id: &HeaderValue,
) {
    lines.add(&HOST, &address.host);
    lines.add(&REQUEST_ID, request_id);
    if let Some((name, value)) = &address.credential {
        lines.add(name, value);
    }
    // Mostly there is none: then nothing has to be looked up.
    let named = if client.contains_key(CONNECTION) {
        named_by_connection(client)
    } else {
        Vec::new()
    };
    let mut earlier_hops = false;
    for (name, value) in client {
        match headers::towards_backend(name.as_str()) {
            Towards::Pass if !named.contains(name) && !address.is_credential(name) => {
                lines.add(name, value);
            }
            Towards::Hops => earlier_hops = true,
            Towards::Pass | Towards::Drop => {}
        }
    }
    let via = if here.version == Version::HTTP_2 {
        &VIA_HTTP_2
    } else {
        &VIA_HTTP_1
    };
    if earlier_hops {
        add_hops(lines, via, client, &named, here);
        return;
    }
    lines.add(&VIA, via);
    lines.add(&FORWARDED_FOR, here.peer);
    lines.add(&FORWARDED_PROTO, here.proto());
    if let Some(host) = host(client, here) {
        lines.add(&FORWARDED_HOST, &host);
    }
}

/// What the client called us; HTTP/2 has it in the URI.
fn host(client: &HeaderMap, here: &PathHere<'_>) -> Option<HeaderValue> {
    let authority = || HeaderValue::from_str(here.uri.authority()?.as_str()).ok();
    client.get(HOST).cloned().or_else(authority)
}

/// This hop after those that the client tells of.
fn add_hops(
    lines: &mut Lines,
    via: &HeaderValue,
    client: &HeaderMap,
    named: &[HeaderName],
    here: &PathHere<'_>,
) {
    lines.add(&VIA, &joined(client, &VIA, via));
    let hops = joined(client, &FORWARDED_FOR, here.peer);
    lines.add(&FORWARDED_FOR, &hops);
    if client.contains_key(FORWARDED) {
        // Whoever reads it must not take an earlier hop for the last one (RFC 7239).
        let peer = here.peer.to_str().unwrap_or("unknown");
        let peer = if peer.contains(':') {
            format!("\"[{peer}]\"")
        } else {
            peer.to_owned()
        };
        if let Ok(hop) = HeaderValue::try_from(format!("for={peer}")) {
            lines.add(&FORWARDED, &joined(client, &FORWARDED, &hop));
        }
    }
    let first = |name| client.get(&name).filter(|_| !named.contains(&name));
    let proto = first(FORWARDED_PROTO).unwrap_or(here.proto());
    lines.add(&FORWARDED_PROTO, proto);
    let told = first(FORWARDED_HOST).cloned();
    if let Some(host) = told.or_else(|| host(client, here)) {
        lines.add(&FORWARDED_HOST, &host);
    }
}

/// Turns a redirect to the backend itself into one that comes here: `prefix` is what the client
/// put before the backend's path. A redirect elsewhere passes.
pub(super) fn locate(headers: &mut HeaderMap, upstream: &Upstream, prefix: &str) {
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else {
        return;
    };
    let Ok(uri) = location.parse::<Uri>() else {
        return;
    };
    let elsewhere = uri
        .authority()
        .is_some_and(|to| upstream.address.host != to.as_str());
    let Some(path) = uri.path_and_query().map(PathAndQuery::as_str) else {
        return;
    };
    if elsewhere || !path.starts_with('/') {
        return;
    }
    let base = &upstream.info.endpoint.base_path;
    let path = path.strip_prefix(base.as_str()).unwrap_or(path);
    if let Ok(location) = HeaderValue::try_from(format!("{prefix}{path}")) {
        headers.insert(LOCATION, location);
    }
}

/// What a backend's headers say of its answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BodyKind {
    pub framing: Framing,
    /// HTTP marks the end of the body.
    pub bounded: bool,
}

/// A backend's headers, looked through once.
#[derive(Debug, Default)]
pub(super) struct Backend {
    pub kind: BodyKind,
    pub content_type: Option<HeaderValue>,
    pub content_length: Option<HeaderValue>,
    pub date: Option<HeaderValue>,
    /// What else may reach a client.
    pub others: Vec<(HeaderName, HeaderValue)>,
}

impl Backend {
    pub(super) fn new(head: Head, upstream: &Upstream) -> Self {
        let mut backend = Self {
            kind: BodyKind {
                bounded: head.length != Length::UntilClose,
                framing: Framing::Opaque,
            },
            ..Self::default()
        };
        let mut others = head.headers;
        let named = others
            .iter()
            .filter(|(name, _)| *name == CONNECTION)
            .flat_map(|(_, line)| names(line))
            .collect::<Vec<_>>();
        let mut encoded = false;
        others.retain_mut(|(name, value)| {
            let place = if *name == CONTENT_TYPE {
                &mut backend.content_type
            } else if *name == CONTENT_LENGTH {
                &mut backend.content_length
            } else if *name == DATE {
                &mut backend.date
            } else {
                encoded |= *name == CONTENT_ENCODING;
                return headers::reaches_client(name.as_str())
                    && !upstream.address.is_credential(name)
                    && !named.contains(name);
            };
            *place = Some(std::mem::replace(value, NOTHING));
            false
        });
        backend.others = others;
        if head.length == Length::Chunked {
            // Beside chunks it means nothing.
            backend.content_length = None;
        }
        let kind = backend.content_type.as_ref().map(HeaderValue::to_str);
        if let Some(Ok(kind)) = kind
            && !encoded
        {
            backend.kind.framing = Framing::of(kind);
        }
        backend
    }
}

const NOTHING: HeaderValue = HeaderValue::from_static("");

pub(super) fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter();
    lines.flat_map(names).collect()
}

fn names(line: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    let line = line.to_str().unwrap_or_default();
    line.split(',')
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
}

/// All lines of `name` as one that ends with `value`.
fn joined(headers: &HeaderMap, name: &HeaderName, value: &HeaderValue) -> HeaderValue {
    let old = headers.get_all(name).iter();
    let mut list: Vec<&str> = old.filter_map(|line| line.to_str().ok()).collect();
    if list.is_empty() {
        return value.clone();
    }
    list.extend(value.to_str());
    HeaderValue::try_from(list.join(", ")).unwrap_or_else(|_| value.clone())
}

/// The client's own id if it is 1 to 128 printable characters, else a fresh one. A copy: a part
/// of the request's head would keep all of its buffer for as long as the answer streams.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let usable = |value: &&HeaderValue| {
        (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let id = match headers.get(REQUEST_ID).filter(usable) {
        Some(id) => HeaderValue::from_bytes(id.as_bytes()),
        None => HeaderValue::from_bytes(&fresh_id()),
    };
    id.unwrap_or(HeaderValue::from_static("unknown"))
}

/// 128 random bits, in hexadecimal.
fn fresh_id() -> [u8; 32] {
    let mut digits = [0; 32];
    let mut bits = fastrand::u128(..);
    for digit in &mut digits {
        let half = (bits & 15) as u8;
        *digit = if half < 10 {
            b'0' + half
        } else {
            b'a' + half - 10
        };
        bits >>= 4;
    }
    digits
}

#[cfg(test)]
mod tests {
    use http::{Method, header::ACCEPT};

    use super::*;

    fn cleaned(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let client: HeaderMap = pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        sent(&client)
    }

    fn sent(client: &HeaderMap) -> HeaderMap {
        let peer = HeaderValue::from_static("10.0.0.9");
        let here = PathHere {
            peer: &peer,
            uri: &Uri::default(),
            version: Version::HTTP_11,
            secure: false,
        };
        let address = Address::new(HeaderValue::from_static("backend"), None);
        let id = HeaderValue::from_static("id");
        let mut lines = Lines::new(&Method::POST, &["/"]);
        for_backend(&mut lines, &address, client, &here, &id);
        let text = String::from_utf8(lines.end(&Method::GET, Some(0))).unwrap();
        let head = text.trim_end().split("\r\n").skip(1);
        let lines = head.map(|line| line.split_once(": ").unwrap());
        lines
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<Vec<(HeaderName, HeaderValue)>>()
            .into_iter()
            .collect()
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
    fn headers_pass_with_all_their_lines() {
        let client = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("a"))]);
        let mut twice = client.clone();
        twice.append(ACCEPT, HeaderValue::from_static("b"));
        for client in [client, twice] {
            let expected: Vec<_> = client.get_all(ACCEPT).iter().collect();
            let got = sent(&client);
            assert_eq!(got.get_all(ACCEPT).iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn connection_cannot_name_what_is_ours() {
        let headers = cleaned(&[
            (
                "connection",
                "x-request-id, via, host, x-forwarded-for, accept",
            ),
            ("accept", "*/*"),
        ]);
        for name in ["x-request-id", "via", "host", "x-forwarded-for"] {
            assert!(headers.contains_key(name), "{name}");
        }
        assert!(!headers.contains_key("accept"));
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
