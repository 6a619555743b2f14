//! How an instance is addressed.

use http::{HeaderName, HeaderValue};

/// What requests to one instance carry of ours.
#[derive(Debug)]
pub(crate) struct Address {
    pub host: HeaderValue,
    pub credential: Option<(HeaderName, HeaderValue)>,
}

impl Address {
    pub(crate) fn new(host: HeaderValue, credential: Option<(HeaderName, HeaderValue)>) -> Self {
        Self { host, credential }
    }

    /// Whether ours goes under this name.
    pub(crate) fn is_credential(&self, name: &HeaderName) -> bool {
        self.credential
            .as_ref()
            .is_some_and(|(ours, _)| ours == name)
    }
}
