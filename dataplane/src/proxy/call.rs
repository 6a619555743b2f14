//! A request that goes to a backend: pick an instance, try it and others while nothing has gone
//! out, then hand its answer to the relay.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane_core::{Cause, InstanceKey, Outcome, Pick, Query, Refusal};
use dataplane_protocol::{
    Dialect,
    table::{Endpoint, Route},
};
use dialect::{operation::Operation, scope::Scope, stream::Framing, surface::Forward};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version};
use http1::Lines;
use hyper::body::Incoming;
use tokio::time::sleep_until;

use super::{
    Answered, Caller,
    account::Account,
    answer,
    attempt::{self, Answer, Message},
    error::ProxyError,
    flight::Flight,
    headers::{self, Backend},
    intake::{self, Intake},
    relay::Terms,
    respond,
    upload::{Outgoing, Progress, Upload},
    upstream::Upstream,
};
use crate::metrics::ReasonLabels;

/// A request that goes to a backend.
pub(super) struct Call<'a> {
    pub caller: &'a Rc<Caller>,
    pub method: &'a Method,
    pub uri: &'a Uri,
    /// The URI's, normalised.
    pub path: &'a str,
    /// What the backend is asked for, byte for byte as the client wrote it.
    pub asked: &'a str,
    pub version: Version,
    /// As the client sent them: routes match on these.
    pub headers: &'a HeaderMap,
    pub to: Forward<'a>,
    pub scope: Scope<'a>,
}

impl Call<'_> {
    pub(super) async fn forward(&self, mut account: Box<Account>, body: Incoming) -> Answered {
        let client = self.to.client;
        let mut intake = match intake::read(self.caller, self.version, self.headers, body).await {
            Ok(intake) => intake,
            Err(error) => return respond::error(account, client, &error),
        };
        account.model = intake.facts.model.take();
        account.stream = intake.facts.stream.unwrap_or(self.streams_by_default());
        let upload = Upload::new(intake.is_replayable());
        let answer = self.attempts(&mut account, &intake, &upload).await;
        match answer {
            Ok((answer, picked)) => {
                drop(intake);
                self.relay(account, answer, picked, upload)
            }
            Err(error) => {
                intake.discard_rest(self.version);
                respond::error(account, client, &error)
            }
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
        intake: &Intake,
        upload: &Upload,
    ) -> Result<(Box<Answer>, Picked), ProxyError> {
        let (model, id) = (account.model.clone(), account.id.clone());
        let header = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        let permits = |endpoint: &Endpoint| self.scope.permits(endpoint);
        let query = Query {
            path: self.path,
            header: &header,
            model: model.as_deref(),
            prefix: self.to.prefix,
            dialect: self.to.dialect,
            permits: (!self.scope.is_for_all()).then_some(&permits),
        };
        let shared = self.caller.shared();
        let mut began = Instant::now();
        let pick = shared.pick(&query, began).map_err(|refusal| {
            // No table yet: nobody knows what there is.
            if refusal == Refusal::NoRoute && shared.source().revision.is_none() {
                let retry_after = Duration::from_secs(1);
                return ProxyError::Unavailable { retry_after };
            }
            if refusal == Refusal::NotPermitted
                && let Some(denied) = self.scope.denied()
            {
                return ProxyError::denied(denied, self.to.path);
            }
            let what = self.to.prefix.map(|prefix| format!("/olla/{prefix}"));
            ProxyError::refused(
                &refusal,
                model.as_deref(),
                what.as_deref().unwrap_or_default(),
            )
        })?;
        let replayable = intake.is_replayable();
        let mut picked = self.picked(account, pick);
        let deadline = picked.timeout().map(|limit| account.started + limit);
        // Boxed: rare, and large.
        let mut deadline = deadline.map(|at| Box::pin(sleep_until(at.into())));
        let mut tried: Vec<InstanceKey> = Vec::new();
        loop {
            let operation = self.operation_at(&picked);
            // It changes nothing, so that nobody minds if it runs twice.
            let repeatable = self.method.is_safe() || operation == Operation::Inference;
            let make = || {
                let body = intake.outgoing(upload)?;
                Some(self.message(&picked.upstream, &id, body))
            };
            let terms = attempt::Terms {
                timeouts: &picked.route.timeouts,
                stream: account.stream,
                upload,
                repeatable: replayable && repeatable,
                outages: picked.flight.outages(),
                began,
            };
            let attempt = attempt::run(&picked.upstream, &terms, make);
            let result = tokio::select! {
                biased;
                result = attempt => result,
                () = attempt::reached(&mut deadline) => {
                    let limit = picked.timeout().unwrap_or_default();
                    return Err(ProxyError::RequestTimeout { limit });
                }
            };
            if result.is_err()
                && let Some(error) = self.clients_fault(upload)
            {
                // The flight ends as cancelled: nothing of this says anything of the backend.
                return Err(error);
            }
            let (cause, outcome, answer) = match result {
                Err(cause) => (cause, cause.outcome(), None),
                Ok(answer) => match attempt::judge(&answer) {
                    Some((cause, outcome)) => (cause, outcome, Some(answer)),
                    None => return Ok((answer, picked)),
                },
            };
            tried.push(picked.upstream.info.key);
            // A request runs once, unless running it twice does no harm.
            let again = cause.is_unsent() || replayable && (repeatable || !cause.may_have_run());
            let next = again
                .then(|| picked.flight.retry(&query, &tried, cause))
                .flatten();
            match (next, answer) {
                (Some(next), refused) => {
                    if let Some(answer) = refused {
                        picked
                            .upstream
                            .pool
                            .put_back_unread(answer.connection, Instant::now());
                    }
                    account
                        .shared()
                        .metrics
                        .failovers
                        .get_or_create(&ReasonLabels {
                            reason: cause.label(),
                        })
                        .inc();
                    account.attempt_ended(&picked.upstream, &outcome);
                    picked.flight.finish(outcome, Instant::now());
                    began = Instant::now();
                    picked = self.picked(account, next);
                }
                // Nobody else: the client gets this backend's own answer.
                (None, Some(answer)) => {
                    picked.outcome = outcome;
                    return Ok((answer, picked));
                }
                (None, None) => {
                    account.attempt_ended(&picked.upstream, &outcome);
                    picked.flight.finish(outcome, Instant::now());
                    let endpoint = picked.name().to_owned();
                    return Err(ProxyError::Upstream { cause, endpoint });
                }
            }
        }
    }

    fn operation_at(&self, picked: &Picked) -> Operation {
        self.scope.operation_at(&picked.upstream.info.endpoint)
    }

    /// A client that did not send its body to the end.
    fn clients_fault(&self, upload: &Upload) -> Option<ProxyError> {
        match upload.progress() {
            Progress::Passing | Progress::Awaited | Progress::Whole => None,
            Progress::Left => {
                let message = "the client aborted the request body".to_owned();
                Some(intake::bad(Cause::BodyUnreadable.code(), message))
            }
            Progress::Stalled => Some(ProxyError::BodyTimeout {
                limit: self.caller.shared().settings.body_idle,
            }),
        }
    }

    fn picked(&self, account: &mut Account, pick: Pick) -> Picked {
        let upstream = self.caller.worker.upstreams.of(&pick.instance);
        account.attempts = pick.attempt;
        account.route = Some(pick.route.clone());
        account.upstream = Some(upstream.clone());
        Picked {
            upstream,
            flight: Flight::new(self.caller.clone(), pick.ticket),
            route: pick.route,
            tier: pick.tier,
            decision: pick.decision.as_str(),
            outcome: Outcome::Success,
        }
    }

    /// The request as this backend gets it.
    fn message(&self, upstream: &Upstream, id: &HeaderValue, body: Outgoing) -> Message {
        let base = upstream.info.endpoint.base_path.as_str();
        let mut head = match self.uri.query() {
            Some(query) => Lines::new(self.method, &[base, self.asked, "?", query]),
            None => Lines::new(self.method, &[base, self.asked]),
        };
        let here = headers::PathHere {
            peer: &self.caller.connection.address,
            uri: self.uri,
            version: self.version,
            secure: self.caller.connection.secure,
        };
        headers::for_backend(&mut head, &upstream.address, self.headers, &here, id);
        Message {
            method: self.method.clone(),
            head,
            body,
        }
    }

    /// The first byte is here: from now on nothing can be tried elsewhere.
    fn relay(
        &self,
        mut account: Box<Account>,
        answer: Box<Answer>,
        picked: Picked,
        upload: Upload,
    ) -> Answered {
        let Answer {
            head,
            first,
            connection,
        } = *answer;
        let now = Instant::now();
        account.answering(head.status, now);
        let upstream = &picked.upstream;
        let status = head.status;
        let backend = Backend::new(head, upstream);
        let kind = backend.kind;
        let (tier, decision) = (picked.tier, picked.decision);
        let mut headers = respond::routed(backend, &account, upstream, tier, decision, now);
        if status.is_redirection() || status == StatusCode::CREATED {
            let prefix = self.path.strip_suffix(self.to.path);
            headers::locate(&mut headers, upstream, prefix.unwrap_or_default());
        }
        let terms = Terms {
            outcome: picked.outcome,
            upload,
            client: self.to.client,
            http_2: self.version == Version::HTTP_2,
            framing: kind.framing,
            inference: self.operation_at(&picked) == Operation::Inference,
            // Errors that are sent as events have no last word.
            until_close: !kind.bounded
                && kind.framing != Framing::Opaque
                && status == StatusCode::OK,
            idle: Duration::from_millis(picked.route.timeouts.stream_idle_ms),
            deadline: picked.timeout().map(|limit| account.started + limit),
            now,
        };
        let (upstream, mut flight) = (picked.upstream, picked.flight);
        flight.commit();
        let body = answer::of_backend(first, connection, upstream, flight, account, terms);
        let mut rsp = Response::new(body);
        *rsp.status_mut() = status;
        *rsp.headers_mut() = headers;
        rsp
    }
}

/// An attempt's instance and what goes with it.
struct Picked {
    upstream: Rc<Upstream>,
    flight: Flight,
    route: Arc<Route>,
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
