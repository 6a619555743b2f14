//! Which route takes a request. In: what the client asked. Out: the first match, in order of
//! precedence over the matches of all routes, that fits, and the route that it belongs to.

use std::{fmt, sync::Arc};

use dataplane_protocol::{
    Dialect,
    table::{Endpoint, Precedence, Profile, Route, RouteMatch},
};

use crate::glob;

/// What a request says about where it wants to go.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    /// Normalised: nothing is escaped that need not be.
    pub path: &'a str,
    /// Lower-case name → value.
    pub header: &'a dyn Fn(&str) -> Option<&'a str>,
    pub model: Option<&'a str>,
    /// `P` of `/olla/P/…`: only endpoints whose profile lists it. Absent: any.
    pub prefix: Option<&'a str>,
    /// Only endpoints whose profile speaks it. Absent: any.
    pub dialect: Option<Dialect>,
    /// Only endpoints that take what is asked for. Absent: all do.
    pub permits: Option<&'a dyn Fn(&Endpoint) -> bool>,
}

impl Query<'_> {
    pub(crate) fn is_permitted_at(&self, endpoint: &Endpoint) -> bool {
        self.permits.is_none_or(|permits| permits(endpoint))
    }
}

impl fmt::Debug for Query<'_> {
    /// Without headers: they hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query")
            .field("path", &self.path)
            .field("model", &self.model)
            .field("prefix", &self.prefix)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

/// The matches of all routes in the order in which they are tried. A route with several matches
/// stands in it several times: a request that two routes could take goes by the match that fits,
/// not by what else its route takes.
#[derive(Debug, Default)]
pub(crate) struct Rules(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    route: Arc<Route>,
    found: Place,
}

impl Rule {
    fn precedence(&self) -> Precedence {
        let one = self.route.matches.get(self.found.matched);
        one.map_or_else(
            || self.route.precedence(),
            |one| self.route.precedence_of(one),
        )
    }
}

/// What takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Place in the list of routes.
    pub(crate) route: usize,
    /// Place among the route's matches.
    pub(crate) matched: usize,
}

impl Rules {
    /// Of all routes at once, with their places.
    pub(crate) fn of<'r>(routes: impl Iterator<Item = (usize, &'r Arc<Route>)>) -> Self {
        let mut rules: Vec<_> = routes
            .flat_map(|(place, route)| {
                let matches = route.matches.iter().enumerate();
                matches.map(move |(matched, one)| {
                    let found = Place {
                        route: place,
                        matched,
                    };
                    let route = route.clone();
                    (route.precedence_of(one), Rule { route, found })
                })
            })
            .collect();
        // Stable: equal matches of one route stay as they were written.
        rules.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self(rules.into_iter().map(|(_, rule)| rule).collect())
    }

    /// The route at `place` is one more.
    pub(crate) fn insert(&mut self, place: usize, route: &Arc<Route>) {
        for (matched, one) in route.matches.iter().enumerate() {
            let precedence = route.precedence_of(one);
            let at = self
                .0
                .partition_point(|rule| rule.precedence() <= precedence);
            let found = Place {
                route: place,
                matched,
            };
            let route = route.clone();
            self.0.insert(at, Rule { route, found });
        }
    }

    /// Without this route.
    pub(crate) fn remove(&mut self, route: &Route) {
        for one in &route.matches {
            let precedence = route.precedence_of(one);
            let from = self
                .0
                .partition_point(|rule| rule.precedence() < precedence);
            let rest = self.0.get(from..).unwrap_or_default();
            // Several, where the route says the same match twice.
            let equal = rest.partition_point(|rule| rule.precedence() == precedence);
            self.0.drain(from..from + equal);
        }
    }

    pub(crate) fn find(&self, query: &Query<'_>) -> Option<Place> {
        let fits = |rule: &&Rule| {
            let one = rule.route.matches.get(rule.found.matched);
            one.is_some_and(|one| fits(one, query))
        };
        self.0.iter().find(fits).map(|rule| rule.found)
    }
}

/// Whether backends of this type can be asked: its prefixes and dialects against the request's.
pub(crate) fn reaches(profile: &Profile, prefix: Option<&str>, dialect: Option<Dialect>) -> bool {
    prefix.is_none_or(|prefix| profile.prefixes.iter().any(|known| known == prefix))
        && dialect.is_none_or(|dialect| profile.dialects.contains(&dialect))
}

fn fits(matches: &RouteMatch, query: &Query<'_>) -> bool {
    let path = matches.path_prefix.as_deref();
    let inner = || after_product_prefix(query.path);
    path.is_none_or(|prefix| {
        has_prefix(query.path, prefix) || inner().is_some_and(|path| has_prefix(path, prefix))
    }) && (matches.models.is_empty()
        || query
            .model
            .is_some_and(|model| glob::any_fits(&matches.models, model)))
        && matches
            .headers
            .iter()
            .all(|header| (query.header)(&header.name) == Some(header.value.as_str()))
}

/// What follows `/olla/<prefix>`: the same operation is asked for by both paths.
fn after_product_prefix(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/olla/")?;
    let (_, inner) = rest.split_at_checked(rest.find('/')?)?;
    Some(inner)
}

/// By whole segments: `/v1` holds `/v1` and `/v1/chat`, not `/v1beta`.
fn has_prefix(path: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use dataplane_protocol::table::HeaderMatch;

    use super::*;

    fn query<'a>(path: &'a str, model: Option<&'a str>) -> Query<'a> {
        Query {
            path,
            header: &|name| (name == "x-team").then_some("blue"),
            model,
            prefix: None,
            dialect: None,
            permits: None,
        }
    }

    fn by_path(prefix: &str) -> RouteMatch {
        RouteMatch {
            path_prefix: Some(prefix.into()),
            ..RouteMatch::default()
        }
    }

    #[test]
    fn a_path_prefix_fits_whole_segments_only() {
        for (prefix, path, expected) in [
            ("/", "/anything", true),
            ("/", "/", true),
            ("/v1", "/v1", true),
            ("/v1", "/v1/chat", true),
            ("/v1/", "/v1", true),
            ("/v1", "/v1beta", false),
            ("/v1/chat", "/v1", false),
            ("/v1/audio", "/olla/openai/v1/audio/speech", true),
            ("/olla/openai", "/olla/openai/v1/audio", true),
            ("/v1/audio", "/olla/openai/v1/chat", false),
            ("/v1", "/olla/v1", false),
            ("/v1/audio", "/olla/openai/x/v1/audio", false),
        ] {
            let fit = fits(&by_path(prefix), &query(path, None));
            assert_eq!(fit, expected, "{prefix} on {path}");
        }
    }

    #[test]
    fn a_route_for_models_needs_a_model_and_ignores_case() {
        let matches = RouteMatch {
            models: vec!["gpt-*".into(), "llama3".into()],
            ..RouteMatch::default()
        };
        assert!(fits(&matches, &query("/", Some("GPT-4o"))));
        assert!(fits(&matches, &query("/", Some("llama3"))));
        assert!(!fits(&matches, &query("/", Some("llama3:8b"))));
        assert!(!fits(&matches, &query("/", None)));
    }

    #[test]
    fn all_headers_of_a_route_must_be_there_with_their_value() {
        let header = |name: &str, value: &str| HeaderMatch {
            name: name.into(),
            value: value.into(),
        };
        let with = |headers| RouteMatch {
            headers,
            ..RouteMatch::default()
        };
        assert!(fits(
            &with(vec![header("x-team", "blue")]),
            &query("/", None)
        ));
        assert!(!fits(
            &with(vec![header("x-team", "Blue")]),
            &query("/", None)
        ));
        assert!(!fits(
            &with(vec![header("x-team", "blue"), header("x-other", "1")]),
            &query("/", None)
        ));
    }
}
