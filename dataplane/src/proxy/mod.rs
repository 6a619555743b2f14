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
mod answer;
mod arrival;
mod attempt;
mod call;
mod chunks;
mod error;
mod flight;
mod headers;
mod intake;
mod kept;
mod linger;
mod listings;
mod models;
mod pace;
mod relay;
pub(crate) mod respond;
mod template;
mod upload;
mod upstream;
mod worker;

use std::{rc::Rc, sync::Arc};

use dataplane_protocol::Dialect;
use dialect::{
    path,
    scope::Scope,
    surface::{self, Surface},
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Version,
    header::{CONNECTION, CONTENT_LENGTH},
};
use hyper::body::Incoming;

use self::{account::Account, call::Call};
pub(crate) use self::{
    answer::OutBody,
    error::ProxyError,
    worker::{Caller, Worker},
};
use crate::{
    client::{connection::Connection, listener::Service},
    state::Shared,
};

/// What a request is answered with.
pub(crate) type Answered = Response<OutBody>;

/// Who asks for one of the data plane's own pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// By the admin listener.
    Admin,
    /// By the port of all clients, from this machine.
    Local,
    /// By that port, from elsewhere: told of endpoints, not where they are.
    Remote,
}

/// What answers for the data plane's own pages, by path and query.
pub(crate) type Pages = fn(&Arc<Shared>, Asker, &Method, &str, &str) -> Answered;

impl Service for Worker {
    type Caller = Caller;
    type Body = OutBody;

    fn caller(self: &Rc<Self>, connection: &Rc<Connection>) -> Rc<Caller> {
        Rc::new(Caller {
            connection: connection.clone(),
            worker: self.clone(),
        })
    }

    fn answer(
        caller: Rc<Caller>,
        req: Request<Incoming>,
    ) -> impl Future<Output = Answered> + 'static {
        handle(caller, req)
    }

    fn tidy(&self) {
        self.upstreams.tidy();
    }
}

/// Answers one request.
///
/// Not an `async fn`: those keep what they take twice.
fn handle(caller: Rc<Caller>, req: Request<Incoming>) -> impl Future<Output = Answered> {
    let (head, body) = req.into_parts();
    let (method, uri, version) = (head.method, head.uri, head.version);
    let headers = head.headers;
    async move {
        let came = &*path::folded(uri.path());
        let path = &*path::normalised(came);
        let surface = surface::of(&method, path, &headers);
        if let Surface::Admin(path) = surface
            && arrival::has_its_host(&headers, version)
        {
            // No account counts it, but the connection is not idle.
            caller.connection.request_begins();
            let query = uri.query().unwrap_or_default();
            let answer =
                (caller.worker.pages)(caller.shared(), asker(&caller), &method, path, query);
            caller.connection.request_ended();
            return finished(answer, &caller, &method, version);
        }
        let id = headers::request_id(&headers);
        let client = surface.client(path);
        // Boxed: it goes from phase to phase.
        let account = Account::new(caller.clone(), id, method.clone(), uri.path());
        let account = Box::new(account);
        let answer = match permitted(&method, &headers, version, path, surface) {
            Ok(Surface::Forward(to)) => {
                let call = Call {
                    caller: &caller,
                    method: &method,
                    uri: &uri,
                    path,
                    asked: path::as_it_came(came, to.path),
                    version,
                    headers: &headers,
                    scope: Scope::new(&method, to.path),
                    to,
                };
                call.forward(account, body).await
            }
            surface => {
                linger::discard_unread(version, &headers, body);
                answered_here(account, client, path, surface)
            }
        };
        finished(answer, &caller, &method, version)
    }
}

fn asker(caller: &Caller) -> Asker {
    if caller.connection.share.address().is_loopback() {
        Asker::Local
    } else {
        Asker::Remote
    }
}

/// What no backend is asked for.
fn answered_here(
    account: Box<Account>,
    client: Dialect,
    path: &str,
    surface: Result<Surface<'_>, ProxyError>,
) -> Answered {
    match surface {
        Ok(Surface::Root) => respond::text(account, "Ollama is running"),
        Ok(Surface::Models {
            shape,
            prefix,
            dialect,
        }) => models::list(account, shape, prefix, dialect),
        Ok(Surface::Model { shape, id, prefix }) => models::one(account, client, shape, id, prefix),
        Ok(Surface::OneBackendOnly { path, client }) => {
            let what = path.to_owned();
            respond::error(account, client, &ProxyError::NotImplemented { what })
        }
        Ok(Surface::Forward(_) | Surface::Admin(_) | Surface::Unknown) => {
            let path = path.to_owned();
            respond::error(account, client, &ProxyError::NotFound { path })
        }
        Err(error) => respond::error(account, client, &error),
    }
}

/// The answer as this connection needs it.
fn finished(mut answer: Answered, caller: &Caller, method: &Method, version: Version) -> Answered {
    if caller.connection.is_leaving() && version != Version::HTTP_2 {
        // Told before it is closed, the client writes nothing more into it.
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    without_body_for_head(answer, method, version)
}

/// hyper keeps a body of ours from an answer to HEAD on HTTP/1 only.
fn without_body_for_head(mut answer: Answered, method: &Method, version: Version) -> Answered {
    if *method == Method::HEAD
        && version == Version::HTTP_2
        && let OutBody::Whole(body) = answer.body_mut()
        && let Some(body) = body.take()
    {
        let length = answer.headers_mut().entry(CONTENT_LENGTH);
        length.or_insert_with(|| HeaderValue::from(body.len()));
    }
    answer
}

fn permitted<'a>(
    method: &Method,
    headers: &HeaderMap,
    version: Version,
    path: &str,
    surface: Surface<'a>,
) -> Result<Surface<'a>, ProxyError> {
    if let Some(error) = ProxyError::of_path(path) {
        return Err(error);
    }
    if *method == Method::TRACE || *method == Method::CONNECT {
        let method = method.clone();
        return Err(ProxyError::MethodNotAllowed { method });
    }
    match arrival::refuse(headers, version) {
        Some(error) => Err(error),
        None => Ok(surface),
    }
}
