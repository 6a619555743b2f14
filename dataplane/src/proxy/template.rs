//! Headers that are made once and filled in for each message.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers that are made once, with blanks. Filling in a copy costs a third of making them anew,
/// because no name is looked up.
#[derive(Debug)]
pub(crate) struct Template(HeaderMap);

impl Template {
    /// No name may be there twice.
    pub(crate) fn new(
        blanks: impl IntoIterator<Item = HeaderName>,
        fixed: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Self {
        let blanks = blanks.into_iter();
        let blanks = blanks.map(|name| (name, HeaderValue::from_static("")));
        Self(blanks.chain(fixed).collect())
    }

    /// In the order of the blanks; those without a value are left out.
    pub(crate) fn filled(
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

/// Templates for the heads of one instance's answers, by what they depend on.
#[derive(Debug, Default)]
pub(crate) struct Templates(Vec<Entry>);

/// Of these there are few: an instance serves a few models, mostly in one tier, and sends the
/// same headers with all answers.
const MAX_TEMPLATES: usize = 32;

/// What the fixed headers of an answer depend on.
#[derive(Debug)]
pub(crate) struct Depends<'a> {
    pub tier: u32,
    pub decision: &'static str,
    pub attempts: u32,
    pub model: Option<&'a str>,
}

#[derive(Debug)]
struct Entry {
    tier: u32,
    decision: &'static str,
    attempts: u32,
    model: Option<String>,
    /// Names that the backend sends beside the usual ones.
    others: Vec<HeaderName>,
    template: Template,
}

impl Templates {
    /// `others` has no name twice.
    pub(crate) fn get(
        &mut self,
        depends: &Depends<'_>,
        others: &[(HeaderName, HeaderValue)],
        make: impl FnOnce(&[HeaderName]) -> Template,
    ) -> Option<&Template> {
        let known = self.0.iter().position(|entry| {
            (entry.tier, entry.attempts) == (depends.tier, depends.attempts)
                && entry.decision == depends.decision
                && entry.model.as_deref() == depends.model
                && entry.others.iter().eq(others.iter().map(|(name, _)| name))
        });
        let place = known.unwrap_or_else(|| {
            if self.0.len() == MAX_TEMPLATES {
                self.0.clear();
            }
            let others: Vec<_> = others.iter().map(|(name, _)| name.clone()).collect();
            self.0.push(Entry {
                tier: depends.tier,
                decision: depends.decision,
                attempts: depends.attempts,
                model: depends.model.map(str::to_owned),
                template: make(&others),
                others,
            });
            self.0.len() - 1
        });
        self.0.get(place).map(|entry| &entry.template)
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
        let template = Template::new(
            [VIA, FORWARDED_FOR, HOST, REQUEST_ID],
            [(ACCEPT, value("a")), (FORWARDED_PROTO, value("p"))],
        );
        let filled = template.filled([Some(value("v")), None, Some(value("h")), Some(value("i"))]);
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
