//! Which endpoint would take a request, and why no other: the same path reading and the same
//! decision as for real requests.

use dataplane_core::Explanation;
use http::{HeaderMap, Method};

use crate::{
    admin::bare_query,
    proxy::{Surface, surface_of},
    state::Shared,
};

/// For a POST of `model` to `path`, as a client would send it.
pub(crate) fn ask(shared: &Shared, path: &str, model: Option<&str>) -> Explanation {
    let headers = HeaderMap::new();
    let (prefix, dialect) = match surface_of(&Method::POST, path, &headers) {
        Surface::Forward(to) => (to.prefix, to.dialect),
        _ => (None, None),
    };
    shared.explain(&bare_query(path, model, prefix, dialect))
}
