//! One request, in phases: what does the path ask for → read and scan the body → pick an
//! instance → try it, and others while nothing has gone out → relay its answer.
//!
//! The decisions are asked of the fleet ([`Shared`]); this carries them out.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod account;
mod attempt;
mod body;
mod flight;
mod headers;
mod intake;
mod models;
mod relay;
pub(crate) mod respond;
mod surface;

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dataplane_core::{Cause, Failure, InstanceKey, Outcome, Pick, Query, Refusal};
use dataplane_protocol::Dialect;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri, header::RETRY_AFTER, uri::PathAndQuery,
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use translate::stream::Framing;

use self::{
    account::Account,
    attempt::{Answer, Failed},
    flight::Flight,
    intake::Intake,
    relay::{Broken, Relay, Terms},
    surface::Forward,
};
pub(crate) use self::{
    body::Outgoing,
    respond::Stamp,
    surface::{Surface, of as surface_of},
};
use crate::{
    admin,
    error::ProxyError,
    metrics::ReasonLabels,
    state::Shared,
    upstream::{Upstream, Upstreams},
};

/// What a request is answered with.
pub(crate) type Answered = Response<OutBody>;

/// A client's connection, and what its requests need.
#[derive(Debug)]
pub(crate) struct Downstream {
    pub shared: Arc<Shared>,
    pub upstreams: Rc<Upstreams>,
    /// The client's IP address, as `X-Forwarded-For` has it.
    pub address: HeaderValue,
}

/// Answers one request. Never fails: what goes wrong is an answer too.
pub(crate) async fn handle(from: Rc<Downstream>, req: Request<Incoming>) -> Answered {
    let shared = &from.shared;
    let (head, body) = req.into_parts();
    let (uri, method) = (head.uri, head.method);
    let surface = surface::of(&method, uri.path(), &head.headers);
    if let Surface::Admin(path) = surface {
        return admin::answer(shared, &method, path, uri.query().unwrap_or_default());
    }
    let id = headers::request_id(&head.headers);
    let client = surface.client(uri.path());
    // Boxed: it goes from phase to phase.
    let account = Box::new(Account::new(shared.clone(), id, method.clone(), uri.path()));
    if surface::is_ambiguous(uri.path()) {
        let error = ProxyError::BadRequest {
            reason: "ambiguous_path",
            message: "the path has . or .. segments: send it without".to_owned(),
        };
        return respond::error(account, client, &error);
    }
    match surface {
        Surface::Forward(to) => {
            let call = Call {
                from: &from,
                method,
                uri: &uri,
                to,
                headers: head.headers,
            };
            call.forward(account, body).await
        }
        Surface::Models {
            shape,
            prefix,
            dialect,
        } => models::list(account, shape, prefix, dialect),
        Surface::Model { shape, id } => models::one(account, client, shape, id),
        Surface::OneBackendOnly { path, client } => {
            let error = ProxyError::NotImplemented {
                what: path.to_owned(),
            };
            respond::error(account, client, &error)
        }
        Surface::Admin(_) | Surface::Unknown => {
            let error = ProxyError::NotFound {
                path: uri.path().to_owned(),
            };
            respond::error(account, client, &error)
        }
    }
}

/// A request that goes to a backend.
struct Call<'a> {
    from: &'a Downstream,
    method: Method,
    uri: &'a Uri,
    to: Forward<'a>,
    /// As the client sent them: routes match on these.
    headers: HeaderMap,
}

impl Call<'_> {
    async fn forward(&self, mut account: Box<Account>, body: Incoming) -> Answered {
        let client = self.to.client;
        let mut intake = match intake::read(&self.from.shared, body).await {
            Ok(intake) => intake,
            Err(error) => return respond::error(account, client, &error),
        };
        account.model = intake.facts.model.take();
        account.stream = intake.facts.stream.unwrap_or(self.streams_by_default());
        match self.attempts(&mut account, intake).await {
            Ok((answer, pick)) => self.relay(account, answer, pick),
            Err(error) => respond::error(account, client, &error),
        }
    }

    /// Ollama streams unless told not to.
    fn streams_by_default(&self) -> bool {
        self.to.client == Dialect::Ollama && matches!(self.to.path, "/api/chat" | "/api/generate")
    }

    /// Tries instance after instance until one answers or nothing is left to try.
    async fn attempts(
        &self,
        account: &mut Account,
        intake: Intake,
    ) -> Result<(Answer, Picked), ProxyError> {
        let (model, id) = (account.model.clone(), account.id.clone());
        let header = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        let query = Query {
            path: self.uri.path(),
            header: &header,
            model: model.as_deref(),
            prefix: self.to.prefix,
            dialect: self.to.dialect,
        };
        let pick = self.from.shared.pick(&query).map_err(|refusal| {
            // No table yet: nobody knows what there is.
            if refusal == Refusal::NoRoute && self.from.shared.source().revision.is_none() {
                let retry_after = Duration::from_secs(1);
                return ProxyError::Unavailable { retry_after };
            }
            let what = self.to.prefix.map(|prefix| format!("/olla/{prefix}"));
            ProxyError::refused(
                &refusal,
                model.as_deref(),
                what.as_deref().unwrap_or_default(),
            )
        })?;
        let replayable = intake.is_replayable();
        let body = RefCell::new(intake);
        let mut picked = self.picked(account, pick);
        let deadline = picked.timeout().map(|limit| account.started + limit);
        let mut tried: Vec<InstanceKey> = Vec::new();
        loop {
            let make = || self.request(&picked.upstream, &id, &mut body.borrow_mut());
            let timeouts = &picked.route.timeouts;
            let attempt =
                attempt::run(&picked.upstream, timeouts, account.stream, replayable, make);
            let result = tokio::select! {
                biased;
                result = attempt => result,
                () = attempt::deadline(deadline) => {
                    let limit = picked.timeout().unwrap_or_default();
                    return Err(ProxyError::RequestTimeout { limit });
                }
            };
            let (cause, outcome, answer) = match result {
                Err(Failed { cause, outcome }) => (cause, outcome, None),
                Ok(answer) => match judge(&answer) {
                    Some((cause, outcome)) => (cause, outcome, Some(answer)),
                    None => return Ok((answer, picked)),
                },
            };
            tried.push(picked.upstream.info.key);
            let next = replayable
                .then(|| self.from.shared.retry(&query, &tried, cause))
                .flatten();
            match (next, answer) {
                (Some(next), _) => {
                    account
                        .shared
                        .metrics
                        .failovers
                        .get_or_create(&reason(cause))
                        .inc();
                    account.attempt_ended(&picked.upstream, &outcome);
                    picked.flight.finish(outcome);
                    picked = self.picked(account, next);
                }
                // Nobody else: the client gets this backend's own answer.
                (None, Some(answer)) => {
                    picked.outcome = outcome;
                    return Ok((answer, picked));
                }
                (None, None) => {
                    account.attempt_ended(&picked.upstream, &outcome);
                    picked.flight.finish(outcome);
                    return Err(failed(cause, picked.name()));
                }
            }
        }
    }

    fn picked(&self, account: &mut Account, pick: Pick) -> Picked {
        let upstream = self.from.upstreams.of(&pick.instance);
        account.attempts = pick.attempt;
        account.route = Some(pick.route.clone());
        account.upstream = Some(upstream.clone());
        Picked {
            upstream,
            flight: Flight::new(self.from.shared.clone(), pick.ticket),
            route: pick.route,
            tier: pick.tier,
            decision: pick.decision.as_str(),
            outcome: Outcome::Success,
        }
    }

    /// The request as this backend gets it.
    fn request(
        &self,
        upstream: &Upstream,
        id: &HeaderValue,
        intake: &mut Intake,
    ) -> Request<Outgoing> {
        let endpoint = &upstream.info.endpoint;
        let mut path = String::with_capacity(self.uri.path().len() + 32);
        path.push_str(&endpoint.base_path);
        path.push_str(self.to.path);
        if let Some(query) = self.uri.query() {
            path.push('?');
            path.push_str(query);
        }
        let body = if intake.is_replayable() {
            Outgoing::new(intake.body.chunks.clone(), None)
        } else {
            Outgoing::new(std::mem::take(&mut intake.body.chunks), intake.rest.take())
        };
        let mut req = Request::new(body);
        *req.method_mut() = self.method.clone();
        // The client's own path was a valid one, and so is the table's base path.
        *req.uri_mut() = PathAndQuery::try_from(path)
            .map(Uri::from)
            .unwrap_or_default();
        *req.headers_mut() =
            headers::for_backend(&self.headers, &self.from.address, self.uri, id, upstream);
        req
    }

    /// The first byte is here: from now on nothing can be tried elsewhere.
    fn relay(&self, mut account: Box<Account>, answer: Answer, picked: Picked) -> Answered {
        let Answer {
            mut head,
            first,
            body,
            connection,
        } = answer;
        account.first_byte = Some(Instant::now());
        account.status = head.status.as_u16();
        let header = |name| {
            head.headers
                .get(name)
                .and_then(|v: &HeaderValue| v.to_str().ok())
        };
        let framing = match header(http::header::CONTENT_TYPE) {
            Some(kind) if !head.headers.contains_key(http::header::CONTENT_ENCODING) => {
                Framing::of(kind)
            }
            _ => Framing::Opaque,
        };
        let until_close = !head.headers.contains_key(http::header::CONTENT_LENGTH)
            && !head.headers.contains_key(http::header::TRANSFER_ENCODING);
        let terms = Terms {
            outcome: picked.outcome,
            client: self.to.client,
            framing,
            until_close: until_close && framing != Framing::Opaque,
            idle: Duration::from_millis(picked.route.timeouts.stream_idle_ms),
            deadline: picked.timeout().map(|limit| account.started + limit),
        };
        head.headers = respond::routed(
            &head.headers,
            &account,
            &picked.upstream,
            picked.tier,
            picked.decision,
        );
        let relay = Relay::new(
            first,
            body,
            connection,
            picked.upstream,
            picked.flight,
            account,
            terms,
        );
        let mut rsp = Response::new(OutBody::Relay(Box::new(relay)));
        *rsp.status_mut() = head.status;
        *rsp.headers_mut() = head.headers;
        rsp
    }
}

/// An attempt's instance and what goes with it.
struct Picked {
    upstream: Rc<Upstream>,
    flight: Flight,
    route: Arc<dataplane_protocol::table::Route>,
    tier: u32,
    decision: &'static str,
    /// What its answer counts as, if it ends whole.
    outcome: Outcome,
}

impl Picked {
    fn name(&self) -> &str {
        self.upstream.info.endpoint.id.as_str()
    }

    fn timeout(&self) -> Option<Duration> {
        self.route.timeouts.request_ms.map(Duration::from_millis)
    }
}

/// What an answer's status says, where it says something other than success.
fn judge(answer: &Answer) -> Option<(Cause, Outcome)> {
    let status = answer.head.status.as_u16();
    let after = answer.head.headers.get(RETRY_AFTER);
    let outcome = match status {
        429 => Outcome::Saturated {
            retry_after: after.and_then(seconds),
        },
        503 if after.is_some() => Outcome::Saturated {
            retry_after: after.and_then(seconds),
        },
        500.. => Outcome::Failure(Failure::Status(status)),
        _ => return None,
    };
    Some((Cause::Status(status), outcome))
}

/// `Retry-After` in seconds; dates are rare and mean the default.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    value
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_secs)
}

fn reason(cause: Cause) -> ReasonLabels {
    ReasonLabels {
        reason: cause.label(),
    }
}

fn failed(cause: Cause, endpoint: &str) -> ProxyError {
    let endpoint = endpoint.to_owned();
    match cause {
        Cause::ConnectFailure | Cause::ConnectTimeout => ProxyError::ConnectFailure { endpoint },
        Cause::FirstTokenTimeout | Cause::Unhealthy => ProxyError::FirstTokenTimeout { endpoint },
        Cause::Reset | Cause::Status(_) => ProxyError::Reset { endpoint },
    }
}

/// Bodies of answers: ours, or a backend's.
#[derive(Debug)]
pub(crate) enum OutBody {
    Whole(Option<Bytes>),
    Relay(Box<Relay>),
}

impl OutBody {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relay(relay) => Pin::new(&mut **relay).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Relay(relay) => relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Relay(relay) => relay.size_hint(),
        }
    }
}
