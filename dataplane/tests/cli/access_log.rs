//! The access log: one line a request, and nothing in it that only its client may know.

use serde_json::Value;

use crate::support::{Backend, Files, Serving, endpoint, status, wait_for};

const KEY: &str = "sk-never-to-be-seen";
const PROMPT: &str = "prompt-never-to-be-seen";

fn serving(environment: &[(&str, &str)], args: &[&str], files: &Files) -> Serving {
    let backend = Backend::listing(&["m"]);
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: keys }}\n\
         stringData: {{ token: {KEY}-of-the-backend }}\n---\n"
    );
    let guarded = endpoint("a", &backend.url(), 1).replace(
        "---",
        "  auth: { bearer: {valueFrom: {secretKeyRef: {name: keys, key: token}}} }\n---",
    );
    let path = files.write("a.yaml", &(secret + &guarded));
    let plane = Serving::start_in(environment, &[&["-f", &path], args].concat());
    wait_for("models are listed", || plane.chat("other") == "404");
    plane
}

/// Requests `good`, `refused` and `nowhere`, each with a key and a prompt.
fn ask(plane: &Serving) {
    let chat = |model: &str, id: &str, path: &str| {
        let headers = format!(
            "x-request-id: {id}\r\nauthorization: Bearer {KEY}\r\nx-api-key: {KEY}\r\n\
             cookie: session={KEY}\r\nx-goog-api-key: {KEY}\r\n"
        );
        let body =
            format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{PROMPT}"}}]}}"#);
        let rsp = plane.post(path, &headers, &body);
        status(&rsp).to_owned()
    };
    let completions = "/v1/chat/completions";
    assert_eq!(
        chat("m", "good", &format!("{completions}?key={KEY}")),
        "200"
    );
    assert_eq!(chat("other", "refused", completions), "404");
    assert_eq!(chat("m", "nowhere", &format!("/nowhere?key={KEY}")), "404");
}

/// Returns when all that it logs is here.
fn end(plane: &mut Serving) {
    assert!(plane.terminate().success());
    wait_for("its last word is here", || {
        !plane.logged("\"drained\"").is_empty()
    });
}

#[test]
fn each_request_is_one_line_without_keys_and_prompts() {
    let files = Files::new();
    // Also where everything is logged.
    let mut plane = serving(&[], &["--log-level", "trace"], &files);
    ask(&plane);
    end(&mut plane);
    let lines = |id: &str| plane.logged(&format!("\"id\":\"{id}\""));
    let line = |id: &str| -> Value {
        let lines = lines(id);
        assert_eq!(lines.len(), 1, "{lines:?}");
        serde_json::from_str(&lines[0]).unwrap()
    };
    let good = line("good");
    for (field, value) in [
        ("message", "request"),
        ("method", "POST"),
        ("path", "/v1/chat/completions"),
        ("model", "m"),
        ("endpoint", "a"),
        ("reason", ""),
    ] {
        assert_eq!(good[field], value, "{field}: {good}");
    }
    assert_eq!(
        (&good["status"], &good["attempts"]),
        (&200.into(), &1.into())
    );
    assert_eq!(line("refused")["reason"], "model_not_found");
    assert_eq!(line("nowhere")["path"], "/nowhere");
    for secret in [KEY, PROMPT] {
        let told = plane.logged(secret);
        assert!(told.is_empty(), "{told:?}");
    }
}

#[test]
fn no_request_is_logged_where_the_access_log_is_off() {
    let (off, by_flag) = ([("OLLA_ACCESS_LOG", "false")], ["--access-log", "false"]);
    for (environment, args) in [(&off[..], &[][..]), (&[][..], &by_flag[..])] {
        let files = Files::new();
        let mut plane = serving(environment, args, &files);
        ask(&plane);
        end(&mut plane);
        assert_eq!(plane.logged("\"request\""), Vec::<String>::new());
    }
}
