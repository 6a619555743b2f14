//! Which headers pass, in both directions, and what is added.

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri, Version,
    header::{CONNECTION, FORWARDED, HOST, LOCATION, VIA},
    uri::PathAndQuery,
};

use crate::upstream::Upstream;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Between two hops only (RFC 9110, 7.6.1).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// A client's credentials are for us, if for anyone: backends get those of their endpoint.
fn is_credential(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "proxy-authorization"
            | "cookie"
            | "api-key"
            | "x-api-key"
            | "x-auth-token"
            | "x-goog-api-key"
    )
}

/// What is written anew for each backend.
fn is_ours(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "via"
            | "expect"
            | "content-length"
            | "forwarded"
            | "x-forwarded-for"
            | "x-request-id"
    )
}

/// A client's headers as a backend gets them. The length of the body is not among them: hyper's
/// client writes it from the body itself.
pub(super) fn for_backend(
    client: &HeaderMap,
    here: &PathHere<'_>,
    request_id: &HeaderValue,
    upstream: &Upstream,
) -> HeaderMap {
    let mut headers = passed_on(client);
    add_path(&mut headers, client, here);
    headers.append(REQUEST_ID, request_id.clone());
    headers.append(HOST, upstream.authority.clone());
    if let Some((name, value)) = &upstream.credential {
        headers.insert(name.clone(), value.clone());
    }
    headers
}

/// What of a client's headers is neither between two hops, nor its credential, nor ours.
fn passed_on(client: &HeaderMap) -> HeaderMap {
    let named = named_by_connection(client);
    let mut headers = HeaderMap::with_capacity(client.keys_len() + 4);
    for (name, value) in client {
        let text = name.as_str();
        if !is_hop_by_hop(text) && !is_credential(text) && !is_ours(text) && !named.contains(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

/// How the request came here.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathHere<'a> {
    /// The client's IP address.
    pub peer: &'a HeaderValue,
    pub uri: &'a Uri,
    pub version: Version,
}

fn add_path(headers: &mut HeaderMap, client: &HeaderMap, here: &PathHere<'_>) {
    headers.append(FORWARDED_FOR, joined(client, &FORWARDED_FOR, here.peer));
    let via = if here.version == Version::HTTP_2 {
        "2.0 olla"
    } else {
        "1.1 olla"
    };
    headers.append(VIA, joined(client, &VIA, &HeaderValue::from_static(via)));
    if client.contains_key(FORWARDED) {
        // Whoever reads it must not take an earlier hop for the last one (RFC 7239).
        let peer = here.peer.to_str().unwrap_or("unknown");
        let peer = if peer.contains(':') {
            format!("\"[{peer}]\"")
        } else {
            peer.to_owned()
        };
        if let Ok(hop) = HeaderValue::try_from(format!("for={peer}")) {
            headers.append(FORWARDED, joined(client, &FORWARDED, &hop));
        }
    }
    // HTTP/2 has it in the URI.
    let authority = || HeaderValue::from_str(here.uri.authority()?.as_str()).ok();
    if let Some(host) = client.get(HOST).cloned().or_else(authority) {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
    let proto = headers.entry(FORWARDED_PROTO);
    proto.or_insert(HeaderValue::from_static("http"));
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
        .is_some_and(|to| upstream.authority != to.as_str());
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

/// Adds to `headers` what of a backend's headers may reach a client.
pub(super) fn for_client(headers: &mut HeaderMap, backend: &HeaderMap, upstream: &Upstream) {
    let credential = upstream.credential.as_ref().map(|(name, _)| name);
    let named = named_by_connection(backend);
    for (name, value) in backend {
        let text = name.as_str();
        let dropped = is_hop_by_hop(text)
            || is_credential(text)
            || text == "set-cookie"
            // A backend that is itself an Olla must not speak for us.
            || text.starts_with("x-olla-")
            || matches!(text, "x-request-id" | "x-served-by")
            || credential == Some(name)
            || named.contains(name);
        if !dropped {
            headers.append(name.clone(), value.clone());
        }
    }
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect()
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
            let digits = fastrand::u128(..).to_ne_bytes().map(|byte| {
                let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('0') as u8;
                [digit(byte >> 4), digit(byte & 15)]
            });
            let id = HeaderValue::from_bytes(digits.as_flattened());
            id.unwrap_or(HeaderValue::from_static("unknown"))
        })
}

#[cfg(test)]
mod tests {
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
        let mut headers = passed_on(&client);
        let peer = HeaderValue::from_static("10.0.0.9");
        let here = PathHere {
            peer: &peer,
            uri: &Uri::default(),
            version: Version::HTTP_11,
        };
        add_path(&mut headers, &client, &here);
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
