//! What sends a request to another endpoint, as a user names it: a word, a status, a class.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::port::whole;

/// One entry of `failover.causes`. Statuses may be numbers or text, so that both `429` and
/// `"429"` do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverCause {
    ConnectFailure,
    Reset,
    FirstTokenTimeout,
    /// 400 to 599.
    Status(u16),
    /// First digit, 4 or 5.
    Class(u16),
}

/// Text that is a cause.
pub const CAUSE_PATTERN: &str = "^(ConnectFailure|Reset|FirstTokenTimeout|[45][0-9][0-9]|[45]xx)$";

const FIRST: u16 = 400;
const LAST: u16 = 599;

/// A text or number that is no cause.
#[derive(Debug)]
pub struct NoCause(String);

impl fmt::Display for NoCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` must be ConnectFailure, Reset, FirstTokenTimeout, a status from {FIRST} to \
             {LAST}, 4xx or 5xx",
            self.0
        )
    }
}

impl std::error::Error for NoCause {}

impl FailoverCause {
    fn status(number: u64) -> Result<Self, NoCause> {
        let status = u16::try_from(number).ok();
        let status = status.filter(|status| (FIRST..=LAST).contains(status));
        status
            .map(Self::Status)
            .ok_or_else(|| NoCause(number.to_string()))
    }
}

impl FromStr for FailoverCause {
    type Err = NoCause;

    fn from_str(text: &str) -> Result<Self, NoCause> {
        let wrong = || NoCause(text.to_owned());
        Ok(match text {
            "ConnectFailure" => Self::ConnectFailure,
            "Reset" => Self::Reset,
            "FirstTokenTimeout" => Self::FirstTokenTimeout,
            "4xx" => Self::Class(4),
            "5xx" => Self::Class(5),
            _ if text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit()) => {
                Self::status(text.parse().map_err(|_| wrong())?)?
            }
            _ => return Err(wrong()),
        })
    }
}

impl Serialize for FailoverCause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::ConnectFailure => serializer.serialize_str("ConnectFailure"),
            Self::Reset => serializer.serialize_str("Reset"),
            Self::FirstTokenTimeout => serializer.serialize_str("FirstTokenTimeout"),
            Self::Status(status) => serializer.collect_str(status),
            Self::Class(class) => serializer.collect_str(&format_args!("{class}xx")),
        }
    }
}

impl<'de> Deserialize<'de> for FailoverCause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = FailoverCause;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a failover cause: ConnectFailure, Reset, FirstTokenTimeout, a status from {FIRST} to \
             {LAST}, 4xx or 5xx"
        )
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<FailoverCause, E> {
        FailoverCause::status(number).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<FailoverCause, E> {
        let wrong = || E::custom(NoCause(number.to_string()));
        self.visit_u64(u64::try_from(number).map_err(|_| wrong())?)
    }

    /// As `503.0` is written.
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<FailoverCause, E> {
        match whole(number) {
            Some(number) => self.visit_u64(number),
            None => Err(E::custom(NoCause(number.to_string()))),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<FailoverCause, E> {
        text.parse().map_err(E::custom)
    }
}

impl JsonSchema for FailoverCause {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "FailoverCause".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A pattern is for text, a range for numbers: each judges its own kind only.
        json_schema!({
            "description": "`ConnectFailure`, `Reset`, `FirstTokenTimeout`, a status from 400 to \
                599 (`503`), or a class of statuses (`5xx`).",
            "x-kubernetes-int-or-string": true,
            "pattern": CAUSE_PATTERN,
            "minimum": FIRST,
            "maximum": LAST
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_a_word_a_status_or_a_class() {
        for (json, expected) in [
            (r#""Reset""#, Some(FailoverCause::Reset)),
            (r#""408""#, Some(FailoverCause::Status(408))),
            ("429", Some(FailoverCause::Status(429))),
            (r#""5xx""#, Some(FailoverCause::Class(5))),
            (r#""4xx""#, Some(FailoverCause::Class(4))),
            ("599", Some(FailoverCause::Status(599))),
            ("399", None),
            ("600", None),
            ("-1", None),
            ("503.0", Some(FailoverCause::Status(503))),
            ("5e2", Some(FailoverCause::Status(500))),
            ("503.5", None),
            ("-503.0", None),
            ("1", None),
            (r#""1""#, None),
            ("1e300", None),
            ("99999999999999999999999", None),
            ("null", None),
            ("true", None),
            ("[503]", None),
            (r#""503.0""#, None),
            (r#""200""#, None),
            (r#""3xx""#, None),
            (r#""5XX""#, None),
            (r#""reset""#, None),
            (r#""+50""#, None),
            (r#""""#, None),
        ] {
            let read: Result<FailoverCause, _> = serde_json::from_str(json);
            assert_eq!(read.as_ref().ok(), expected.as_ref(), "{json}");
            if let Err(error) = &read {
                let error = error.to_string();
                let list = "ConnectFailure, Reset, FirstTokenTimeout, a status from 400 to 599, 4xx or 5xx";
                assert!(error.contains(list), "{json}: {error}");
            }
            if let Ok(cause) = read {
                let again = serde_json::to_string(&cause).unwrap();
                assert_eq!(
                    serde_json::from_str::<FailoverCause>(&again).unwrap(),
                    cause
                );
            }
        }
    }
}
