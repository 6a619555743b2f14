//! Streams: cut at whole events, so that one that breaks can end honestly.
//!
//! A client can do nothing with half an event. [`Framer`] hands on whole ones at once and keeps
//! an unfinished tail until the rest of it comes; the bytes stay the same. When the backend
//! breaks off, the tail is dropped and [`broken`] tells the client in its own dialect.

use bytes::{Bytes, BytesMut};
use dataplane_protocol::Dialect;
use memchr::{memmem, memrchr, memrchr2};
use serde_json::json;

use crate::error::{ErrorBody, anthropic_type, openai_type};

/// How a body is cut into pieces that mean something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events: an empty line ends one.
    Sse,
    /// One JSON document a line.
    Ndjson,
    /// Not a stream of events: bytes pass as they come.
    #[default]
    Opaque,
}

impl Framing {
    /// From a `Content-Type`.
    pub fn of(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("text/event-stream") {
            Self::Sse
        } else if essence.eq_ignore_ascii_case("application/x-ndjson")
            || essence.eq_ignore_ascii_case("application/jsonl")
        {
            Self::Ndjson
        } else {
            Self::Opaque
        }
    }
}

/// Largest unfinished event that is held back, bytes. A longer one passes in pieces.
pub(crate) const MAX_HELD: usize = 64 * 1024;

#[derive(Debug)]
pub struct Framer {
    framing: Framing,
    held: BytesMut,
}

impl Framer {
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            held: BytesMut::new(),
        }
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// What may go to the client now: whole events. May be empty.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.framing == Framing::Opaque {
            return chunk;
        }
        // The common case, without a copy: nothing is held and the chunk ends with an event.
        if self.held.is_empty() {
            let whole = self.whole(&chunk);
            if whole < chunk.len() {
                self.held
                    .extend_from_slice(chunk.get(whole..).unwrap_or_default());
            }
            return self.release_long(chunk.slice(..whole));
        }
        self.held.extend_from_slice(&chunk);
        let whole = self.whole(&self.held);
        let out = self.held.split_to(whole).freeze();
        self.release_long(out)
    }

    /// What is left when the body ended as it should.
    pub fn finish(&mut self) -> Bytes {
        self.held.split().freeze()
    }

    #[cfg(test)]
    pub(crate) fn bytes_held(&self) -> usize {
        self.held.len()
    }

    fn release_long(&mut self, out: Bytes) -> Bytes {
        if out.is_empty() && self.held.len() > MAX_HELD {
            return self.held.split().freeze();
        }
        out
    }

    /// Length of the part of `bytes` that ends with an event's end.
    fn whole(&self, bytes: &[u8]) -> usize {
        let mut end = bytes.len();
        if self.framing == Framing::Ndjson {
            return memrchr(b'\n', bytes).map_or(0, |at| at + 1);
        }
        while let Some(at) = memrchr2(b'\n', b'\r', bytes.get(..end).unwrap_or_default()) {
            let before = bytes.get(..at).unwrap_or_default();
            // Lines end with LF, CRLF, or with CR alone.
            let is_empty = match bytes.get(at) {
                // After CRLF the other half of one may follow: it is waited for.
                Some(b'\r') if before.ends_with(b"\r\n") => at + 1 < bytes.len(),
                Some(b'\r') => before.ends_with(b"\r") || before.ends_with(b"\n"),
                _ => before.ends_with(b"\n") || before.ends_with(b"\n\r"),
            };
            if is_empty {
                return at + 1;
            }
            end = at;
        }
        0
    }
}

/// The last event of a stream that broke, in the client's dialect. Empty where the dialect has
/// no way to say it inside the body; the unclean close says it then.
pub fn broken(dialect: Dialect, framing: Framing, error: &ErrorBody<'_>) -> Bytes {
    let text = match (framing, dialect) {
        (Framing::Opaque, _) => return Bytes::new(),
        (Framing::Ndjson, _) => format!("{}\n", json!({ "error": error.message })),
        (Framing::Sse, Dialect::Anthropic) => {
            let document = json!({
                "type": "error",
                "error": { "type": anthropic_type(error.status), "message": error.message },
                "request_id": error.request_id,
            });
            format!("event: error\ndata: {document}\n\n")
        }
        (Framing::Sse, _) => {
            let document = json!({
                "error": {
                    "message": error.message,
                    "type": openai_type(error.status),
                    "param": null,
                    "code": error.reason,
                }
            });
            format!("data: {document}\n\n")
        }
    };
    text.into()
}

/// Whether a stream whose end HTTP does not mark (the backend just closes) ended with what its
/// dialect ends with. `tail` is the end of the body, [`TAIL`] bytes at most.
pub fn looks_finished(framing: Framing, tail: &[u8]) -> bool {
    let mut lines = tail.split(|byte| matches!(byte, b'\n' | b'\r'));
    match framing {
        Framing::Sse => lines.any(is_last_event),
        Framing::Ndjson => lines.any(|line| {
            has_member(line, "done", "true") || line.trim_ascii_start().starts_with(ERROR)
        }),
        Framing::Opaque => true,
    }
}

/// Types of events that nothing follows: of Anthropic's messages; of OpenAI's responses,
/// transcripts, speech and images.
const LAST: &[&str] = &[
    "message_stop",
    "error",
    "response.completed",
    "response.incomplete",
    "response.failed",
    "transcript.text.done",
    "speech.audio.done",
    "image_generation.completed",
    "image_edit.completed",
];

/// An error in place of the next event, as OpenAI's and Ollama's servers send it.
const ERROR: &[u8] = b"{\"error\"";

fn is_last_event(line: &[u8]) -> bool {
    if let Some(name) = line.strip_prefix(b"event:") {
        let name = name.trim_ascii();
        return LAST.iter().any(|last| last.as_bytes() == name);
    }
    let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else {
        return false;
    };
    data == b"[DONE]"
        || data.starts_with(ERROR)
        || LAST
            .iter()
            .any(|last| has_member(data, "type", &format!("\"{last}\"")))
}

/// Whether a JSON document has this member somewhere. What a model says is text inside of a
/// string, where quotes are escaped, so it cannot look like one.
fn has_member(document: &[u8], name: &str, value: &str) -> bool {
    [":", ": "].into_iter().any(|colon| {
        let member = format!("\"{name}\"{colon}{value}");
        memmem::find(document, member.as_bytes()).is_some()
    })
}

/// Bytes of a body's end that [`looks_finished`] needs. Ollama's last line carries statistics
/// after `done`, and `/api/generate` the numbers of its whole context.
pub const TAIL: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn through(framing: Framing, parts: &[&str]) -> Vec<String> {
        let mut framer = Framer::new(framing);
        parts
            .iter()
            .map(|part| framer.push(Bytes::copy_from_slice(part.as_bytes())))
            .map(|out| String::from_utf8(out.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn whole_events_pass_at_once_and_half_ones_wait() {
        let out = through(
            Framing::Sse,
            &["data: a\n\n", "data: b\n\ndata: ", "c\n", "\n"],
        );
        assert_eq!(out, ["data: a\n\n", "data: b\n\n", "", "data: c\n\n"]);
        let out = through(Framing::Sse, &["data: a\r\n\r", "\n"]);
        assert_eq!(out, ["", "data: a\r\n\r\n"]);
        assert_eq!(
            through(Framing::Ndjson, &["{}\n{", "}\n"]),
            ["{}\n", "{}\n"]
        );
    }

    #[test]
    fn an_event_without_end_is_not_held_for_ever() {
        let long = format!("data: {}", "x".repeat(MAX_HELD));
        assert_eq!(through(Framing::Sse, &[&long])[0].len(), long.len());
    }

    #[test]
    fn a_broken_stream_says_so_in_the_clients_dialect() {
        let error = ErrorBody {
            status: 502,
            reason: "upstream_truncated",
            message: "the backend broke off",
            request_id: "r-1",
        };
        let text = |dialect, framing| {
            String::from_utf8(broken(dialect, framing, &error).to_vec()).unwrap()
        };
        insta::assert_snapshot!(text(Dialect::OpenAi, Framing::Sse), @r#"data: {"error":{"code":"upstream_truncated","message":"the backend broke off","param":null,"type":"server_error"}}"#);
        insta::assert_snapshot!(text(Dialect::Anthropic, Framing::Sse), @r#"
        event: error
        data: {"error":{"message":"the backend broke off","type":"api_error"},"request_id":"r-1","type":"error"}
        "#);
        insta::assert_snapshot!(text(Dialect::Ollama, Framing::Ndjson), @r#"{"error":"the backend broke off"}"#);
        assert_eq!(text(Dialect::OpenAi, Framing::Opaque), "");
    }

    #[test]
    fn a_stream_that_was_just_closed_is_finished_only_with_its_last_word() {
        assert!(looks_finished(Framing::Sse, b"data: [DONE]\n\n"));
        assert!(!looks_finished(Framing::Sse, b"data: {\"choices\":[]}\n\n"));
        for last in [
            "event: message_stop\ndata: {\"type\": \"message_stop\"}\n\n",
            "data: {\"type\":\"response.incomplete\",\"response\":{}}\n\n",
            "event: response.failed\r\ndata: {}\r\n\r\n",
            "event:error\ndata:{}\n\n",
            "data: {\"error\":{\"message\":\"overloaded\"}}\n\n",
            "data: {\"type\":\"transcript.text.done\"}\r\r",
        ] {
            assert!(looks_finished(Framing::Sse, last.as_bytes()), "{last}");
        }
        assert!(looks_finished(
            Framing::Ndjson,
            b"{\"error\":\"no memory\"}\n"
        ));
        assert!(looks_finished(
            Framing::Ndjson,
            b"{\"done\":true,\"total_duration\":1}\n"
        ));
        assert!(!looks_finished(Framing::Ndjson, b"{\"done\":false}\n"));
    }

    #[test]
    fn a_model_that_talks_about_the_last_word_has_not_said_it() {
        for text in [
            "data: {\"delta\":\"[DONE]\"}\n\n",
            "data: {\"delta\":\"say message_stop or response.completed\"}\n\n",
            "data: {\"delta\":\"{\\\"type\\\":\\\"message_stop\\\"}\"}\n\n",
            "data: {\"delta\":\"data: [DONE]\\n\\nevent: error\\n\"}\n\n",
        ] {
            assert!(!looks_finished(Framing::Sse, text.as_bytes()), "{text}");
        }
        let text = "{\"response\":\"{\\\"done\\\":true}\",\"done\":false}\n";
        assert!(!looks_finished(Framing::Ndjson, text.as_bytes()));
    }

    #[test]
    fn events_whose_lines_end_with_cr_alone_pass_when_they_are_whole() {
        let out = through(
            Framing::Sse,
            &["data: a\r\r", "data: b\rid: 1\r\rdata", ": c\r"],
        );
        assert_eq!(out, ["data: a\r\r", "data: b\rid: 1\r\r", ""]);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_bytes(
            events in prop::collection::vec("[a-c\r\n]{0,9}", 0..12),
            cut in 1..7_usize,
            ndjson in any::<bool>(),
        ) {
            let text = events.concat();
            let mut framer = Framer::new(if ndjson { Framing::Ndjson } else { Framing::Sse });
            let mut out = Vec::new();
            for part in text.as_bytes().chunks(cut) {
                out.extend_from_slice(&framer.push(Bytes::copy_from_slice(part)));
            }
            out.extend_from_slice(&framer.finish());
            prop_assert_eq!(out, text.into_bytes());
        }
    }
}
