//! Answers that are made here: errors, in the client's dialect, and JSON documents. The only
//! place where a [`ProxyError`] becomes a response.

use bytes::Bytes;
use dataplane_protocol::Dialect;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use translate::error::{ErrorBody, body};

use super::{Answered, OutBody, account::Account, headers};
use crate::{error::ProxyError, upstream::Upstream};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OLLA_REQUEST_ID: HeaderName = HeaderName::from_static("x-olla-request-id");
const STRATEGY: HeaderName = HeaderName::from_static("x-olla-routing-strategy");
const DECISION: HeaderName = HeaderName::from_static("x-olla-routing-decision");
const REASON: HeaderName = HeaderName::from_static("x-olla-routing-reason");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-olla-attempts");
const MODEL: HeaderName = HeaderName::from_static("x-olla-model");
const ENDPOINT: HeaderName = HeaderName::from_static("x-olla-endpoint");
const BACKEND_TYPE: HeaderName = HeaderName::from_static("x-olla-backend-type");
const TIER: HeaderName = HeaderName::from_static("x-olla-tier");
const RESPONSE_TIME: HeaderName = HeaderName::from_static("x-olla-response-time");
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

/// Ends the account with this error.
pub(super) fn error(mut account: Box<Account>, client: Dialect, error: &ProxyError) -> Answered {
    account.status = error.status().as_u16();
    account.reason = error.reason();
    account.ended = true;
    let message = error.to_string();
    let document = body(
        client,
        &ErrorBody {
            status: account.status,
            reason: error.reason(),
            message: &message,
            request_id: account.request_id(),
        },
    );
    let mut rsp = json(error.status(), document);
    let headers = rsp.headers_mut();
    stamp(headers, &account);
    headers.insert(DECISION, HeaderValue::from_static("rejected"));
    headers.insert(REASON, HeaderValue::from_static(error.reason()));
    if let Some(after) = error.retry_after() {
        // Whole seconds, rounded up: a client that comes back too early comes in vain.
        headers.insert(
            RETRY_AFTER,
            HeaderValue::from(after.as_millis().div_ceil(1000) as u64),
        );
    }
    rsp
}

/// A document of ours.
pub(crate) fn json(status: StatusCode, document: Vec<u8>) -> Answered {
    let mut rsp = Response::new(OutBody::whole(Bytes::from(document)));
    *rsp.status_mut() = status;
    rsp.headers_mut().insert(CONTENT_TYPE, JSON);
    rsp
}

/// Headers that every answer on the proxy's surface carries.
pub(super) fn stamp(headers: &mut HeaderMap, account: &Account) {
    stamp_request(headers, account);
    headers.insert(SERVED_BY, HeaderValue::from_static(SERVED_BY_VALUE));
    headers.insert(STRATEGY, HeaderValue::from_static("strict"));
    headers.insert(ATTEMPTS, HeaderValue::from(account.attempts));
}

/// Those of them that differ from request to request.
fn stamp_request(headers: &mut HeaderMap, account: &Account) {
    headers.insert(OLLA_REQUEST_ID, account.id.clone());
    headers.insert(super::headers::REQUEST_ID, account.id.clone());
    if let Some(model) = account
        .model
        .as_deref()
        .and_then(|m| HeaderValue::from_str(m).ok())
    {
        headers.insert(MODEL, model);
    }
}

const SERVED_BY_VALUE: &str = concat!("olla/", env!("CARGO_PKG_VERSION"));

/// Headers of a backend's answer as the client gets them. Most of ours are the same for each
/// request that an instance gets by one route, so they are copied from `upstream.stamp`.
pub(super) fn routed(
    backend: &HeaderMap,
    account: &Account,
    upstream: &Upstream,
    tier: u32,
    decision: &'static str,
) -> HeaderMap {
    let mut stamp = upstream.stamp.borrow_mut();
    let mut headers = match &*stamp {
        Some(stamp) if stamp.tier == tier && stamp.decision == decision => stamp.headers.clone(),
        _ => {
            let headers = fixed(upstream, tier, decision);
            *stamp = Some(Stamp {
                tier,
                decision,
                headers: headers.clone(),
            });
            headers
        }
    };
    if account.attempts != 1 {
        headers.insert(ATTEMPTS, HeaderValue::from(account.attempts));
    }
    stamp_request(&mut headers, account);
    let took = format!("{}ms", account.started.elapsed().as_millis() as u64);
    if let Ok(took) = HeaderValue::try_from(took) {
        headers.insert(RESPONSE_TIME, took);
    }
    headers::for_client(&mut headers, backend, upstream);
    headers
}

/// What [`routed`] made last for an instance.
#[derive(Debug)]
pub(crate) struct Stamp {
    tier: u32,
    decision: &'static str,
    headers: HeaderMap,
}

fn fixed(upstream: &Upstream, tier: u32, decision: &'static str) -> HeaderMap {
    // Room for a backend's own headers: a copy keeps the size of the index.
    let mut headers = HeaderMap::with_capacity(20);
    headers.insert(SERVED_BY, HeaderValue::from_static(SERVED_BY_VALUE));
    headers.insert(STRATEGY, HeaderValue::from_static("strict"));
    headers.insert(ATTEMPTS, HeaderValue::from_static("1"));
    headers.insert(ENDPOINT, upstream.endpoint.clone());
    headers.insert(BACKEND_TYPE, upstream.backend_type.clone());
    headers.insert(TIER, HeaderValue::from(tier));
    headers.insert(DECISION, HeaderValue::from_static("routed"));
    headers.insert(REASON, HeaderValue::from_static(decision));
    headers
}
