//! Answers that are made here: errors, in the client's dialect, and JSON documents. The only
//! place where a [`ProxyError`] becomes a response.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dataplane_protocol::Dialect;
use dialect::{
    error::{ErrorBody, body},
    stream::Framing,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, RETRY_AFTER},
};

use super::{
    Answered, OutBody,
    account::Account,
    error::ProxyError,
    headers::{self, Backend},
    template::{Depends, Template},
    upstream::Upstream,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
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
    account.refused(error.status(), error.reason());
    let message = error.to_string();
    let document = body(
        client,
        &ErrorBody {
            status: error.status().as_u16(),
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

/// Ends the account with this text.
pub(super) fn text(mut account: Box<Account>, text: &'static str) -> Answered {
    account.answered_here(StatusCode::OK);
    let mut rsp = Response::new(OutBody::whole(Bytes::from_static(text.as_bytes())));
    rsp.headers_mut().insert(CONTENT_TYPE, TEXT);
    stamp(rsp.headers_mut(), &account);
    rsp
}

/// A document of ours.
pub(crate) fn json(status: StatusCode, document: impl Into<Bytes>) -> Answered {
    let mut rsp = Response::new(OutBody::whole(document.into()));
    *rsp.status_mut() = status;
    rsp.headers_mut().insert(CONTENT_TYPE, JSON);
    rsp
}

/// Headers that every answer of ours on the proxy's surface carries.
pub(super) fn stamp(headers: &mut HeaderMap, account: &Account) {
    headers.insert(SERVED_BY, HeaderValue::from_static(SERVED_BY_VALUE));
    headers.insert(STRATEGY, HeaderValue::from_static("strict"));
    headers.insert(ATTEMPTS, HeaderValue::from(account.attempts));
    headers.insert(OLLA_REQUEST_ID, account.id.clone());
    headers.insert(headers::REQUEST_ID, account.id.clone());
    if let Some(model) = account.model.as_deref().and_then(model_value) {
        headers.insert(MODEL, model);
    }
}

fn model_value(model: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(model).ok()
}

const SERVED_BY_VALUE: &str = concat!("olla/", env!("CARGO_PKG_VERSION"));

/// What every answer has a value of its own for; the backend's others come after them.
const BLANKS: [HeaderName; 6] = [
    CONTENT_TYPE,
    CONTENT_LENGTH,
    DATE,
    RESPONSE_TIME,
    OLLA_REQUEST_ID,
    headers::REQUEST_ID,
];

fn template(
    account: &Account,
    upstream: &Upstream,
    tier: u32,
    decision: &'static str,
    others: &[HeaderName],
) -> Template {
    let mut fixed = vec![
        (SERVED_BY, HeaderValue::from_static(SERVED_BY_VALUE)),
        (STRATEGY, HeaderValue::from_static("strict")),
        (ATTEMPTS, HeaderValue::from(account.attempts)),
        (ENDPOINT, upstream.endpoint.clone()),
        (BACKEND_TYPE, upstream.backend_type.clone()),
        (TIER, HeaderValue::from(tier)),
        (DECISION, HeaderValue::from_static("routed")),
        (REASON, HeaderValue::from_static(decision)),
    ];
    let model = account.model.as_deref().and_then(model_value);
    fixed.extend(model.map(|model| (MODEL, model)));
    Template::new(BLANKS.into_iter().chain(others.iter().cloned()), fixed)
}

/// The headers of an answer that `upstream` gave at `now`.
pub(super) fn routed(
    mut backend: Backend,
    account: &Account,
    upstream: &Upstream,
    tier: u32,
    decision: &'static str,
    now: Instant,
) -> HeaderMap {
    let mut templates = upstream.templates.borrow_mut();
    let took = now.saturating_duration_since(account.started);
    let mut others = std::mem::take(&mut backend.others);
    let further = without_blank(&mut others);
    let values = [
        backend.content_type.take(),
        // If a stream breaks, its last event is ours: the length would no longer be true.
        backend
            .content_length
            .take()
            .filter(|_| backend.kind.framing == Framing::Opaque),
        backend.date.take(),
        Some(milliseconds(took)),
        Some(account.id.clone()),
        Some(account.id.clone()),
    ];
    let depends = Depends {
        tier,
        decision,
        attempts: account.attempts,
        model: account.model.as_deref(),
    };
    let make = |others: &[HeaderName]| template(account, upstream, tier, decision, others);
    let template = templates.get(&depends, &others, make);
    let values = values
        .into_iter()
        .chain(others.into_iter().map(|(_, value)| Some(value)));
    let filled = template.map(|template| template.filled(values));
    let mut headers = filled.unwrap_or_default();
    for (name, value) in further {
        headers.append(name, value);
    }
    headers
}

/// Names of a backend's that a form has blanks for; sixteen are more than any sends.
const MAX_LEARNT: usize = 16;

/// Takes out what a form can have no blank for: lines whose name another has before them, and
/// those that are too many.
fn without_blank(others: &mut Vec<(HeaderName, HeaderValue)>) -> Vec<(HeaderName, HeaderValue)> {
    let mut known: Vec<HeaderName> = Vec::new();
    others
        .extract_if(.., |(name, _)| {
            let again = known.len() == MAX_LEARNT || known.contains(name);
            if !again {
                known.push(name.clone());
            }
            again
        })
        .collect()
}

/// As Olla writes it: `12ms`.
fn milliseconds(took: Duration) -> HeaderValue {
    let whole = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let text = [itoa::Buffer::new().format(whole), "ms"].concat();
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_times_are_whole_milliseconds() {
        for (took, text) in [
            (Duration::from_micros(900), "0ms"),
            (Duration::from_micros(1_700), "1ms"),
            (Duration::from_secs(90), "90000ms"),
            (Duration::MAX, "18446744073709551615ms"),
        ] {
            assert_eq!(milliseconds(took), text);
        }
    }
}
