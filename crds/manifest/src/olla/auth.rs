//! The credential of an endpoint in an Olla file. In: its `auth` and `headers`, and the
//! environment. Out: a Secret and the reference to it. What cannot be taken over is an error,
//! so that no endpoint is ever called without the credential that its owner wrote down.

use std::collections::BTreeMap;

use crds::auth::{AuthSpec, BasicAuth, HeaderAuth, PairSource, SecretKeyRef, SecretRef, ValueAuth};
use dataplane_protocol::Secret;

use super::{super::note::Notes, section::Section};

pub(super) struct Auth {
    pub(super) spec: AuthSpec,
    pub(super) values: BTreeMap<String, Secret>,
}

/// Headers that let somebody in.
const CREDENTIAL_HEADERS: [&str; 5] = [
    "api-key",
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
];

/// The credential, to be kept in a Secret named `secret`; `None` without one, or with an error.
pub(super) fn read(
    endpoint: &Section<'_>,
    secret: &str,
    env: &dyn Fn(&str) -> Option<String>,
    notes: &mut Notes<'_>,
) -> Option<Auth> {
    report_headers(&endpoint.section("headers", notes), notes);
    let auth = endpoint.section("auth", notes);
    if auth.is_empty() {
        return None;
    }
    let keys = ["type", "token", "key", "header", "username", "password"];
    let files = ["token_file", "key_file", "username_file", "password_file"];
    auth.report_rest(&[&keys[..], &files].concat(), &[], &[], notes);
    for key in files {
        if let Some(entry) = auth.find(key) {
            let plain = key.trim_end_matches("_file");
            let message = format!("files are not read; use `{plain}: ${{VAR}}`");
            notes.error(entry.line, &auth.field(key), message);
        }
    }
    let kinds = [
        ("bearer", Type::Bearer),
        ("api_key", Type::ApiKey),
        ("basic", Type::Basic),
    ];
    if auth.find("type").is_none() {
        notes.error(
            auth.line,
            &auth.field("type"),
            "must be one of bearer, api_key, basic",
        );
    }
    let mut values = BTreeMap::new();
    let mut take = |key: &str, notes: &mut Notes<'_>| {
        let value = value(&auth, key, env, notes)?;
        values.insert(key.to_owned(), Secret::new(value));
        let key = SecretKeyRef {
            name: secret.to_owned(),
            key: key.to_owned(),
        };
        Some(key.as_source())
    };
    let mut spec = AuthSpec::default();
    match auth.word("type", &kinds, notes)? {
        Type::Bearer => {
            let value_from = take("token", notes)?;
            spec.bearer = Some(ValueAuth { value_from });
        }
        Type::Basic => {
            take("username", notes).zip(take("password", notes))?;
            let secret_ref = SecretRef {
                name: secret.to_owned(),
            };
            let value_from = PairSource { secret_ref };
            spec.basic = Some(BasicAuth { value_from });
        }
        Type::ApiKey => {
            let value_from = take("key", notes)?;
            match auth.text("header", notes) {
                Some(name) if !name.eq_ignore_ascii_case("x-api-key") => {
                    spec.header = Some(HeaderAuth { name, value_from });
                }
                _ => spec.api_key = Some(ValueAuth { value_from }),
            }
        }
    }
    Some(Auth { spec, values })
}

#[derive(Clone, Copy)]
enum Type {
    Bearer,
    ApiKey,
    Basic,
}

fn report_headers(headers: &Section<'_>, notes: &mut Notes<'_>) {
    for entry in headers.entries() {
        let field = headers.field(&entry.key);
        if CREDENTIAL_HEADERS.contains(&entry.key.to_ascii_lowercase().as_str()) {
            let message = "credentials in headers are not taken over; write them as auth, such as \
                           `auth: {type: api_key, header: …, key: …}`";
            notes.error(entry.line, &field, message);
        } else {
            notes.warn(entry.line, &field, "not taken over");
        }
    }
}

/// A member with its variables filled in; an error when there is none or nothing in it.
fn value(
    auth: &Section<'_>,
    key: &str,
    env: &dyn Fn(&str) -> Option<String>,
    notes: &mut Notes<'_>,
) -> Option<String> {
    let line = auth.line_of(key);
    let Some(text) = auth.text(key, notes) else {
        if auth.find(key).is_none() {
            notes.error(line, &auth.field(key), "must be set");
        }
        return None;
    };
    match expand(&text, env) {
        Ok(value) if value.is_empty() => {
            notes.error(line, &auth.field(key), "is empty");
            None
        }
        Ok(value) => Some(value),
        Err(message) => {
            notes.error(line, &auth.field(key), message);
            None
        }
    }
}

/// `${VAR}` and `${VAR:-default}`, the default also for an empty variable, as in a shell.
/// Messages name variables, never the text around them.
fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let (inside, next) = after
            .split_once('}')
            .ok_or_else(|| "`${` without `}`".to_owned())?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let set = env(name).filter(|value| default.is_none() || !value.is_empty());
        match (set, default) {
            (Some(value), _) => out.push_str(&value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => return Err(format!("environment variable `{name}` is not set")),
        }
        rest = next;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_as_olla_does() {
        let env = |name: &str| match name {
            "KEY" => Some("k".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("plain", Ok("plain")),
            ("a-${KEY}-b${KEY}", Ok("a-k-bk")),
            ("${NONE:-d}", Ok("d")),
            ("${EMPTY:-d}", Ok("d")),
            ("${EMPTY}", Ok("")),
            ("${KEY:-d}", Ok("k")),
            ("$KEY", Ok("$KEY")),
            (
                "secret ${NONE}",
                Err("environment variable `NONE` is not set"),
            ),
            ("secret ${KEY", Err("`${` without `}`")),
        ] {
            let read = expand(text, &env);
            assert_eq!(read.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }
}
