//! What several kinds share: durations, names, the words of conditions.

use std::{borrow::Cow, fmt, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A length of time as Gateway API writes it: `10s`, `1m30s`, `500ms`. Kept as text, so that an
/// object comes back as it was written.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(String);

/// GEP-2257.
pub const DURATION_PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

impl Duration {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `None` when the text is not a duration.
    pub fn parse(&self) -> Option<time::Duration> {
        let mut rest = self.0.as_str();
        let mut total = time::Duration::ZERO;
        for part in 0..=4 {
            if rest.is_empty() {
                return (part > 0).then_some(total);
            }
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, unit) = rest.split_at(digits);
            if digits > 5 {
                return None;
            }
            let number: u64 = number.parse().ok()?;
            let (unit_ms, length) = if unit.starts_with("ms") {
                (1, 2)
            } else {
                match unit.bytes().next()? {
                    b'h' => (3_600_000, 1),
                    b'm' => (60_000, 1),
                    b's' => (1_000, 1),
                    _ => return None,
                }
            };
            total += time::Duration::from_millis(number * unit_ms);
            rest = unit.get(length..)?;
        }
        None
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": DURATION_PATTERN })
    }
}

/// Name of an object as DNS subdomains are written (RFC 1123), which Secrets' names are.
pub const SUBDOMAIN_PATTERN: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Whether it is a name as [`SUBDOMAIN_PATTERN`] has it, of at most 253 bytes.
pub fn is_subdomain(name: &str) -> bool {
    let good = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty()
            && part.bytes().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(good)
}

/// Condition types, positive polarity, Gateway API's words.
pub mod condition {
    /// The object is understood and has an effect.
    pub const ACCEPTED: &str = "Accepted";
    /// All it refers to exists and may be used.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// The data planes of the namespace use it as it stands.
    pub const PROGRAMMED: &str = "Programmed";
    /// `LlmEndpoint`: data planes see at least one usable instance. `OllaRoute`: it is programmed,
    /// and some address can take its requests.
    pub const READY: &str = "Ready";
}

/// Why a condition is as it is: a closed list, because alerts and scripts match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    Accepted,
    ResolvedRefs,
    Programmed,
    Ready,
    /// A value that the schema lets pass but that makes no sense here.
    Invalid,
    /// The object does not have the shape of its kind.
    Undecodable,
    /// `type` names no profile.
    UnknownType,
    /// Another object of the same precedence came first.
    Conflicted,
    /// With it, the routing table would be larger than a namespace's may be.
    TooLarge,
    /// A named `LlmEndpoint` does not exist, or was not accepted.
    EndpointNotFound,
    /// A route selects no accepted `LlmEndpoint`.
    NoEndpoints,
    /// A named Service, or its port, does not exist.
    ServiceNotFound,
    /// No selected pod has a container port of that name.
    PortNotFound,
    /// A named Secret, or a key in it, does not exist.
    SecretNotFound,
    /// The target can only be found out inside a cluster.
    ClusterRequired,
    /// No ready address, or no data plane sees one that works.
    NoReadyInstances,
    /// Not known yet: not all data planes have acknowledged it, none has reported, or the API
    /// server has not listed what it depends on.
    Pending,
    /// A data plane refused the table.
    Refused,
    /// There is none because it is switched off, or because nothing needs it.
    Disabled,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
            Self::Ready => "Ready",
            Self::Invalid => "Invalid",
            Self::Undecodable => "Undecodable",
            Self::UnknownType => "UnknownType",
            Self::Conflicted => "Conflicted",
            Self::TooLarge => "TooLarge",
            Self::EndpointNotFound => "EndpointNotFound",
            Self::NoEndpoints => "NoEndpoints",
            Self::ServiceNotFound => "ServiceNotFound",
            Self::PortNotFound => "PortNotFound",
            Self::SecretNotFound => "SecretNotFound",
            Self::ClusterRequired => "ClusterRequired",
            Self::NoReadyInstances => "NoReadyInstances",
            Self::Pending => "Pending",
            Self::Refused => "Refused",
            Self::Disabled => "Disabled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_api_server_takes_for_a_secret() {
        for good in ["a", "cloud-key", "a.b-c.1", &"x".repeat(253)] {
            assert!(is_subdomain(good), "{good}");
        }
        let long = "x".repeat(254);
        for bad in [
            "", "cloud,", "a=b", "A", "-a", "a-", "a..b", ".a", "a_b", "a b", &long,
        ] {
            assert!(!is_subdomain(bad), "{bad}");
        }
    }

    #[test]
    fn durations_read_as_gateway_api_writes_them() {
        for (text, ms) in [
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1h", Some(3_600_000)),
            ("0s", Some(0)),
            ("", None),
            ("10", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("123456s", None),
            ("1s1s1s1s1s", None),
        ] {
            let read = Duration::new(text).parse();
            assert_eq!(read, ms.map(time::Duration::from_millis), "{text:?}");
        }
    }
}
