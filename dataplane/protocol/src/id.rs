//! Newtypes for names that could be mixed up. All are cheap to clone.

use std::{
    borrow::{Borrow, Cow},
    fmt,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// An `LlmEndpoint`'s name inside its namespace.
    EndpointId
}
name! {
    /// One address of an endpoint: the endpoint's name for a `url`, `endpoint/pod` for a pod.
    /// Unique inside a table; live state (health, breaker, load) hangs on it.
    InstanceId
}
name! {
    /// An `OllaRoute`'s name inside its namespace.
    RouteId
}
name! {
    /// What selects a set of endpoints: `*` for all of the namespace, or the labels of a selector as JSON.
    SetId
}
name! {
    /// A model as the backend lists it. Looked up exactly first, then without regard to case.
    ModelName
}

/// Identity of a table's content: equal tables have equal revisions, whichever operator process
/// made them and whenever. There is no order among revisions.
///
/// 32 hexadecimal digits on the wire.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u128);

impl Revision {
    /// For a gauge, which holds whole numbers up to 2^53 exactly: data planes that show the same
    /// number use the same table.
    pub fn as_number(self) -> u64 {
        (self.0 & 0xffff_ffff_ffff) as u64
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'_, str>::deserialize(deserializer)?;
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        u128::from_str_radix(&text, 16)
            .ok()
            .filter(|_| digits)
            .map(Self)
            .ok_or_else(|| de::Error::custom("a revision is 32 hexadecimal digits"))
    }
}
