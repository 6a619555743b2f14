//! Errors in the words and shape that a dialect's clients parse.

use dataplane_protocol::Dialect;
use serde_json::json;

/// One error, before it has a dialect.
#[derive(Clone, Copy, Debug)]
pub struct ErrorBody<'a> {
    pub status: u16,
    /// Stable word for programs: `model_not_found`.
    pub reason: &'a str,
    /// For people: what went wrong and what to do.
    pub message: &'a str,
    pub request_id: &'a str,
}

/// The JSON document for a whole (not streamed) error answer.
pub fn body(dialect: Dialect, error: &ErrorBody<'_>) -> Vec<u8> {
    let document = match dialect {
        Dialect::OpenAi => json!({
            "error": {
                "message": error.message,
                "type": openai_type(error.status),
                "param": if error.reason == "model_not_found" { Some("model") } else { None },
                "code": error.reason,
            }
        }),
        Dialect::Anthropic => json!({
            "type": "error",
            "error": { "type": anthropic_type(error.status), "message": error.message },
            "request_id": error.request_id,
        }),
        Dialect::Ollama => json!({ "error": error.message }),
    };
    document.to_string().into_bytes()
}

/// Error types of the OpenAI API, by status.
pub(crate) fn openai_type(status: u16) -> &'static str {
    match status {
        400 | 403 | 404 | 408 | 413 | 431 => "invalid_request_error",
        429 => "rate_limit_error",
        _ => "server_error",
    }
}

/// Error types of the Anthropic API, by status.
pub fn anthropic_type(status: u16) -> &'static str {
    match status {
        400 | 431 => "invalid_request_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        408 | 504 => "timeout_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: ErrorBody<'_> = ErrorBody {
        status: 404,
        reason: "model_not_found",
        message: "no endpoint serves model \"m\"",
        request_id: "r-1",
    };

    fn text(dialect: Dialect) -> String {
        String::from_utf8(body(dialect, &ERROR)).unwrap()
    }

    #[test]
    fn each_dialect_gets_its_own_envelope() {
        insta::assert_snapshot!(text(Dialect::OpenAi), @r#"{"error":{"code":"model_not_found","message":"no endpoint serves model \"m\"","param":"model","type":"invalid_request_error"}}"#);
        insta::assert_snapshot!(text(Dialect::Anthropic), @r#"{"error":{"message":"no endpoint serves model \"m\"","type":"not_found_error"},"request_id":"r-1","type":"error"}"#);
        insta::assert_snapshot!(text(Dialect::Ollama), @r#"{"error":"no endpoint serves model \"m\""}"#);
    }
}
