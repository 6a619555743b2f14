//! The three ways clients and backends speak.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Wire dialect of a request or a backend. Decides paths, error envelopes and stream framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// `/v1/chat/completions` and its neighbours; streams are server-sent events.
    OpenAi,
    /// `/v1/messages`; streams are server-sent events with event names.
    Anthropic,
    /// `/api/chat`, `/api/generate`, …; streams are one JSON document a line.
    Ollama,
}

impl Dialect {
    /// The dialect that a path speaks, prefix already removed. Everything that is neither
    /// Anthropic's nor Ollama's is OpenAI's: that is what unknown clients expect errors in.
    pub fn of_path(path: &str) -> Self {
        let is = |root: &str| {
            path.strip_prefix(root)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if is("/v1/messages") {
            Self::Anthropic
        } else if is("/api") {
            Self::Ollama
        } else {
            Self::OpenAi
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_tells_the_dialect() {
        for (path, dialect) in [
            ("/v1/messages", Dialect::Anthropic),
            ("/v1/messages/count_tokens", Dialect::Anthropic),
            ("/v1/messagesx", Dialect::OpenAi),
            ("/api/chat", Dialect::Ollama),
            ("/apix", Dialect::OpenAi),
            ("/v1/chat/completions", Dialect::OpenAi),
            ("/", Dialect::OpenAi),
        ] {
            assert_eq!(Dialect::of_path(path), dialect, "{path}");
        }
    }
}
