//! Which endpoint would take a request, and why no other: the same path reading and the same
//! decision as for real requests.

use dataplane_core::{Explanation, Query};
use dataplane_protocol::Dialect;
use dialect::{
    path,
    scope::Scope,
    surface::{self, Surface},
};
use http::{HeaderMap, Method};

use crate::{proxy::ProxyError, state::Shared};

/// For a POST of `model` to `path`, as a client would send it. Where a GET of `path` is answered
/// without a backend, that is said instead: nobody posts there.
pub(crate) fn ask(shared: &Shared, asked: &str, model: Option<&str>) -> Explanation {
    let path = &*path::folded(asked);
    let path = &*path::normalised(path);
    if let Some(error) = ProxyError::of_path(path) {
        return refused(&error);
    }
    let headers = HeaderMap::new();
    let read = surface::of(&Method::GET, path, &headers);
    if let Some(what) = answered_here(&read) {
        return Explanation::without_backend(None, format!("{path} is answered here: {what}"));
    }
    match surface::of(&Method::POST, path, &headers) {
        Surface::Forward(to) => {
            let scope = Scope::new(&Method::POST, to.path);
            shared.explain(&Query {
                permits: Some(&|endpoint| scope.permits(endpoint)),
                ..bare_query(path, model, to.prefix, to.dialect)
            })
        }
        Surface::OneBackendOnly { path, .. } => refused(&ProxyError::NotImplemented {
            what: path.to_owned(),
        }),
        _ => refused(&ProxyError::NotFound {
            path: path.to_owned(),
        }),
    }
}

fn answered_here(surface: &Surface<'_>) -> Option<&'static str> {
    match surface {
        Surface::Models { .. } => Some("the models that the backends list, no backend is asked"),
        Surface::Model { .. } => Some("one model of those that the backends list"),
        Surface::Root | Surface::Admin(_) => Some("the data plane tells about itself"),
        Surface::Forward(_) | Surface::OneBackendOnly { .. } | Surface::Unknown => None,
    }
}

fn refused(error: &ProxyError) -> Explanation {
    Explanation::without_backend(
        Some(error.reason()),
        format!("not a path that goes to a backend: {error}"),
    )
}

/// A query without headers, as `explain` asks it.
pub(crate) fn bare_query<'a>(
    path: &'a str,
    model: Option<&'a str>,
    prefix: Option<&'a str>,
    dialect: Option<Dialect>,
) -> Query<'a> {
    Query {
        path,
        header: &|_| None,
        model,
        prefix,
        dialect,
        permits: None,
    }
}
