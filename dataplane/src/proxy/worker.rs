//! One thread's part of the data plane: what its requests share, and who asks.

use std::{rc::Rc, sync::Arc};

use super::{Pages, listings::Listings, upstream::Upstreams};
use crate::{client::connection::Connection, state::Shared};

/// What answers requests on one thread, with connections to the backends of its own.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) upstreams: Upstreams,
    pub(super) listings: Listings,
    pub(super) pages: Pages,
}

/// Who asks: a client's connection, with what its requests need of this process.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(super) connection: Rc<Connection>,
    pub(super) worker: Rc<Worker>,
}

impl Caller {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.worker.shared
    }
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, pages: Pages) -> Self {
        Self {
            upstreams: Upstreams::new(shared.clone()),
            listings: Listings::default(),
            shared,
            pages,
        }
    }
}
