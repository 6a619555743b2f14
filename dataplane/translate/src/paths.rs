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
    "/messages",
    "/messages/count_tokens",
    // Ollama, LM Studio
    "/chat",
    "/generate",
    "/embed",
    "/show",
    // vLLM, SGLang, llama.cpp, TEI
    "/apply-template",
    "/classify",
    "/completion",
    "/detokenize",
    "/embedding",
    "/encode",
    "/generate_stream",
    "/infill",
    "/invocations",
    "/pooling",
    "/rerank",
    "/reranking",
    "/score",
    "/tokenize",
];

/// Operations of Gemini's API, after `/models/NAME:`.
const GEMINI: &[&str] = &[
    "batchEmbedContents",
    "countTokens",
    "embedContent",
    "generateContent",
    "streamGenerateContent",
];

/// Whether `path` asks a model and changes nothing, so that asking twice costs time alone.
pub fn is_inference(path: &str) -> bool {
    let name = operation(path);
    INFERENCE.contains(&name) || is_gemini(name)
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
        .is_some_and(|(_, operation)| GEMINI.contains(&operation))
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
            assert!(is_inference(path), "{path}");
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
            assert!(!is_inference(path), "{path}");
        }
    }
}
