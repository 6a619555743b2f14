//! Which operation a path names. In: a path as a backend sees it, normalised. Out: what kind of
//! operation that is. Names are compared whole: `/v1/threads/x/messages` creates something,
//! `/v1/messages` only asks a model.

/// Before the operation's name, longest first: servers offer the same operations below these.
const ROOTS: &[&str] = &[
    "/openai/v1",
    "/v1beta",
    "/v1",
    "/v2",
    "/api/v0",
    "/api/v1",
    "/api",
    "/openai",
];

/// After a root, before a model's or deployment's name: as Azure and LiteLLM write it.
const BY_MODEL: &[&str] = &["/engines/", "/deployments/"];

/// Operations that ask a model and change nothing.
const INFERENCE: &[&str] = &[
    // OpenAI
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/responses",
    "/moderations",
    "/audio/speech",
    "/audio/transcriptions",
    "/audio/translations",
    "/images/edits",
    "/images/generations",
    "/images/variations",
    // Anthropic
    "/messages/count_tokens",
    // vLLM, SGLang, llama.cpp, TEI
    "/apply-template",
    "/detokenize",
    "/generate_stream",
    "/infill",
    "/rerank",
    "/reranking",
    "/tokenize",
];

/// More of them, whose names other APIs use for other things: `/key/generate` makes a key. They
/// are known below a root only, and not below the path of an endpoint's URL.
const SHORT_INFERENCE: &[&str] = &[
    // Anthropic
    "/messages",
    // Ollama, LM Studio
    "/chat",
    "/generate",
    "/embed",
    "/show",
    // vLLM, SGLang, llama.cpp, TEI
    "/classify",
    "/completion",
    "/embedding",
    "/encode",
    "/invocations",
    "/pooling",
    "/score",
];

/// Operations of Gemini's API, after `/models/NAME:`.
const GEMINI: &[&str] = &[
    "batchEmbedContents",
    "countTokens",
    "embedContent",
    "generateContent",
    "streamGenerateContent",
];

/// What a backend lists, and which release it is.
const LISTINGS: &[&str] = &["/models", "/ps", "/tags", "/version"];

/// Under which a list's single entries are.
const ENTRIES: &str = "/models/";

/// No path of a known operation is longer, bytes; a model's name may be in it.
const MAX_KNOWN: usize = 2048;

/// What kind of operation a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Asks a model and changes nothing, so that asking twice costs time alone.
    Inference,
    /// Reads which models there are.
    Listing,
    /// Anything else: files, jobs, keys, users, settings, and what nobody here knows.
    Other,
}

impl Operation {
    /// By the whole name, so that nothing is taken for what it only looks like. A path that is
    /// escaped or has parameters is read in many ways: it is none of the known ones.
    pub fn of(method: &str, path: &str) -> Self {
        if path.len() > MAX_KNOWN {
            return Self::Other;
        }
        let name = operation(path);
        let reads = matches!(method, "GET" | "HEAD");
        let asks_model =
            || INFERENCE.contains(&name) || SHORT_INFERENCE.contains(&name) || is_gemini(name);
        if path.contains(['%', ';', '\\', '?', '#']) {
            Self::Other
        } else if method == "POST" && asks_model() {
            Self::Inference
        } else if reads && (LISTINGS.contains(&name) || is_entry(name)) {
            Self::Listing
        } else if method == "OPTIONS" && asks_model() {
            // A browser that asks whether it may: nothing runs.
            Self::Listing
        } else {
            Self::Other
        }
    }

    /// The same for a path below `base`, the path of an endpoint's URL. What the two make together
    /// decides; a base that nobody here knows changes only the meaning of short names.
    pub fn below(base: &str, method: &str, path: &str) -> Self {
        let alone = Self::of(method, path);
        if base.is_empty() {
            return alone;
        }
        match Self::of(method, &[base, path].concat()) {
            Self::Other if alone.depends_on_base(path) => Self::Other,
            Self::Other => alone,
            known => known,
        }
    }

    /// Whether `path`, of which this is the operation, may mean another below the path of a URL:
    /// its name alone says little, and no root stands before it.
    pub fn depends_on_base(self, path: &str) -> bool {
        self == Self::Other || SHORT_INFERENCE.contains(&path)
    }
}

/// One model of a list; its name may hold slashes, as `owner/name`, but no more of them.
fn is_entry(name: &str) -> bool {
    let model = name.strip_prefix(ENTRIES);
    model.is_some_and(|model| !model.is_empty() && model.matches('/').count() <= 1)
}

/// `path` without its root and without the model or deployment in it.
fn operation(path: &str) -> &str {
    let rest = ROOTS
        .iter()
        .find_map(|root| path.strip_prefix(root).filter(|rest| rest.starts_with('/')))
        .unwrap_or(path);
    let by_model = BY_MODEL
        .iter()
        .find_map(|prefix| rest.strip_prefix(prefix))
        .and_then(|rest| rest.split_at_checked(rest.find('/')?));
    by_model.map_or(rest, |(_, name)| name)
}

fn is_gemini(name: &str) -> bool {
    let model = name.strip_prefix("/models/");
    model
        .and_then(|model| model.rsplit_once(':'))
        .is_some_and(|(model, operation)| !model.contains('/') && GEMINI.contains(&operation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_a_model_is_known_under_each_root() {
        for path in [
            "/v1/chat/completions",
            "/chat/completions",
            "/openai/v1/responses",
            "/openai/deployments/gpt-4o/chat/completions",
            "/engines/gpt-4o/completions",
            "/v1/engines/gpt-4o/embeddings",
            "/v1/messages",
            "/v1/messages/count_tokens",
            "/api/chat",
            "/api/generate",
            "/api/v0/embeddings",
            "/api/v1/chat/completions",
            "/v2/rerank",
            "/tokenize",
            "/v1/audio/transcriptions",
            "/v1beta/models/gemini-pro:generateContent",
        ] {
            assert_eq!(Operation::of("POST", path), Operation::Inference, "{path}");
            // What was asked before, and its deletion.
            assert_eq!(Operation::of("DELETE", path), Operation::Other, "{path}");
        }
    }

    #[test]
    fn what_creates_something_is_no_inference_however_its_path_ends() {
        for path in [
            "/v1/threads/abc/messages",
            "/v1/files",
            "/v1/batches",
            "/v1/fine_tuning/jobs",
            "/v1/chat/completions/abc",
            "/v1/responses/abc/cancel",
            "/key/generate",
            "/v1/key/generate",
            "/api/delete",
            "/api/user/keys",
            "/v1/chat/completions/",
            "/v1chat/completions",
            "/engines/a/b/completions",
            "/v1beta/models/gemini-pro:delete",
            "/",
            "",
        ] {
            assert_eq!(Operation::of("POST", path), Operation::Other, "{path}");
        }
    }

    #[test]
    fn below_the_path_of_a_url_a_short_name_is_what_both_make_together() {
        use Operation::{Inference, Listing, Other};
        for (base, method, path, expected) in [
            ("", "POST", "/generate", Inference),
            ("/key", "POST", "/generate", Other),
            ("/v1/threads/abc", "POST", "/messages", Other),
            ("/api", "POST", "/generate", Inference),
            ("/api", "DELETE", "/delete", Other),
            ("/v1", "POST", "/chat/completions", Inference),
            (
                "/openai/deployments/m",
                "POST",
                "/chat/completions",
                Inference,
            ),
            ("/serve/team-a", "POST", "/v1/chat/completions", Inference),
            ("/serve/team-a", "POST", "/chat/completions", Inference),
            ("/serve/team-a", "POST", "/v1/messages", Inference),
            ("/serve/team-a", "GET", "/v1/models", Listing),
            ("/serve/team-a", "POST", "/v1/files", Other),
        ] {
            assert_eq!(
                Operation::below(base, method, path),
                expected,
                "{base} {path}"
            );
        }
    }

    #[test]
    fn reading_what_clients_asked_before_is_no_inference() {
        for path in ["/v1/chat/completions", "/v1/responses", "/v1/messages"] {
            assert_eq!(Operation::of("GET", path), Operation::Other, "{path}");
        }
    }

    #[test]
    fn lists_of_models_are_known_and_nothing_beside_them() {
        for path in [
            "/v1/models",
            "/models",
            "/v1/models/m",
            "/v1/models/owner/m",
            "/openai/v1/models",
            "/api/tags",
            "/api/ps",
            "/api/v0/models",
        ] {
            assert_eq!(Operation::of("GET", path), Operation::Listing, "{path}");
            assert_eq!(Operation::of("DELETE", path), Operation::Other, "{path}");
        }
        for path in [
            "/v1/models/",
            "/v1/models/a/b/c",
            "/model/info",
            "/key/info",
            "/user/info",
            "/debug/pprof/heap",
            "/config/yaml",
        ] {
            assert_eq!(Operation::of("GET", path), Operation::Other, "{path}");
        }
    }

    #[test]
    fn a_path_that_is_written_strangely_is_none_of_the_known_ones() {
        for path in [
            "/v1/chat/completions;/key/generate",
            "/v1/chat/completions%2F..%2Fkey",
            "/engines/..%2F..%2Fkey/chat/completions",
            "/key/generate;/../v1/chat/completions",
            "/v1beta/models/a/b:generateContent",
            "/key\\..\\v1/chat/completions",
        ] {
            assert_eq!(Operation::of("POST", path), Operation::Other, "{path}");
        }
    }
}
