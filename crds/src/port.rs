//! A port by its number or by its name.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// As Kubernetes writes ports: a number, or the name of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    Number(u16),
    Name(String),
}

/// Names of ports: at least one letter, so that a number in quotes is not taken for a name.
pub const PORT_NAME_PATTERN: &str = "^[a-z0-9-]*[a-z][a-z0-9-]*$";

const LONGEST_NAME: usize = 63;

/// Whether it is a name as [`PORT_NAME_PATTERN`] has it, of at most 63 bytes.
pub fn is_port_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= LONGEST_NAME
        && text.bytes().all(inner)
        && text.bytes().any(|b| b.is_ascii_lowercase())
}

/// Prints as it is written.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u16(*number),
            Self::Name(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = Port;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port: a number from 1 to 65535, without quotes, or a port name such as http")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Port, E> {
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        let wrong = || E::invalid_value(de::Unexpected::Unsigned(number), &self);
        port.map(Port::Number).ok_or_else(wrong)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Port, E> {
        let wrong = || E::invalid_value(de::Unexpected::Signed(number), &self);
        let number = u64::try_from(number).map_err(|_| wrong())?;
        self.visit_u64(number)
    }

    /// As `80.0` and `8e1` are written.
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Port, E> {
        match whole(number) {
            Some(number) => self.visit_u64(number),
            None => Err(E::invalid_value(de::Unexpected::Float(number), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Port, E> {
        if is_port_name(text) {
            return Ok(Port::Name(text.to_owned()));
        }
        Err(E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// The number that `number` is, if it has no fraction and no sign, and is one of those that a port
/// or a status could be. `kubectl` makes whole numbers of such by itself.
pub(crate) fn whole(number: f64) -> Option<u64> {
    let fits = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    fits.then_some(number as u64)
}

impl JsonSchema for Port {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A pattern is for text, a range for numbers: each judges its own kind only.
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": PORT_NAME_PATTERN,
            "maxLength": LONGEST_NAME,
            "minimum": 1,
            "maximum": 65535
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_or_a_name() {
        for (json, expected) in [
            ("80", Some(Port::Number(80))),
            ("65535", Some(Port::Number(65535))),
            (r#""http""#, Some(Port::Name("http".into()))),
            (r#""http-2""#, Some(Port::Name("http-2".into()))),
            ("0", None),
            ("65536", None),
            ("-1", None),
            ("80.0", Some(Port::Number(80))),
            ("8e1", Some(Port::Number(80))),
            ("1.0", Some(Port::Number(1))),
            (r#""80""#, None),
            (r#""1""#, None),
            ("80.5", None),
            ("-1.0", None),
            ("1e300", None),
            ("18446744073709551615", None),
            ("99999999999999999999999", None),
            ("null", None),
            ("true", None),
            ("[80]", None),
            ("{}", None),
            (r#""HTTP""#, None),
            (r#""""#, None),
        ] {
            let read: Option<Port> = serde_json::from_str(json).ok();
            assert_eq!(read, expected, "{json}");
            if let Some(port) = read {
                let again = serde_json::to_string(&port).unwrap();
                assert_eq!(serde_json::from_str::<Port>(&again).unwrap(), port);
            }
        }
    }

    #[test]
    fn what_is_no_port_is_told_what_one_is() {
        for (json, said) in [
            (r#""80""#, "\"80\""),
            ("70000", "70000"),
            ("80.5", "80.5"),
            ("true", "true"),
            ("null", "null"),
            ("99999999999999999999999", "1e+23"),
        ] {
            let error = serde_json::from_str::<Port>(json).unwrap_err().to_string();
            assert!(error.contains(said), "{json}: {error}");
            let expected =
                "expected a port: a number from 1 to 65535, without quotes, or a port name";
            assert!(error.contains(expected), "{json}: {error}");
        }
        for yaml in ["80", "80.0", "8e1", "0x50"] {
            let port: Port = serde_saphyr::from_str(yaml).unwrap();
            assert_eq!(port, Port::Number(80), "{yaml}");
        }
        assert!(serde_saphyr::from_str::<Port>(".inf").is_err());
    }
}
