//! The routing table of one tenant namespace: the one form that operator, wire, disk and
//! decisions share. Immutable once made, sorted, and complete: a reader needs nothing else.
//!
//! All durations are whole milliseconds and say so in their names.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{Dialect, EndpointId, InstanceId, ModelName, ResourceKey, RouteId, Secret, SetId};

pub use crate::selection::{EndpointRef, EndpointSet, PriorityOrder, Selection};

/// Everything a data plane needs to route one namespace's traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingTable {
    pub namespace: String,
    /// Backend types by name: those that `endpoints` use, and those that `auto` may turn out
    /// to be.
    pub profiles: BTreeMap<String, Arc<Profile>>,
    pub endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    /// Endpoints that several routes select together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sets: BTreeMap<SetId, Arc<EndpointSet>>,
    /// Usable addresses of each endpoint, sorted by id. An unready or terminating pod is not
    /// here. An endpoint without any has an empty list.
    pub instances: BTreeMap<EndpointId, Arc<Vec<Instance>>>,
    /// In order of [precedence](Route::precedence): the first whose match fits takes the request.
    pub routes: Vec<Arc<Route>>,
    /// What the operator does not know at this moment: data planes leave those resources as they
    /// hold them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keep: BTreeSet<ResourceKey>,
}

impl RoutingTable {
    /// A copy that may be written to disk: each credential becomes
    /// [`Credential::Withheld`], and its endpoint waits for the operator.
    #[must_use]
    pub fn without_credentials(&self) -> Self {
        let mut table = self.clone();
        for endpoint in table.endpoints.values_mut() {
            if matches!(endpoint.credential, Credential::Header { .. }) {
                Arc::make_mut(endpoint).credential = Credential::Withheld;
            }
        }
        table
    }
}

/// What a backend type is: data, from `crds/compile/profiles`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The `type` of an `LlmEndpoint`, and the value of `X-Olla-Backend-Type`.
    pub name: String,
    /// `P` in `/olla/P/…` that reach this type, `openai` among them for compatible ones.
    pub prefixes: Vec<String>,
    /// Dialects that the backend itself speaks.
    pub dialects: Vec<Dialect>,
    /// Probe paths, tried in order until one answers 2xx; the one that did is kept.
    pub health_paths: Vec<String>,
    /// Where models are listed, tried in order until one parses.
    pub listings: Vec<Listing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub path: String,
    pub format: ListingFormat,
    /// Only in `auto`: the type that an endpoint turns out to be when this listing parses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detects: Option<String>,
}

/// Shape of a model listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListingFormat {
    /// `{"data":[{"id":…}]}`
    Openai,
    /// `{"models":[{"name":…}]}`
    Ollama,
    /// `{"data":[{"id":…,"state":…}]}` of `/api/v0/models`
    LmStudio,
}

/// A place that can answer: what all its instances have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: EndpointId,
    /// Key into [`RoutingTable::profiles`]; `auto` until a listing tells.
    pub profile: String,
    /// Which tier it is in, in the direction that the route says; a route may say another number.
    pub priority: u32,
    /// Share inside its tier; 0 = none. A route may say another.
    pub weight: u32,
    /// Put before every path; empty or starting with `/` and not ending with it.
    pub base_path: String,
    pub credential: Credential,
    /// For which requests the credential is used.
    #[serde(default, skip_serializing_if = "PathScope::is_default")]
    pub paths: PathScope,
    pub health: HealthPolicy,
    pub models: ModelPolicy,
}

/// Requests that an endpoint with a credential takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathScope {
    /// Those that ask a model or list the models. Others are refused.
    #[default]
    Inference,
    /// Every path: whoever reaches the data plane may do what the credential may.
    All,
}

impl PathScope {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What is sent to the backend to be let in. Clients' own credentials never are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Credential {
    None,
    /// One request header, lower-case name.
    Header {
        name: String,
        value: Secret,
    },
    /// There is one, but this copy of the table does not hold it (read back from disk). The
    /// endpoint's instances are not selectable.
    Withheld,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthPolicy {
    pub mode: HealthMode,
    /// As [`Profile::health_paths`]; those, or the one the user named.
    pub paths: Vec<String>,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    /// Failed probes in a row that make an instance unhealthy.
    pub unhealthy_threshold: u32,
    /// Good probes in a row that make it healthy again.
    pub healthy_threshold: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthMode {
    /// Probe at the interval.
    Active,
    /// No probes while healthy; after a connection failure of live traffic, probe until it is
    /// back. For endpoints where each request is billed or limited.
    Passive,
    /// Always healthy; the breaker alone judges.
    Disabled,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPolicy {
    /// Absent: discovery is off.
    pub discovery: Option<Discovery>,
    /// Models it serves whatever a listing says.
    #[serde(rename = "static")]
    pub fixed: Vec<ModelName>,
    /// Globs (`*`, `?`); when not empty, only matching models are taken.
    pub include: Vec<String>,
    /// Globs; matching models are left out, also those of `fixed`.
    pub exclude: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovery {
    pub listings: Vec<Listing>,
    pub interval_ms: u64,
}

/// One address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub scheme: Scheme,
    /// Name or IP address, without brackets.
    pub host: String,
    pub port: u16,
}

impl Instance {
    /// Its host as it stands before a port: an IPv6 address has brackets there.
    pub fn host_in_url(&self) -> Cow<'_, str> {
        if self.host.contains(':') {
            format!("[{}]", self.host).into()
        } else {
            self.host.as_str().into()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    Http,
    Https,
}

/// How requests that fit find an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub id: RouteId,
    /// When the object was created, in seconds since 1970; absent outside a cluster. Of routes
    /// whose matches are equally specific the oldest comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
    /// It takes a request that fits any of them; at least one.
    pub matches: Vec<RouteMatch>,
    /// See [`RoutingTable::targets`].
    pub endpoints: Selection,
    pub balancer: Balancer,
    pub failover: FailoverPolicy,
    /// Absent: no breaker (engine `sherpa`); neither counts nor looks.
    pub breaker: Option<BreakerPolicy>,
    pub timeouts: Timeouts,
}

/// Smaller is more specific; see [`RouteMatch::specificity`].
pub type Specificity = (Reverse<usize>, bool, Reverse<usize>);

/// The order of matches, and of routes by their first; see [`Route::precedence_of`].
pub type Precedence = (Specificity, (bool, Option<i64>), RouteId);

impl Route {
    /// Of its most specific match.
    pub fn precedence(&self) -> Precedence {
        let all = self.matches.iter().map(RouteMatch::specificity);
        let first = all.min();
        self.precedence_at(first.unwrap_or_else(|| RouteMatch::default().specificity()))
    }

    /// Of one of its matches. Smaller comes first: the more specific match, then the older object
    /// (one that no cluster dated is younger than all that one did), then the name. It depends on
    /// nothing but the route, so that a route that comes or goes changes no other.
    pub fn precedence_of(&self, one: &RouteMatch) -> Precedence {
        self.precedence_at(one.specificity())
    }

    fn precedence_at(&self, specificity: Specificity) -> Precedence {
        let age = (self.created.is_none(), self.created);
        (specificity, age, self.id.clone())
    }
}

impl RouteMatch {
    /// Smaller comes first. Of two prefixes that fit one path, the longer text has more segments.
    fn specificity(&self) -> Specificity {
        (
            Reverse(self.path_prefix.as_ref().map_or(0, String::len)),
            self.models.is_empty(),
            Reverse(self.headers.len()),
        )
    }
}

/// All members that are present must fit. An empty one fits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteMatch {
    /// Matched by whole segments against the path as the client sent it, and
    /// against what of it follows `/olla/<prefix>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// Globs (`*`, `?`), any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// All of them, names in lower case, values exact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMatch {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balancer {
    /// Lowest usable tier; weighted round robin inside it.
    Priority,
    /// Weighted round robin over all tiers together.
    RoundRobin,
    /// Fewest requests in flight (in proportion to weight) over all tiers together.
    LeastConnections,
}

/// When a request that failed before its first byte went out may be tried elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverPolicy {
    pub on: FailoverOn,
    /// All attempts of one request together, the first included; at least 1.
    pub attempts: u32,
    /// Attempts beyond the first, as percent of requests; a floor keeps quiet routes able to
    /// fail over at all.
    pub budget_percent: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverOn {
    pub connect_failure: bool,
    /// Reset or close before the first byte of the answer, and an attempt that was cut because
    /// its instance failed its health check.
    pub reset: bool,
    pub first_token_timeout: bool,
    /// Sorted.
    pub statuses: Vec<u16>,
    /// First digits of whole classes of statuses, sorted: 5 for all from 500 to 599.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<u16>,
}

impl FailoverOn {
    pub fn status(&self, status: u16) -> bool {
        self.statuses.contains(&status) || self.classes.contains(&(status / 100))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerPolicy {
    /// Failures in a row that open it.
    pub consecutive_failures: u32,
    /// Failures as percent of the last 10 seconds' results that open it; absent = not judged.
    pub failure_percent: Option<u32>,
    /// Results that must lie in the window before `failure_percent` counts.
    pub min_requests: u32,
    /// First open time; doubles with each failed half-open, up to `max_open_for_ms`.
    pub open_for_ms: u64,
    pub max_open_for_ms: u64,
    /// Requests let through at a time while half-open.
    pub half_open_requests: u32,
    /// Of an endpoint's route: at most this share of instances may be open at once.
    pub max_ejected_percent: u32,
    pub when_all_open: WhenAllOpen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenAllOpen {
    /// Send to the instance that may close first: a chance beats a sure error.
    TryBest,
    /// Answer 503 at once.
    Fail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    pub connect_ms: u64,
    /// From sending the request to the first byte of a streamed answer's body.
    pub first_token_ms: u64,
    /// The same for an answer that is not streamed: there it spans the whole generation, so
    /// only a value that the user set counts.
    pub first_token_whole_ms: Option<u64>,
    /// Between two chunks of a stream.
    pub stream_idle_ms: u64,
    /// From the client's request to the end of the answer, all attempts together.
    pub request_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::endpoint;

    fn table_with_secret() -> RoutingTable {
        let mut table = RoutingTable {
            namespace: "a".into(),
            ..RoutingTable::default()
        };
        table.endpoints.insert(
            "e".into(),
            Arc::new(Endpoint {
                credential: Credential::Header {
                    name: "authorization".into(),
                    value: Secret::new("Bearer top-secret"),
                },
                ..endpoint("e")
            }),
        );
        table
    }

    #[test]
    fn debug_output_never_shows_a_credential() {
        assert!(!format!("{:?}", table_with_secret()).contains("top-secret"));
    }

    #[test]
    fn the_copy_for_disk_holds_no_credential_but_remembers_there_was_one() {
        let copy = table_with_secret().without_credentials();
        assert!(!serde_json::to_string(&copy).unwrap().contains("top-secret"));
        assert_eq!(copy.endpoints["e"].credential, Credential::Withheld);
    }
}
