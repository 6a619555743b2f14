//! Our kinds of objects.

use std::fmt;

/// A kind of object of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    LlmEndpoint,
    OllaRoute,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LlmEndpoint => "LlmEndpoint",
            Self::OllaRoute => "OllaRoute",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
