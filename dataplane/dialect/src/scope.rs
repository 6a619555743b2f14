//! Which endpoints take a request, by what it asks for. A credential is for inference and lists of
//! models unless its endpoint says otherwise, and no pool changes the store of one server. Both
//! are judged by what the backend sees: the path of the endpoint's URL and the request's together.

use std::cell::RefCell;

use dataplane_protocol::{
    EndpointId,
    table::{Credential, Endpoint, PathScope},
};
use http::Method;

use crate::{operation::Operation, surface};

/// One request's question to each endpoint.
#[derive(Debug)]
pub struct Scope<'a> {
    method: &'a Method,
    /// As a backend without a path in its URL sees it, normalised.
    path: &'a str,
    operation: Operation,
    /// All endpoints take it, whatever their URL and credential.
    for_all: bool,
    /// Why the first endpoint that does not take it does not.
    denied: RefCell<Option<Denied>>,
}

/// Why an endpoint does not take a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It would change the store of one server.
    Store,
    /// The credential of this endpoint is not for it.
    Credential(EndpointId),
}

impl<'a> Scope<'a> {
    pub fn new(method: &'a Method, path: &'a str) -> Self {
        let operation = Operation::of(method.as_str(), path);
        Self {
            method,
            path,
            operation,
            for_all: !operation.depends_on_base(path),
            denied: RefCell::default(),
        }
    }

    /// All endpoints take it, whatever their URL and credential.
    pub fn is_for_all(&self) -> bool {
        self.for_all
    }

    /// What it asks this endpoint for.
    pub fn operation_at(&self, endpoint: &Endpoint) -> Operation {
        if self.for_all || endpoint.base_path.is_empty() {
            return self.operation;
        }
        Operation::below(&endpoint.base_path, self.method.as_str(), self.path)
    }

    pub fn permits(&self, endpoint: &Endpoint) -> bool {
        let denied = || self.denied_at(endpoint);
        let Some(reason) = (!self.for_all).then(denied).flatten() else {
            return true;
        };
        self.denied.borrow_mut().get_or_insert(reason);
        false
    }

    fn denied_at(&self, endpoint: &Endpoint) -> Option<Denied> {
        let base = endpoint.base_path.as_str();
        if !base.is_empty() && surface::changes_store(&[base, self.path].concat()) {
            return Some(Denied::Store);
        }
        let is_other = || self.operation_at(endpoint) == Operation::Other;
        (is_guarded(endpoint) && is_other()).then(|| Denied::Credential(endpoint.id.clone()))
    }

    /// Why an endpoint that was asked about does not take it, if one does not.
    pub fn denied(&self) -> Option<Denied> {
        self.denied.take()
    }
}

/// Its credential is for inference and lists of models alone.
fn is_guarded(endpoint: &Endpoint) -> bool {
    !matches!(endpoint.credential, Credential::None) && endpoint.paths == PathScope::Inference
}
