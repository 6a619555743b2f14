use proptest::prelude::*;

use super::*;

const TYPE: &str = "multipart/form-data; boundary=xyz";

fn part(disposition: &str, body: &str) -> String {
    format!("--xyz\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{body}\r\n")
}

fn scan(parts: &[String], cut: usize) -> Result<Facts, Problem> {
    let body = parts.concat() + "--xyz--\r\n";
    let mut form = Form::of(TYPE).unwrap();
    for bytes in body.as_bytes().chunks(cut) {
        form.push(bytes)?;
    }
    Ok(form.finish())
}

#[test]
fn the_model_is_found_before_and_after_the_file() {
    let file = part(
        "name=\"file\"; filename=\"a.wav\"",
        "RIFF\r\n--xy\r\n--x\0yz",
    );
    let model = part("name=\"model\"", "whisper-1");
    let stream = part("name=stream", "true");
    for parts in [
        [model.clone(), file.clone(), stream.clone()],
        [stream, file, model],
    ] {
        for cut in 1..40 {
            let facts = scan(&parts, cut).unwrap();
            assert_eq!(facts.model.as_deref(), Some("whisper-1"), "{cut}");
            assert_eq!(facts.stream, Some(true), "{cut}");
        }
    }
}

#[test]
fn what_only_looks_like_the_model_is_not_it() {
    for parts in [
        [part("name=\"file\"; filename=\"model\"", "x")],
        [part("name=\"model\"; filename=\"x\"", "in a file")],
        [part("name=\"model\"; filename*=utf-8''x", "in a file")],
        [part("name=\"models\"", "x")],
        [part("name=\"a; name=model\"", "x")],
        [part("name=\"prompt\"", "name=\"model\"\r\n\r\nx")],
    ] {
        assert_eq!(scan(&parts, 7).unwrap(), Facts::default(), "{parts:?}");
    }
}

#[test]
fn a_line_that_begins_like_the_boundary_belongs_to_its_part() {
    let inside =
        "RIFF\r\n--xyzzy\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nin the file";
    let file = part("name=\"file\"; filename=\"a.wav\"", inside);
    let model = part("name=\"model\"", "whisper-1");
    for parts in [[file.clone(), model.clone()], [model, file]] {
        for cut in [1, 2, 7, 1000] {
            let facts = scan(&parts, cut).unwrap();
            assert_eq!(facts.model.as_deref(), Some("whisper-1"), "{cut}");
        }
    }
    let odd = part("name=\"model\"", "a\r\n--xyzb");
    assert_eq!(scan(&[odd], 3).unwrap(), Facts::default());
}

#[test]
fn nothing_stands_before_the_first_boundary() {
    for (body, is_form) in [
        ("--xyz\r\n", true),
        ("\r\n--xyz\r\n", true),
        ("--xyz--", true),
        ("", true),
        ("{\"model\":\"a\"}\r\n--xyz\r\n", false),
        ("preamble\r\n--xyz\r\n", false),
        ("--xy\r\n", false),
    ] {
        for cut in [1, 3, 100] {
            let mut form = Form::of(TYPE).unwrap();
            let mut chunks = body.as_bytes().chunks(cut);
            let result = chunks.try_for_each(|bytes| form.push(bytes));
            assert_eq!(result.is_ok(), is_form, "{body:?} {cut}");
        }
    }
}

#[test]
fn a_boundary_may_be_followed_by_blanks() {
    let body = "--xyz \t\r\nContent-Disposition: form-data; name=model\r\n\r\nm\r\n--xyz--";
    let mut form = Form::of(TYPE).unwrap();
    form.push(body.as_bytes()).unwrap();
    assert_eq!(form.finish().model.as_deref(), Some("m"));
}

#[test]
fn a_parameter_without_a_value_hides_none_after_it() {
    for disposition in [
        "x; name=\"model\"",
        "name = model",
        "y=\"a;b\"; name=model;",
        "NAME=\"model\"",
    ] {
        let facts = scan(&[part(disposition, "m")], 5).unwrap();
        assert_eq!(facts.model.as_deref(), Some("m"), "{disposition}");
    }
}

#[test]
fn a_head_that_is_too_long_is_refused_however_it_is_cut() {
    let long = |spare: usize| {
        let disposition = format!("name=\"model\"; x=\"{}\"", "a".repeat(spare));
        [part(&disposition, "m")]
    };
    for cut in [1, 1000, 100_000] {
        assert_eq!(
            scan(&long(9_000), cut),
            Err(Problem::PartHeadTooLong),
            "{cut}"
        );
        let facts = scan(&long(8_000), cut).unwrap();
        assert_eq!(facts.model.as_deref(), Some("m"), "{cut}");
    }
}

#[test]
fn a_model_that_stands_twice_or_has_no_end_is_refused() {
    let model = part("name=\"model\"", "a");
    let twice = scan(&[model.clone(), model], 5);
    assert_eq!(twice, Err(Problem::DuplicateKey("model")));
    let long = part("name=\"model\"", &"x".repeat(MAX_VALUE + 300));
    for cut in [1, 100, 10_000] {
        assert_eq!(
            scan(std::slice::from_ref(&long), cut),
            Err(Problem::ModelTooLong)
        );
    }
}

#[test]
fn a_file_is_not_held() {
    let mut form = Form::of(TYPE).unwrap();
    let head = part("name=\"file\"; filename=\"a\"", "");
    form.push(head.as_bytes()).unwrap();
    let much = vec![b'x'; 100_000];
    for _ in 0..100 {
        form.push(&much).unwrap();
        assert!(form.held.len() < 200, "{}", form.held.len());
    }
}

#[test]
fn only_a_form_with_a_boundary_is_one() {
    for (kind, is_form) in [
        ("multipart/form-data; boundary=\"a b\"", true),
        ("Multipart/Form-Data;charset=utf-8;BOUNDARY=x", true),
        ("multipart/form-data", false),
        ("multipart/form-data; boundary=", false),
        ("multipart/mixed; boundary=x", false),
        ("application/json; boundary=x", false),
    ] {
        assert_eq!(Form::of(kind).is_some(), is_form, "{kind}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_no_cut_matters(
        bytes in prop::collection::vec(
            prop::sample::select(&b"\r\n--xyz-Content-Disposition: form-data; name=\"model\"a"[..]),
            0..300,
        ),
        cut in 1..50_usize,
    ) {
        let body = [b"--xyz\r\nContent-Disposition: form-data; name=model\r\n\r\n", &bytes[..]].concat();
        let mut whole = Form::of(TYPE).unwrap();
        let at_once = whole.push(&body).map(|()| whole.finish());
        let mut form = Form::of(TYPE).unwrap();
        let mut result = Ok(());
        for part in body.chunks(cut) {
            result = result.and_then(|()| form.push(part));
        }
        prop_assert_eq!(result.map(|()| form.finish()), at_once);
    }
}
