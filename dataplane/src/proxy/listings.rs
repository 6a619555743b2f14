//! Listings of models as they were last written: a long one that many clients leave unread is in
//! memory once.

use std::cell::RefCell;

use bytes::Bytes;

/// A few shapes, of all endpoints or of one type.
const KEPT: usize = 8;

/// Shorter ones are not worth a comparison.
const SHORT: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Listings(RefCell<Vec<Bytes>>);

impl Listings {
    /// `document`, or the copy of it that others hold.
    pub(super) fn shared(&self, document: Vec<u8>) -> Bytes {
        if document.len() < SHORT {
            return document.into();
        }
        let mut kept = self.0.borrow_mut();
        if let Some(same) = kept.iter().find(|kept| **kept == document) {
            return same.clone();
        }
        if kept.len() == KEPT {
            kept.remove(0);
        }
        let document = Bytes::from(document);
        kept.push(document.clone());
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_listing_is_held_once_and_few_of_them_are() {
        let listings = Listings::default();
        let long = |letter: u8| vec![letter; 10_000];
        let first = listings.shared(long(b'a'));
        assert_eq!(listings.shared(long(b'a')).as_ptr(), first.as_ptr());
        for letter in b'b'..b'z' {
            assert_eq!(listings.shared(long(letter)), long(letter));
        }
        assert_eq!(listings.0.borrow().len(), KEPT);
    }
}
