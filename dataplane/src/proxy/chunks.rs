//! Parts of a body in memory.

use std::rc::Rc;

use bytes::Bytes;

/// A copy shares them.
#[derive(Clone, Debug)]
pub(super) enum Chunks {
    One(Bytes),
    Many(Rc<[Bytes]>),
}

impl Chunks {
    pub(super) fn as_slice(&self) -> &[Bytes] {
        match self {
            Self::One(chunk) => std::slice::from_ref(chunk),
            Self::Many(chunks) => chunks,
        }
    }

    /// The part at `place`, which is let go of where nobody else shares it.
    pub(super) fn take(&mut self, place: usize) -> Option<Bytes> {
        let own = match self {
            Self::One(chunk) => Some(std::slice::from_mut(chunk)),
            Self::Many(chunks) => Rc::get_mut(chunks),
        };
        match own {
            Some(chunks) => chunks.get_mut(place).map(std::mem::take),
            None => self.as_slice().get(place).cloned(),
        }
    }
}

impl Default for Chunks {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}
