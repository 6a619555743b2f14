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
mod call;
mod flight;
mod headers;
mod intake;
mod models;
mod relay;
pub(crate) mod respond;
mod surface;

use std::rc::Rc;

use http::{Method, Request, Response};
use hyper::body::Incoming;

use self::{account::Account, call::Call};
pub(crate) use self::{
    body::{OutBody, Outgoing},
    headers::Template,
    respond::Stamps,
    surface::{Surface, of as surface_of, refuse_ambiguous},
};
use crate::{admin, downstream::Downstream, error::ProxyError};

/// What a request is answered with.
pub(crate) type Answered = Response<OutBody>;

/// Answers one request. Never fails: what goes wrong is an answer too.
pub(crate) async fn handle(from: Rc<Downstream>, req: Request<Incoming>) -> Answered {
    let shared = &from.shared;
    let (head, body) = req.into_parts();
    let (uri, method, version) = (head.uri, head.method, head.version);
    let surface = surface::of(&method, uri.path(), &head.headers);
    if let Surface::Admin(path) = surface {
        return admin::answer(shared, &method, path, uri.query().unwrap_or_default());
    }
    let id = headers::request_id(&head.headers);
    let client = surface.client(uri.path());
    // Boxed: it goes from phase to phase.
    let account = Box::new(Account::new(from.clone(), id, method.clone(), uri.path()));
    if let Some(error) = surface::refuse_ambiguous(uri.path()) {
        return respond::error(account, client, &error);
    }
    if method == Method::TRACE || method == Method::CONNECT {
        let error = ProxyError::MethodNotAllowed { method };
        return respond::error(account, client, &error);
    }
    match surface {
        Surface::Forward(to) => {
            let call = Call {
                from: &from,
                method,
                version,
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
        Surface::Model { shape, id, prefix } => models::one(account, client, shape, id, prefix),
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
