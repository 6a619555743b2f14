//! Bytes of clients and backends that nobody vouches for: whatever they are and however they are
//! cut, the readers come to the same end, hold no more than their bounds, and where a parser of
//! another hand can read them, find what it finds. Seeded: a failure prints its seed, and a seed
//! gives the same case again.

use std::fmt;

use bytes::Bytes;
use dataplane_protocol::testing::Random;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::{
    multipart::{Form, MAX_HEAD},
    scan::{Facts, MAX_VALUE, Problem, Scanner},
    stream::{Framer, Framing, MAX_HELD},
};

const CASES: u64 = 2_000;

/// Now and then, a byte or two that do not belong there.
fn spoil(random: &mut Random, bytes: &mut [u8]) {
    while random.one_in(3) && !bytes.is_empty() {
        let at = random.below(bytes.len());
        bytes[at] = random.of(&[0, b'"', b'\\', b'{', b'}', b'\r', b'\n', b'-', 0xff]);
    }
}

fn cut<'b>(random: &mut Random, mut bytes: &'b [u8]) -> Vec<&'b [u8]> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let most = random.of(&[1, 5, 80, 5_000]);
        let (part, rest) = bytes.split_at(bytes.len().min(1 + random.below(most)));
        parts.push(part);
        bytes = rest;
    }
    parts
}

// --- JSON bodies ---

const TEXTS: &[&str] = &[
    "model",
    "Model",
    "MODEL ",
    "stream",
    "x",
    "",
    "llama3:8b",
    " m ",
    "\u{1f980}",
    "a\\\"b",
    "\\u006dodel",
    "m\\u006fdel",
    "\\ud83e\\udd80",
    "\\n\\t",
    "{\\\"model\\\":",
    "messages",
];

fn string(random: &mut Random) -> String {
    if random.one_in(60) {
        return format!("\"{}\"", "y".repeat(MAX_VALUE - 2 + random.below(6)));
    }
    format!("\"{}\"", random.of(TEXTS))
}

fn blank(random: &mut Random) -> &'static str {
    random.of(&["", "", "", " ", "\n  ", "\t"])
}

fn json(random: &mut Random, depth: usize) -> String {
    let kind = random.below(if depth == 0 { 3 } else { 5 });
    match kind {
        0 => string(random),
        1 => random.of(&["true", "false", "null"]).to_owned(),
        2 => random.of(&["0", "-1.5e3", "17", "1e-7"]).to_owned(),
        3 => {
            let items: Vec<_> = (0..random.below(4))
                .map(|_| json(random, depth - 1))
                .collect();
            format!("[{}]", items.join(","))
        }
        _ => object(random, depth - 1),
    }
}

fn object(random: &mut Random, depth: usize) -> String {
    let members = (0..random.below(5)).map(|_| {
        let (key, value) = (string(random), json(random, depth));
        let blank = blank(random);
        format!("{blank}{key}{blank}:{blank}{value}{blank}")
    });
    let members: Vec<_> = members.collect();
    format!("{{{}}}", members.join(","))
}

fn scan(parts: &[&[u8]]) -> Result<Facts, Problem> {
    let mut scanner = Scanner::new();
    for part in parts {
        scanner.push(part)?;
        assert!(scanner.bytes_held() <= MAX_VALUE, "it holds too much");
    }
    Ok(scanner.finish())
}

/// An object's members in the order in which they stand, those that stand twice included.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// What a body means by serde's word for it. None where it is no object, or only one of the two
/// sees a name that is too long (escapes count here).
fn by_parser(body: &[u8]) -> Option<Result<Facts, Problem>> {
    let Members(members) = serde_json::from_slice(body).ok()?;
    let mut facts = Facts::default();
    let mut seen = Vec::new();
    for (key, value) in members {
        let key = key.to_ascii_lowercase();
        let name = match key.as_str() {
            "model" => "model",
            "stream" => "stream",
            _ => continue,
        };
        if seen.contains(&name) {
            return Some(Err(Problem::DuplicateKey(name)));
        }
        seen.push(name);
        match (name, value) {
            ("model", Value::String(text)) if text.len() > MAX_VALUE => {
                return Some(Err(Problem::ModelTooLong));
            }
            ("model", Value::String(text)) => {
                facts.model = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
            }
            ("stream", Value::Bool(stream)) => facts.stream = Some(stream),
            _ => {}
        }
    }
    Some(Ok(facts))
}

#[test]
fn a_body_means_what_a_parser_makes_of_it_however_it_is_cut() {
    let mut judged = 0;
    for seed in 0..CASES {
        let mut random = Random::new(seed);
        let mut body = object(&mut random, 3).into_bytes();
        spoil(&mut random, &mut body);
        let whole = scan(&[&body]);
        let text = || String::from_utf8_lossy(&body);
        if let Some(expected) = by_parser(&body) {
            judged += 1;
            assert_eq!(whole, expected, "seed {seed}: {}", text());
        }
        for _ in 0..3 {
            let parts = cut(&mut random, &body);
            assert_eq!(scan(&parts), whole, "seed {seed}: {}", text());
        }
    }
    assert!(judged > CASES / 2, "{judged} of {CASES} were JSON");
}

// --- forms ---

const BOUNDARY: &str = "b0";

fn form(random: &mut Random) -> (String, Option<Facts>) {
    let mut text = String::new();
    let mut facts = Facts::default();
    let mut seen = Vec::new();
    let mut clear = true;
    for _ in 0..random.below(5) {
        let name = random.of(&["model", "stream", "file", "prompt"]);
        let value = match name {
            "model" => random.of(&["whisper-1", " m ", "", "\r\n", "--b", "\u{1f980}"]),
            "stream" => random.of(&["true", "false", "yes"]),
            _ => random.of(&[
                "",
                "RIFF\0\r\n-",
                "\r\n--b1x\r\n\r\n",
                "a\r\n\r\nb",
                "--b0 \r\n",
            ]),
        };
        let file = if name == "file" {
            "; filename=\"a.wav\""
        } else {
            ""
        };
        let more = random.of(&["", "Content-Type: text/plain\r\n", "X: \"y\"\r\n"]);
        let padding = random.of(&["", "", " ", "\t "]);
        let head = format!("Content-Disposition: form-data; name=\"{name}\"{file}\r\n{more}");
        text += &[
            "--", BOUNDARY, padding, "\r\n", &head, "\r\n", value, "\r\n",
        ]
        .concat();
        if matches!(name, "model" | "stream") {
            clear &= !seen.contains(&name);
            seen.push(name);
        }
        let trimmed = value.trim();
        match name {
            "model" if !trimmed.is_empty() => facts.model = Some(trimmed.to_owned()),
            "stream" => facts.stream = trimmed.parse().ok(),
            _ => {}
        }
    }
    text += &["--", BOUNDARY, "--\r\n"].concat();
    (text, clear.then_some(facts))
}

fn read_form(parts: &[&[u8]]) -> Result<Facts, Problem> {
    let mut form = Form::of(&format!("multipart/form-data; boundary={BOUNDARY}")).unwrap();
    for part in parts {
        form.push(part)?;
        assert!(form.bytes_held() <= MAX_HEAD, "it holds too much");
    }
    Ok(form.finish())
}

#[test]
fn a_form_means_the_same_however_it_is_cut() {
    for seed in 0..CASES {
        let mut random = Random::new(seed);
        let (text, expected) = form(&mut random);
        let mut body = text.into_bytes();
        let at = |body: &[u8]| format!("seed {seed}: {:?}", String::from_utf8_lossy(body));
        if let Some(expected) = expected {
            assert_eq!(read_form(&[&body]), Ok(expected), "{}", at(&body));
        }
        if random.one_in(30) {
            let long = random.below(2 * MAX_HEAD);
            let place = random.below(body.len());
            body.splice(place..place, std::iter::repeat_n(b'z', long));
        }
        spoil(&mut random, &mut body);
        let whole = read_form(&[&body]);
        for _ in 0..3 {
            assert_eq!(read_form(&cut(&mut random, &body)), whole, "{}", at(&body));
        }
    }
}

// --- streams ---

/// What a client makes of a stream so far: lines of whole events, or whole lines.
fn events(framing: Framing, bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    if framing == Framing::Ndjson {
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        let lines = bytes[..whole].split(|byte| *byte == b'\n');
        return vec![lines.map(<[u8]>::to_vec).collect()];
    }
    let (mut all, mut event, mut line) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = bytes.iter().peekable();
    while let Some(byte) = bytes.next() {
        if !matches!(byte, b'\r' | b'\n') {
            line.push(*byte);
            continue;
        }
        if *byte == b'\r' && bytes.peek() == Some(&&b'\n') {
            bytes.next();
        }
        if !line.is_empty() {
            event.push(std::mem::take(&mut line));
        } else if !event.is_empty() {
            all.push(std::mem::take(&mut event));
        }
    }
    all
}

#[test]
fn a_stream_gives_the_same_events_however_it_is_cut_and_holds_half_of_one_at_most() {
    for seed in 0..CASES {
        let mut random = Random::new(seed);
        let framing = [Framing::Sse, Framing::Ndjson][random.below(2)];
        let end = random.of(&["\n", "\r\n", "\r"]);
        let mut text = String::new();
        for _ in 0..random.below(12) {
            text += random.of(&[
                "data: a",
                "event: error",
                ": ping",
                "",
                "{\"done\":true}",
                "\u{1f980}",
            ]);
            text += if random.one_in(6) {
                random.of(&["\n", "\r\n", "\r"])
            } else {
                end
            };
        }
        let mut body = text.into_bytes();
        spoil(&mut random, &mut body);
        if random.one_in(50) {
            body.extend(std::iter::repeat_n(b'x', MAX_HELD + random.below(MAX_HELD)));
        }
        // Only then may a client be ahead: half of a CRLF is waited for.
        let unsure = body.len() > MAX_HELD || body.ends_with(b"\r\n\r");
        for _ in 0..3 {
            let parts = cut(&mut random, &body);
            let longest = parts.iter().map(|part| part.len()).max().unwrap_or(0);
            let mut framer = Framer::new(framing);
            let mut out = Vec::new();
            for part in parts {
                out.extend_from_slice(&framer.push(Bytes::copy_from_slice(part)));
                assert!(framer.bytes_held() <= MAX_HELD + longest, "seed {seed}");
            }
            if !unsure {
                let (seen, sent) = (events(framing, &out), events(framing, &body));
                assert_eq!(
                    seen,
                    sent,
                    "seed {seed}: {:?}",
                    String::from_utf8_lossy(&body)
                );
            }
            out.extend_from_slice(&framer.finish());
            assert!(out == body, "seed {seed}");
        }
    }
}
