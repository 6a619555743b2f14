//! Bodies of answers on their way to the client.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use dialect::stream::Framing;
use http_body::{Body, Frame, SizeHint};

use super::{
    account::Account,
    flight::Flight,
    relay::{Broken, Relay, Terms},
    upstream::{Connection, Upstream},
};

/// Bodies of answers: ours, or a backend's.
#[derive(Debug)]
pub(crate) enum OutBody {
    Whole(Option<Bytes>),
    Relay(Box<Relay>),
    /// On HTTP/2, where a stream whose client takes nothing is polled no more: the regular look
    /// at all connections finds it.
    Watched(Rc<RefCell<Relay>>),
}

impl OutBody {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relay(relay) => Pin::new(&mut **relay).poll_frame(cx),
            Self::Watched(relay) => Pin::new(&mut *relay.borrow_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Relay(relay) => relay.is_end_stream(),
            Self::Watched(relay) => relay.borrow().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Relay(relay) => relay.size_hint(),
            Self::Watched(relay) => relay.borrow().size_hint(),
        }
    }
}

/// The body of an answer of which `first` is here.
pub(super) fn of_backend(
    first: Option<Bytes>,
    connection: Connection,
    upstream: Rc<Upstream>,
    mut flight: Flight,
    mut account: Box<Account>,
    terms: Terms,
) -> OutBody {
    // Most answers that are no streams are here by now: nothing is left to relay.
    let whole = terms.framing == Framing::Opaque && (first.is_none() || connection.is_done());
    if !whole {
        let relay = Relay::new(first, connection, upstream, flight, account, terms);
        if !relay.http_2 {
            return OutBody::Relay(Box::new(relay));
        }
        let caller = relay.account.caller.clone();
        let relay = Rc::new(RefCell::new(relay));
        caller.connection.watch(&relay);
        return OutBody::Watched(relay);
    }
    flight.finish(terms.outcome, terms.now);
    account.answered(&upstream, &terms.outcome, terms.now);
    upstream.pool.put_back(connection, terms.now);
    OutBody::whole(first.unwrap_or_default())
}
