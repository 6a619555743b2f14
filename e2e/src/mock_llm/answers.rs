//! The words of three dialects, as short as the real clients accept them. In: a model and a
//! sentence. Out: documents and stream events. Pure.

use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Dialect {
    pub(super) fn stream_type(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Anthropic => "text/event-stream",
            Self::Ollama => "application/x-ndjson",
        }
    }
}

pub(super) fn dialect(path: &str) -> Option<Dialect> {
    match path {
        "/v1/chat/completions" => Some(Dialect::OpenAi),
        "/v1/messages" => Some(Dialect::Anthropic),
        "/api/chat" => Some(Dialect::Ollama),
        _ => None,
    }
}

/// The health paths of all types.
pub(super) fn health(path: &str) -> Option<String> {
    match path {
        "/" => Some("Ollama is running".to_owned()),
        "/health" | "/healthz" | "/readyz" | "/health/liveliness" => Some("\"ok\"".to_owned()),
        "/api/version" => Some(json!({"version": "0.14.0"}).to_string()),
        _ => None,
    }
}

pub(super) fn listing(path: &str, models: &[String]) -> Option<Value> {
    match path {
        "/v1/models" => {
            let model = |id| json!({"id": id, "object": "model", "created": 1, "owned_by": "e2e"});
            let data: Vec<Value> = models.iter().map(model).collect();
            Some(json!({"object": "list", "data": data}))
        }
        "/api/tags" => {
            let model = |name| {
                json!({"name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z",
                    "size": 1, "digest": "d", "details": {"family": "llama"}})
            };
            let models: Vec<Value> = models.iter().map(model).collect();
            Some(json!({"models": models}))
        }
        _ => None,
    }
}

pub(super) fn complete(dialect: Dialect, model: &str, sentence: &str) -> Value {
    match dialect {
        Dialect::OpenAi => json!({
            "id": "chatcmpl-e2e", "object": "chat.completion", "created": 1, "model": model,
            "choices": [{
                "index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": sentence},
            }],
            "usage": {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5},
        }),
        Dialect::Anthropic => json!({
            "id": "msg_e2e", "type": "message", "role": "assistant", "model": model,
            "content": [{"type": "text", "text": sentence}],
            "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": 1, "output_tokens": 4},
        }),
        Dialect::Ollama => json!({
            "model": model, "created_at": "2026-01-01T00:00:00Z", "done": true,
            "done_reason": "stop", "message": {"role": "assistant", "content": sentence},
        }),
    }
}

/// The pieces of a streamed answer, one event each, framing included.
pub(super) fn events(dialect: Dialect, model: &str, sentence: &str) -> Vec<String> {
    let words = sentence.split_inclusive(' ');
    match dialect {
        Dialect::OpenAi => openai(model, words),
        Dialect::Anthropic => anthropic(model, words),
        Dialect::Ollama => ollama(model, words),
    }
}

fn openai<'a>(model: &str, words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let chunk = |delta: Value, finish: Option<&str>| {
        let document = json!({
            "id": "chatcmpl-e2e", "object": "chat.completion.chunk", "created": 1, "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        });
        format!("data: {document}\n\n")
    };
    let mut events: Vec<String> = words
        .map(|word| chunk(json!({"content": word}), None))
        .collect();
    events.push(chunk(json!({}), Some("stop")));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn anthropic<'a>(model: &str, words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let event = |name: &str, rest: Value| {
        let mut document = rest;
        document["type"] = json!(name);
        format!("event: {name}\ndata: {document}\n\n")
    };
    let message = json!({
        "id": "msg_e2e", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    });
    let block = json!({"index": 0, "content_block": {"type": "text", "text": ""}});
    let mut events = vec![
        event("message_start", json!({"message": message})),
        event("content_block_start", block),
    ];
    events.extend(words.map(|word| {
        let delta = json!({"type": "text_delta", "text": word});
        event("content_block_delta", json!({"index": 0, "delta": delta}))
    }));
    let delta = json!({"stop_reason": "end_turn", "stop_sequence": null});
    let usage = json!({"output_tokens": 4});
    events.push(event("content_block_stop", json!({"index": 0})));
    events.push(event(
        "message_delta",
        json!({"delta": delta, "usage": usage}),
    ));
    events.push(event("message_stop", json!({})));
    events
}

fn ollama<'a>(model: &str, words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let line = |word: &str, done: bool| {
        let mut document = json!({
            "model": model, "created_at": "2026-01-01T00:00:00Z", "done": done,
            "message": {"role": "assistant", "content": word},
        });
        if done {
            document["done_reason"] = json!("stop");
        }
        format!("{document}\n")
    };
    let mut lines: Vec<String> = words.map(|word| line(word, false)).collect();
    lines.push(line("", true));
    lines
}
