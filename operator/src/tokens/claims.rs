//! Whether a token looks like one that can be good for us: what it says of itself, unproven. Pure.
//!
//! A token that says that it is for somebody else, or out of date, costs the API server nothing.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use dataplane_protocol::sync::AUDIENCE;
use serde::Deserialize;

/// Clocks differ. Seconds.
const LEEWAY: i64 = 60;

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Audience,
    /// Seconds since 1970.
    exp: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Audience {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

/// `now`: seconds since 1970. The error says why the API server need not be asked.
pub(super) fn check(token: &str, now: i64) -> Result<(), String> {
    let not = || "not a ServiceAccount token".to_owned();
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(not());
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| not())?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| not())?;
    let ours = match &claims.aud {
        Audience::None => false,
        Audience::One(audience) => audience == AUDIENCE,
        Audience::Many(audiences) => audiences.iter().any(|audience| audience == AUDIENCE),
    };
    if !ours {
        return Err("issued for another audience (use a projected token)".into());
    }
    if claims
        .exp
        .is_some_and(|exp| exp.saturating_add(LEEWAY) < now)
    {
        return Err("expired".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn only_what_may_be_a_token_for_us_is_worth_a_question() {
        for (claims, good) in [
            (r#"{"aud":["olla-operator"],"exp":1000}"#, true),
            (r#"{"aud":"olla-operator"}"#, true),
            (r#"{"aud":"olla-operator","exp":9223372036854775807}"#, true),
            (r#"{"aud":["olla-operator"],"exp":900}"#, false),
            (
                r#"{"aud":["https://kubernetes.default.svc"],"exp":2000}"#,
                false,
            ),
            (r#"{"exp":2000}"#, false),
            (r#"{"aud":7}"#, false),
            ("no JSON", false),
        ] {
            assert_eq!(check(&token(claims), 1000).is_ok(), good, "{claims}");
        }
        for text in ["", "a", "a.b", "a.b.c", "....", "e30.e30.e30.e30"] {
            assert!(check(text, 0).is_err(), "{text}");
        }
    }
}
