//! What one request was and how it ended: written once, as one log line and in the metrics,
//! when it is dropped. A client that leaves drops it early.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane_core::{Cause, Outcome};
use dataplane_protocol::table::Route;
use http::{HeaderValue, Method, StatusCode};

use super::{Caller, upstream::Upstream};
use crate::{
    metrics::{ReasonLabels, RequestLabels},
    state::Shared,
};

#[derive(Debug)]
pub(super) struct Account {
    pub caller: Rc<Caller>,
    pub id: HeaderValue,
    pub method: Method,
    /// For the log. A copy: a part of the request's head would keep all of its buffer for as
    /// long as the answer streams.
    path: Box<str>,
    pub started: Instant,
    pub model: Option<String>,
    pub stream: bool,
    pub route: Option<Arc<Route>>,
    pub upstream: Option<Rc<Upstream>>,
    pub attempts: u32,
    pub first_byte: Option<Instant>,
    stage: Stage,
}

/// How far a request is. If it gets no further, its client left.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Waiting,
    /// The answer has begun.
    Answering {
        status: StatusCode,
    },
    Ended {
        status: StatusCode,
        at: Instant,
        /// Why the answer is not whole, or none of a backend's.
        reason: Option<&'static str>,
    },
}

impl Account {
    pub(super) fn new(caller: Rc<Caller>, id: HeaderValue, method: Method, path: &str) -> Self {
        caller.connection.request_begins();
        let logged = caller.shared().settings.access_log;
        let path = if logged { path.into() } else { Box::default() };
        Self {
            caller,
            id,
            method,
            path,
            started: Instant::now(),
            model: None,
            stream: false,
            route: None,
            upstream: None,
            attempts: 0,
            first_byte: None,
            stage: Stage::Waiting,
        }
    }

    /// A backend's answer has begun.
    pub(super) fn answering(&mut self, status: StatusCode, now: Instant) {
        self.first_byte = Some(now);
        self.stage = Stage::Answering { status };
    }

    /// Answered here, whole.
    pub(super) fn answered_here(&mut self, status: StatusCode) {
        self.end(status, Instant::now(), None);
    }

    pub(super) fn refused(&mut self, status: StatusCode, reason: &'static str) {
        self.end(status, Instant::now(), Some(reason));
    }

    /// An answer that had begun broke off.
    pub(super) fn broke_off(&mut self, now: Instant, reason: &'static str) {
        if let Stage::Answering { status } = self.stage {
            self.end(status, now, Some(reason));
        }
    }

    fn end(&mut self, status: StatusCode, at: Instant, reason: Option<&'static str>) {
        self.stage = Stage::Ended { status, at, reason };
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        self.caller.shared()
    }

    pub(super) fn request_id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// The answer of `upstream` is here whole.
    pub(super) fn answered(&mut self, upstream: &Upstream, outcome: &Outcome, now: Instant) {
        self.attempt_ended(upstream, outcome);
        if let Stage::Answering { status } = self.stage {
            self.end(status, now, None);
        }
    }

    /// Counts the end of an attempt at `upstream`.
    pub(super) fn attempt_ended(&self, upstream: &Upstream, outcome: &Outcome) {
        upstream.count_attempt(self.shared(), outcome.label());
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let (code, ended, reason) = match self.stage {
            Stage::Ended { status, at, reason } => (status.as_u16(), at, reason),
            Stage::Waiting | Stage::Answering { .. } => {
                let left = Cause::ClientLeft;
                (left.status(), Instant::now(), Some(left.label()))
            }
        };
        let route = self.route.as_ref().map(|route| &route.id);
        let shared = self.caller.shared();
        let metrics = &shared.metrics;
        let took = ended.saturating_duration_since(self.started);
        match (&self.upstream, route) {
            (Some(upstream), Some(route)) => {
                upstream.count_request(shared, route, code);
                upstream.duration.observe(took.as_secs_f64());
                if let Some(first) = self.first_byte {
                    upstream
                        .first_token
                        .observe((first - self.started).as_secs_f64());
                }
            }
            _ => {
                let route = route.map(ToString::to_string).unwrap_or_default();
                let labels = RequestLabels {
                    route,
                    llm_endpoint: String::new(),
                    code,
                };
                metrics.requests.get_or_create(&labels).inc();
                if let (Stage::Ended { .. }, Some(reason)) = (self.stage, reason) {
                    let labels = ReasonLabels { reason };
                    metrics.refusals.get_or_create(&labels).inc();
                }
            }
        }
        if shared.settings.access_log {
            self.log(code, reason.unwrap_or_default(), took);
        }
        self.caller.connection.request_ended();
    }
}

impl Account {
    fn log(&self, status: u16, reason: &str, took: Duration) {
        let endpoint = self
            .upstream
            .as_ref()
            .map_or("", |u| u.info.endpoint.id.as_str());
        let instance = self
            .upstream
            .as_ref()
            .map_or("", |u| u.info.instance.id.as_str());
        tracing::info!(
            target: "olla::request",
            id = self.request_id(),
            method = self.method.as_str(),
            path = &*self.path,
            route = self.route.as_ref().map_or("", |route| route.id.as_str()),
            model = self.model.as_deref().unwrap_or_default(),
            stream = self.stream,
            endpoint,
            instance,
            attempts = self.attempts,
            status,
            reason,
            first_byte_us =
                self.first_byte.map(|at| (at - self.started).as_micros() as u64),
            took_us = took.as_micros() as u64,
            "request"
        );
    }
}
