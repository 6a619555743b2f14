//! Who asks: a client's connection, with what its requests need of this process.

use std::{rc::Rc, sync::Arc};

use super::{Pages, listings::Listings, upstream::Upstreams};
use crate::{client::connection::Connection, state::Shared};

/// What the requests of one connection share.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(super) connection: Rc<Connection>,
    pub(super) shared: Arc<Shared>,
    pub(super) upstreams: Rc<Upstreams>,
    pub(super) listings: Rc<Listings>,
    pub(super) pages: Pages,
}
