//! What a path asks for: the HTTP surface in one place. Path in, meaning out.

use dataplane_protocol::Dialect;
use http::{HeaderMap, Method};

use crate::{listing::Shape, path};

/// What the path means. Borrowed from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface<'a> {
    /// Goes to a backend.
    Forward(Forward<'a>),
    /// Answered from what the backends list.
    Models {
        shape: Shape,
        prefix: Option<&'a str>,
        dialect: Option<Dialect>,
    },
    /// One model of that list.
    Model {
        shape: Shape,
        id: &'a str,
        prefix: Option<&'a str>,
    },
    /// Asked by clients of Ollama whether it is there.
    Root,
    /// `/internal/…`, `/version`.
    Admin(&'a str),
    /// Changes one backend's store; no pool can do that.
    OneBackendOnly {
        path: &'a str,
        client: Dialect,
    },
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward<'a> {
    /// What the backend is asked for, prefix removed.
    pub path: &'a str,
    pub prefix: Option<&'a str>,
    /// What the backend must speak; absent: the path is nobody's in particular.
    pub dialect: Option<Dialect>,
    /// What the client speaks: errors are written in it.
    pub client: Dialect,
}

impl Surface<'_> {
    pub fn client(&self, path: &str) -> Dialect {
        match self {
            Self::Forward(forward) => forward.client,
            Self::OneBackendOnly { client, .. } => *client,
            _ => Dialect::of_path(path),
        }
    }
}

/// Ollama's own operations that a pool can answer.
const OLLAMA: &[&str] = &[
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
    "/api/ps",
    "/api/version",
];

/// Ollama's operations on the store of one server.
const OLLAMA_STORE: &[&str] = &[
    "/api/pull",
    "/api/push",
    "/api/create",
    "/api/copy",
    "/api/delete",
    "/api/blobs",
];

/// `path` as [`path::normalised`] gives it.
pub fn of<'a>(method: &Method, path: &'a str, headers: &HeaderMap) -> Surface<'a> {
    let reads = method == Method::GET || method == Method::HEAD;
    if path == "/version" || under(path, "/internal").is_some() {
        return Surface::Admin(path);
    }
    if path == "/" && reads {
        return Surface::Root;
    }
    if path == "/olla/models" && reads {
        return Surface::Models {
            shape: Shape::Unified,
            prefix: None,
            dialect: None,
        };
    }
    if let Some(id) = path.strip_prefix("/olla/models/")
        && reads
    {
        return Surface::Model {
            shape: Shape::Unified,
            id,
            prefix: None,
        };
    }
    if let Some(rest) = under(path, "/olla/proxy") {
        return inside(method, rest, None, headers, false);
    }
    if let Some(rest) = path.strip_prefix("/olla/") {
        let (prefix, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if prefix.is_empty() {
            return Surface::Unknown;
        }
        return inside(method, rest, Some(prefix), headers, false);
    }
    if under(path, "/v1").is_some() || under(path, "/api").is_some() {
        return inside(method, path, None, headers, true);
    }
    Surface::Unknown
}

/// `rest` as a backend would see it.
fn inside<'a>(
    method: &Method,
    rest: &'a str,
    prefix: Option<&'a str>,
    headers: &HeaderMap,
    bare: bool,
) -> Surface<'a> {
    let rest = if rest.is_empty() { "/" } else { rest };
    let reads = method == Method::GET || method == Method::HEAD;
    let anthropic = prefix == Some("anthropic") || headers.contains_key("anthropic-version");
    let client = match Dialect::of_path(rest) {
        Dialect::OpenAi if anthropic => Dialect::Anthropic,
        dialect => dialect,
    };
    if reads {
        let listing = match rest {
            "/v1/models" if anthropic => Some((Shape::Anthropic, None)),
            "/v1/models" => Some((Shape::OpenAi, None)),
            "/api/tags" => Some((Shape::Ollama, bare.then_some(Dialect::Ollama))),
            "/api/v0/models" => Some((Shape::LmStudio, None)),
            _ => None,
        };
        if let Some((shape, dialect)) = listing {
            return Surface::Models {
                shape,
                prefix,
                dialect,
            };
        }
        if let Some(id) = rest.strip_prefix("/v1/models/") {
            return Surface::Model {
                shape: Shape::OpenAi,
                id,
                prefix,
            };
        }
    }
    if changes_store(rest) {
        return Surface::OneBackendOnly {
            path: rest,
            client: Dialect::Ollama,
        };
    }
    let dialect = match client {
        // What stands under /v1 is OpenAI's; anything else passes to whoever is there.
        Dialect::OpenAi => under(rest, "/v1").map(|_| Dialect::OpenAi),
        Dialect::Ollama if bare || OLLAMA.contains(&rest) => Some(Dialect::Ollama),
        Dialect::Ollama => None,
        Dialect::Anthropic => Some(Dialect::Anthropic),
    };
    Surface::Forward(Forward {
        path: rest,
        prefix,
        dialect,
        client,
    })
}

/// Whether a backend takes `path` for an operation on its store, however it is spelt: Ollama
/// decodes a path before it looks, proxies before it do more.
pub fn changes_store(path: &str) -> bool {
    let decoded = path::as_the_laxest_reads(path);
    OLLAMA_STORE
        .iter()
        .any(|store| under(&decoded, store).is_some())
}

/// What follows `root` in `path`, by whole segments.
fn under<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    path.strip_prefix(root)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(path: &str) -> Surface<'_> {
        of(&Method::POST, path, &HeaderMap::new())
    }

    fn get(path: &str) -> Surface<'_> {
        of(&Method::GET, path, &HeaderMap::new())
    }

    fn forward(path: &str) -> (String, Option<String>, Option<Dialect>, Dialect) {
        match post(path) {
            Surface::Forward(f) => (
                f.path.to_owned(),
                f.prefix.map(str::to_owned),
                f.dialect,
                f.client,
            ),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn prefixes_are_removed_and_say_what_the_backend_must_be() {
        use Dialect::{Anthropic, Ollama, OpenAi};
        for (path, rest, prefix, dialect, client) in [
            (
                "/olla/proxy/v1/chat/completions",
                "/v1/chat/completions",
                None,
                Some(OpenAi),
                OpenAi,
            ),
            ("/olla/proxy/anything", "/anything", None, None, OpenAi),
            ("/olla/proxy", "/", None, None, OpenAi),
            (
                "/olla/openai/v1/chat/completions",
                "/v1/chat/completions",
                Some("openai"),
                Some(OpenAi),
                OpenAi,
            ),
            (
                "/olla/ollama/api/chat",
                "/api/chat",
                Some("ollama"),
                Some(Ollama),
                Ollama,
            ),
            (
                "/olla/lemonade/api/v1/x",
                "/api/v1/x",
                Some("lemonade"),
                None,
                Ollama,
            ),
            (
                "/olla/anthropic/v1/messages",
                "/v1/messages",
                Some("anthropic"),
                Some(Anthropic),
                Anthropic,
            ),
            (
                "/v1/chat/completions",
                "/v1/chat/completions",
                None,
                Some(OpenAi),
                OpenAi,
            ),
            (
                "/v1/messages",
                "/v1/messages",
                None,
                Some(Anthropic),
                Anthropic,
            ),
            ("/api/chat", "/api/chat", None, Some(Ollama), Ollama),
        ] {
            let expected = (rest.to_owned(), prefix.map(str::to_owned), dialect, client);
            assert_eq!(forward(path), expected, "{path}");
        }
    }

    #[test]
    fn listings_are_answered_here() {
        assert!(matches!(
            get("/v1/models"),
            Surface::Models {
                shape: Shape::OpenAi,
                ..
            }
        ));
        assert!(matches!(
            get("/api/tags"),
            Surface::Models {
                shape: Shape::Ollama,
                ..
            }
        ));
        assert!(matches!(
            get("/olla/models"),
            Surface::Models {
                shape: Shape::Unified,
                ..
            }
        ));
        assert!(matches!(
            get("/olla/vllm/v1/models"),
            Surface::Models {
                shape: Shape::OpenAi,
                prefix: Some("vllm"),
                ..
            }
        ));
        assert!(matches!(
            get("/olla/anthropic/v1/models"),
            Surface::Models {
                shape: Shape::Anthropic,
                ..
            }
        ));
        // Ids with a slash work, as they do not in Olla.
        assert!(matches!(
            get("/olla/models/org/m"),
            Surface::Model { id: "org/m", .. }
        ));
    }

    #[test]
    fn a_pool_does_not_pull_or_delete_models() {
        for path in [
            "/api/pull",
            "/olla/ollama/api/delete",
            "/olla/proxy/api/blobs/sha256:1",
            "/api/%64elete",
            "/olla/proxy/api%2Fdelete",
            "/olla/anthropic/api/pull",
            "/olla/proxy/api/delete;x=1",
            "/olla/proxy/api;x/delete",
            "/olla/proxy/api%2F%2Fdelete",
            "/olla/proxy/api%5Cdelete",
        ] {
            assert!(
                matches!(post(path), Surface::OneBackendOnly { .. }),
                "{path}"
            );
        }
    }

    #[test]
    fn the_root_says_that_it_is_there() {
        assert_eq!(get("/"), Surface::Root);
    }

    #[test]
    fn what_is_elsewhere_is_unknown() {
        for path in ["/", "/olla/", "/v2/x", "/ollax", "/v1x", "/internalx"] {
            assert_eq!(post(path), Surface::Unknown, "{path}");
        }
    }
}
