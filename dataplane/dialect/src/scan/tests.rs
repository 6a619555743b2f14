//! Bodies as clients write them, and as they should not.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn scan(body: &str) -> Result<Facts, Problem> {
    let mut scanner = Scanner::new();
    scanner.push(body.as_bytes())?;
    Ok(scanner.finish())
}

fn model(body: &str) -> Option<String> {
    scan(body).unwrap().model
}

#[test]
fn the_top_level_model_is_found_wherever_it_stands() {
    assert_eq!(model(r#"{"model":"m"}"#).as_deref(), Some("m"));
    assert_eq!(
        model(r#" { "messages" : [ ] , "model" : " m " } "#).as_deref(),
        Some("m")
    );
    assert_eq!(
        model(r#"{"n":1,"x":null,"model":"a/b:c"}"#).as_deref(),
        Some("a/b:c")
    );
}

#[test]
fn a_model_inside_a_message_or_a_tool_is_not_the_model() {
    assert_eq!(
        model(r#"{"messages":[{"model":"x","content":"{\"model\":\"y\"}"}]}"#),
        None
    );
    assert_eq!(
        model(r#"{"tools":[{"f":{"model":"x"}}],"model":"m"}"#).as_deref(),
        Some("m")
    );
}

#[test]
fn escaped_keys_and_values_mean_the_same() {
    assert_eq!(
        model(r#"{"\u006dodel":"a\u0062\"c"}"#).as_deref(),
        Some("ab\"c")
    );
}

#[test]
fn a_key_that_stands_twice_is_refused_in_any_case_and_spelling() {
    for body in [
        r#"{"model":"a","model":"b"}"#,
        r#"{"model":"a","Model":"b"}"#,
        r#"{"model":null,"\u006dodel":"b"}"#,
    ] {
        assert_eq!(scan(body), Err(Problem::DuplicateKey("model")), "{body}");
    }
    let twice = scan(r#"{"stream":true,"x":1,"stream":false}"#);
    assert_eq!(twice, Err(Problem::DuplicateKey("stream")));
}

#[test]
fn the_stream_flag_is_read() {
    assert_eq!(scan(r#"{"stream":true}"#).unwrap().stream, Some(true));
    assert_eq!(scan(r#"{"stream": false }"#).unwrap().stream, Some(false));
    assert_eq!(scan(r#"{"stream":"yes"}"#).unwrap().stream, None);
}

#[test]
fn what_is_no_object_is_not_judged() {
    for body in [
        "",
        "[1,2]",
        "hello",
        "{",
        "{\"model",
        "null",
        "{\"model\":\"a",
    ] {
        assert_eq!(scan(body).unwrap(), Facts::default(), "{body}");
    }
}

#[test]
fn a_document_in_a_wider_encoding_is_refused_not_overlooked() {
    let text = " {\"model\":\"m\"}";
    let utf16: Vec<u16> = text.encode_utf16().collect();
    let little: Vec<u8> = utf16.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let big: Vec<u8> = utf16.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    let utf32: Vec<u8> = text
        .chars()
        .flat_map(|c| u32::from(c).to_le_bytes())
        .collect();
    for bytes in [
        little.clone(),
        little[2..].to_vec(),
        big.clone(),
        big[2..].to_vec(),
        [&[0xff, 0xfe][..], &little].concat(),
        [&[0xfe, 0xff][..], &big].concat(),
        utf32,
    ] {
        let mut scanner = Scanner::new();
        assert_eq!(scanner.push(&bytes), Err(Problem::NotUtf8), "{bytes:?}");
    }
    // Sound and pictures are no documents.
    for bytes in [&b"\xff\xfb\x90{\0"[..], b"\0\0\0 ftypisom", b"\x89PNG\r\n"] {
        let mut scanner = Scanner::new();
        assert_eq!(scanner.push(bytes), Ok(()), "{bytes:?}");
    }
}

#[test]
fn an_endless_model_name_is_refused() {
    let body = format!(r#"{{"model":"{}"}}"#, "x".repeat(MAX_VALUE + 1));
    assert_eq!(scan(&body), Err(Problem::ModelTooLong));
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("model|stream|[a-z\"\\\\]{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_split_finds_what_a_parser_finds(
        rest in prop::collection::btree_map("[a-l]{1,8}", value(), 0..6),
        name in ".{1,20}",
        stream in any::<bool>(),
        cut in 1..9_usize,
        pretty in any::<bool>(),
    ) {
        let mut object: serde_json::Map<String, Value> = rest.into_iter().collect();
        object.insert("model".into(), json!(name));
        object.insert("stream".into(), json!(stream));
        let value = Value::Object(object);
        let text = if pretty {
            serde_json::to_string_pretty(&value).unwrap()
        } else {
            value.to_string()
        };
        let mut scanner = Scanner::new();
        for part in text.as_bytes().chunks(cut) {
            scanner.push(part).unwrap();
        }
        let facts = scanner.finish();
        let name = name.trim();
        prop_assert_eq!(facts.model.as_deref(), (!name.is_empty()).then_some(name));
        prop_assert_eq!(facts.stream, Some(stream));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut scanner = Scanner::new();
        let _ = scanner.push(&bytes);
        scanner.finish();
    }
}
