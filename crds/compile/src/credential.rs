//! Credentials sent to backends. In: `spec.auth` and the Secrets of the namespace.
//! Out: one request header. No message ever holds a part of a value.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use crds::{
    Reason,
    auth::{AuthSpec, ONE_KIND, SecretKeyRef, ValueSource},
    common::is_subdomain,
};
use dataplane_protocol::{Secret, table::Credential};
use http::HeaderName;

use crate::{Facts, Problem, verdict::some_of};

/// Headers that frame the message or steer the connection: a credential there would break every
/// request.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether the shape of `auth` makes sense, whatever the Secrets hold.
pub(crate) fn check(auth: &AuthSpec) -> Result<(), Problem> {
    let kinds = [
        auth.bearer.is_some(),
        auth.basic.is_some(),
        auth.api_key.is_some(),
        auth.header.is_some(),
    ];
    if kinds.iter().filter(|set| **set).count() != 1 {
        return Err(Problem::invalid("spec.auth", ONE_KIND));
    }
    for (field, name) in auth.secrets() {
        if let Some(message) = not_a_secret_s(name) {
            return Err(Problem::invalid(field, message));
        }
    }
    let Some(header) = &auth.header else {
        return Ok(());
    };
    let field = "spec.auth.header.name";
    let name: HeaderName = header
        .name
        .parse()
        .map_err(|_| Problem::invalid(field, "not a header name; write it like X-Api-Key"))?;
    if RESERVED.contains(&name.as_str()) {
        let message =
            format!("`{name}` is a connection-level header and cannot carry a credential");
        return Err(Problem::invalid(field, message));
    }
    Ok(())
}

/// What is wrong with the name of a Secret, if something is: it goes into a field selector, where
/// any other text would ask for something else.
pub fn not_a_secret_s(name: &str) -> Option<String> {
    (!is_subdomain(name)).then(|| {
        format!(
            "`{name}` is not a valid Secret name; use lowercase letters, digits, `-` and `.`, such as \
             cloud-key"
        )
    })
}

/// The header that `auth`, which passed [`check`], asks for.
pub(crate) fn resolve(auth: Option<&AuthSpec>, facts: &Facts) -> Result<Credential, Problem> {
    let Some(auth) = auth else {
        return Ok(Credential::None);
    };
    if let Some(bearer) = &auth.bearer {
        let value = header_value("spec.auth.bearer", &bearer.value_from, facts)?;
        Ok(header("authorization", format!("Bearer {value}")))
    } else if let Some(basic) = &auth.basic {
        let secret = &basic.value_from.secret_ref;
        let username = basic_part(&secret.name, "username", facts)?;
        if username.contains(':') {
            let message = format!(
                "key `username` of Secret `{}` contains a colon, which HTTP basic authentication does not allow",
                secret.name
            );
            return Err(Problem::invalid(BASIC, message));
        }
        let password = basic_part(&secret.name, "password", facts)?;
        let pair = STANDARD.encode(format!("{username}:{password}"));
        Ok(header("authorization", format!("Basic {pair}")))
    } else if let Some(key) = &auth.api_key {
        let value = header_value("spec.auth.apiKey", &key.value_from, facts)?;
        Ok(header("x-api-key", value.to_owned()))
    } else if let Some(custom) = &auth.header {
        let value = header_value("spec.auth.header", &custom.value_from, facts)?;
        Ok(header(&custom.name, value.to_owned()))
    } else {
        Ok(Credential::None)
    }
}

fn header(name: &str, value: String) -> Credential {
    Credential::Header {
        name: name.to_ascii_lowercase(),
        value: Secret::new(value),
    }
}

const BASIC: &str = "spec.auth.basic.valueFrom.secretRef";

fn basic_part<'a>(secret: &str, key: &str, facts: &'a Facts) -> Result<&'a str, Problem> {
    let key = SecretKeyRef {
        name: secret.to_owned(),
        key: key.to_owned(),
    };
    text(BASIC, &key, facts)
}

/// A value that can be sent in a header as it is.
fn header_value<'a>(
    credential: &str,
    source: &ValueSource,
    facts: &'a Facts,
) -> Result<&'a str, Problem> {
    let (field, key) = (
        &format!("{credential}.valueFrom.secretKeyRef"),
        &source.secret_key_ref,
    );
    let value = text(field, key, facts)?;
    let problem = |what: &str| {
        let message = format!("key `{}` of Secret `{}` {what}", key.key, key.name);
        Problem::invalid(field, message)
    };
    if value.is_empty() {
        return Err(problem("is empty"));
    }
    if value.trim() != value || !value.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Err(problem(
            "cannot be sent in a header: it holds a line break, outer spaces or other than ASCII \
             characters",
        ));
    }
    Ok(value)
}

/// Editors and `kubectl create secret --from-file` leave one line end behind; it is dropped.
fn text<'a>(field: &str, key: &SecretKeyRef, facts: &'a Facts) -> Result<&'a str, Problem> {
    let not_found = |message: String| Problem::new(Reason::SecretNotFound, field, message);
    let Some(secret) = facts.secrets.get(&key.name) else {
        return Err(not_found(format!(
            "there is no Secret `{}` in this namespace",
            key.name
        )));
    };
    if secret.is_token {
        let message = format!(
            "Secret `{}` holds a ServiceAccount token of this cluster, which must not be sent to a \
             backend; reference a Secret with a credential of the backend",
            key.name
        );
        return Err(Problem::invalid(field, message));
    }
    let Some(value) = secret.values.get(&key.key) else {
        return Err(not_found(missing_key(key, &secret.values)));
    };
    let value = value.expose();
    if value.contains(char::REPLACEMENT_CHARACTER) {
        let message = format!(
            "key `{}` of Secret `{}` is not UTF-8 text",
            key.key, key.name
        );
        return Err(Problem::invalid(field, message));
    }
    let value = value.strip_suffix('\n').unwrap_or(value);
    Ok(value.strip_suffix('\r').unwrap_or(value))
}

fn missing_key(key: &SecretKeyRef, secret: &BTreeMap<String, Secret>) -> String {
    let keys: Vec<_> = secret.keys().map(|key| format!("`{key}`")).collect();
    let has = if keys.is_empty() {
        "it has none".to_owned()
    } else {
        format!("it has {}", some_of(&keys))
    };
    format!("Secret `{}` has no key `{}`; {has}", key.name, key.key)
}

#[cfg(test)]
mod tests {
    use crds::auth::ValueAuth;

    use super::*;
    use crate::facts::SecretFact;

    fn bearer() -> AuthSpec {
        AuthSpec {
            bearer: Some(ValueAuth {
                value_from: SecretKeyRef {
                    name: "cloud".into(),
                    key: "token".into(),
                }
                .as_source(),
            }),
            ..AuthSpec::default()
        }
    }

    fn facts(key: &str, value: &str) -> Facts {
        let keys = BTreeMap::from([(key.to_owned(), Secret::new(value))]);
        Facts {
            secrets: BTreeMap::from([("cloud".to_owned(), keys.into())]),
            ..Facts::default()
        }
    }

    fn sent(value: &str) -> Result<String, Problem> {
        match resolve(Some(&bearer()), &facts("token", value))? {
            Credential::Header { name, value } => Ok(format!("{name}: {}", value.expose())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_line_end_after_a_token_is_dropped() {
        for value in ["abc", "abc\n", "abc\r\n"] {
            assert_eq!(sent(value).unwrap(), "authorization: Bearer abc");
        }
    }

    #[test]
    fn a_token_that_would_split_the_header_is_refused_without_being_shown() {
        for value in [
            "top\nsecret",
            "top-secret\n\n",
            " top-secret",
            "top\u{7f}secret",
            "törp",
        ] {
            let problem = sent(value).unwrap_err();
            assert_eq!(problem.reason, Reason::Invalid);
            assert!(!problem.to_string().contains("top"), "{problem}");
        }
        assert!(sent("\n").unwrap_err().message.ends_with("is empty"));
    }

    #[test]
    fn a_value_that_is_no_text_is_told_as_that() {
        let problem = sent("se\u{fffd}cret").unwrap_err();
        assert_eq!(
            problem.to_string(),
            "spec.auth.bearer.valueFrom.secretKeyRef: key `token` of Secret `cloud` is not UTF-8 text"
        );
    }

    #[test]
    fn the_token_of_a_service_account_goes_to_no_backend() {
        let secret = SecretFact {
            is_token: true,
            ..SecretFact::default()
        };
        let facts = Facts {
            secrets: BTreeMap::from([("cloud".to_owned(), secret)]),
            ..Facts::default()
        };
        let problem = resolve(Some(&bearer()), &facts).unwrap_err();
        assert!(problem.to_string().contains("ServiceAccount token"));
    }

    #[test]
    fn of_many_keys_ten_are_named() {
        let keys = (0..23).map(|n| (format!("k{n:02}"), Secret::new("x")));
        let facts = Facts {
            secrets: BTreeMap::from([(
                "cloud".to_owned(),
                keys.collect::<BTreeMap<_, _>>().into(),
            )]),
            ..Facts::default()
        };
        let problem = resolve(Some(&bearer()), &facts).unwrap_err();
        let told = problem.to_string();
        assert!(told.ends_with("`k08`, `k09` and 13 more"), "{told}");
    }

    #[test]
    fn a_missing_key_is_answered_with_those_that_exist() {
        let problem = resolve(Some(&bearer()), &facts("tokn", "x")).unwrap_err();
        assert_eq!(problem.reason, Reason::SecretNotFound);
        assert_eq!(
            problem.to_string(),
            "spec.auth.bearer.valueFrom.secretKeyRef: Secret `cloud` has no key `token`; it has `tokn`"
        );
    }
}
