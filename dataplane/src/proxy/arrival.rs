//! What a request's headers say against taking it at all, before anything of it costs something.

use http::{
    HeaderMap, Version,
    header::{HOST, UPGRADE, VIA},
};

use super::{error::ProxyError, headers::named_by_connection};

/// Times that a request may come here. Two sites that stand in for each other are no loop yet;
/// each further time costs as much as all before it.
const MAX_HOPS: usize = 4;

/// Why a request is refused for what its headers say of its way here.
pub(super) fn refuse(headers: &HeaderMap, version: Version) -> Option<ProxyError> {
    if !has_its_host(headers, version) {
        return Some(ProxyError::BadRequest {
            reason: "invalid_host",
            message: "an HTTP/1.1 request must have exactly one Host header".to_owned(),
        });
    }
    let hops = hops(headers);
    if hops >= MAX_HOPS {
        return Some(ProxyError::LoopDetected { hops });
    }
    upgrades(headers).then_some(ProxyError::UpgradeUnsupported)
}

/// RFC 9112, 3.2.
pub(super) fn has_its_host(headers: &HeaderMap, version: Version) -> bool {
    version != Version::HTTP_11 || headers.get_all(HOST).iter().count() == 1
}

/// How often the request has come through an Olla.
fn hops(headers: &HeaderMap) -> usize {
    let lines = headers.get_all(VIA).iter();
    let hops = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let by = |hop: &[u8]| {
        let words = hop.split(u8::is_ascii_whitespace);
        let mut words = words.filter(|word| !word.is_empty());
        words
            .nth(1)
            .is_some_and(|by| by.eq_ignore_ascii_case(b"olla"))
    };
    hops.filter(|hop| by(hop)).count()
}

/// Whether the client wants to speak something else than HTTP from here on. HTTP/2 in plain text
/// is an offer, which may be left; what `Connection` does not name is none (RFC 9110, 7.8).
fn upgrades(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(UPGRADE).iter();
    let mut protocols = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    protocols.any(|protocol| !protocol.trim_ascii().eq_ignore_ascii_case(b"h2c"))
        && named_by_connection(headers).contains(&UPGRADE)
}
