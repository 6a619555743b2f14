//! Model listings, answered from what the backends list.

use dataplane_protocol::Dialect;
use dialect::{
    listing::{self, ModelEntry, Shape},
    path,
};
use http::StatusCode;

use super::{Answered, account::Account, error::ProxyError, respond};

pub(super) fn list(
    account: Box<Account>,
    shape: Shape,
    prefix: Option<&str>,
    dialect: Option<Dialect>,
) -> Answered {
    let models = account
        .shared()
        .with_fleet(|fleet, _| fleet.models(prefix, dialect));
    let listed: Vec<_> = models
        .iter()
        .map(|model| ModelEntry {
            name: &model.name,
            endpoints: &model.endpoints,
        })
        .collect();
    let document = listing::render(shape, &listed, account.shared().clock.began_unix());
    done(account, document)
}

/// Ids may hold slashes, escaped or not: everything after the prefix is the id.
pub(super) fn one(
    account: Box<Account>,
    client: Dialect,
    shape: Shape,
    id: &str,
    prefix: Option<&str>,
) -> Answered {
    let id = path::decoded(id);
    let models = account
        .shared()
        .with_fleet(|fleet, _| fleet.models(prefix, None));
    let Some(model) = models.iter().find(|model| model.name.as_str() == id) else {
        let error = ProxyError::ModelNotFound {
            model: id.into_owned(),
        };
        return respond::error(account, client, &error);
    };
    let listed = ModelEntry {
        name: &model.name,
        endpoints: &model.endpoints,
    };
    let document = listing::openai(shape, &listed, account.shared().clock.began_unix());
    done(account, document.to_string().into_bytes())
}

fn done(mut account: Box<Account>, document: Vec<u8>) -> Answered {
    account.answered_here(StatusCode::OK);
    // Clients that leave it unread hold one copy together.
    let document = account.caller.worker.listings.shared(document);
    let mut rsp = respond::json(StatusCode::OK, document);
    respond::stamp(rsp.headers_mut(), &account);
    rsp
}
