//! One `OllaRoute`. In: the object. Out: a route of the table, or why it makes none.

mod policy;

use std::{collections::BTreeSet, sync::Arc};

use crds::{
    LabelSelector, OllaRoute, Reason,
    route::{EndpointsSpec, LoadBalancer, PriorityOrder as PriorityOrderSpec},
};
use dataplane_protocol::{
    EndpointId, RouteId,
    table::{Balancer, EndpointRef, HeaderMatch, PriorityOrder, Route, RouteMatch, Selection},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    Problem,
    labels::well_formed,
    sets,
    verdict::{Problems, some_of},
};

/// A route that makes sense by itself.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) route: Arc<Route>,
    /// One for each of its matches, in their order.
    pub(crate) keys: Vec<Arc<Match>>,
    /// The spec names no match.
    fits_all: bool,
    pub(crate) selector: Option<LabelSelector>,
}

impl Parsed {
    /// Endpoints that it names.
    pub(crate) fn named(&self) -> impl Iterator<Item = &str> {
        let refs = self.route.endpoints.refs.iter();
        refs.map(|named| named.endpoint.as_str())
    }

    /// Field of the match at this place.
    pub(crate) fn field(&self, place: usize) -> String {
        if self.fits_all {
            return "spec.matches".to_owned();
        }
        matches_at(place)
    }
}

/// In seconds since 1970.
pub(crate) fn created(metadata: &ObjectMeta) -> Option<i64> {
    let created = metadata.creation_timestamp.as_ref();
    created.map(|time| time.0.as_second())
}

/// What makes two matches fit the same requests.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Match {
    path_prefix: Option<String>,
    models: BTreeSet<String>,
    headers: BTreeSet<(String, String)>,
}

impl Match {
    fn of(matches: &RouteMatch) -> Self {
        let headers = matches.headers.iter();
        Self {
            path_prefix: matches.path_prefix.clone(),
            models: matches.models.iter().cloned().collect(),
            headers: headers.map(|h| (h.name.clone(), h.value.clone())).collect(),
        }
    }
}

fn name_of(object: &OllaRoute) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn parsed(object: &OllaRoute) -> Result<Parsed, Problem> {
    let route = parse(object)?;
    let endpoints = object.spec.endpoints.as_ref();
    Ok(Parsed {
        keys: (route.matches.iter().map(|one| Arc::new(Match::of(one)))).collect(),
        fits_all: object.spec.matches.is_empty(),
        selector: endpoints.and_then(|it| it.selector.clone()),
        route: Arc::new(route),
    })
}

fn matches_at(place: usize) -> String {
    format!("spec.matches[{place}]")
}

/// What is wrong with its spec by itself, if something is.
pub fn problem(object: &OllaRoute) -> Option<Problem> {
    parse(object).err()
}

fn parse(object: &OllaRoute) -> Result<Route, Problem> {
    let spec = &object.spec;
    let mut problems = Problems::default();
    let matches = matches(&spec.matches, &mut problems);
    let endpoints = problems.take(selection(spec.endpoints.as_ref()));
    let breaker = policy::breaker(spec.engine, spec.circuit_breaker.as_ref());
    let breaker = problems.take(breaker);
    let timeouts = policy::timeouts(&spec.timeouts, &mut problems);
    let parts = endpoints.zip(breaker.zip(timeouts));
    let made = parts.map(|(endpoints, (breaker, timeouts))| Route {
        id: RouteId::from(name_of(object)),
        created: created(&object.metadata),
        matches,
        endpoints: Selection {
            priority_order: match spec.priority_order {
                PriorityOrderSpec::LowestFirst => PriorityOrder::LowestFirst,
                PriorityOrderSpec::HighestFirst => PriorityOrder::HighestFirst,
            },
            ..endpoints
        },
        balancer: match spec.load_balancer {
            LoadBalancer::Priority => Balancer::Priority,
            LoadBalancer::RoundRobin => Balancer::RoundRobin,
            LoadBalancer::LeastConnections => Balancer::LeastConnections,
        },
        failover: policy::failover(spec.engine, spec.failover.as_ref()),
        breaker,
        timeouts,
    });
    let made = problems.end(made)?;
    // No data plane would take a table that holds it.
    let checked = made.check();
    checked.map_err(|what| Problem::invalid("spec", what))?;
    Ok(made)
}

/// As many as there are in `spec`, in its order; where there is none, the one that fits all.
fn matches(spec: &[crds::route::RouteMatch], problems: &mut Problems) -> Vec<RouteMatch> {
    if spec.is_empty() {
        return vec![RouteMatch::default()];
    }
    let all = spec.iter().enumerate();
    all.filter_map(|(at, one)| problems.take(one_match(&matches_at(at), one)))
        .collect()
}

fn one_match(field: &str, spec: &crds::route::RouteMatch) -> Result<RouteMatch, Problem> {
    let path_prefix = spec.path_prefix.as_deref();
    let path_prefix = path_prefix
        .map(|text| self::path_prefix(field, text))
        .transpose()?;
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for (at, header) in spec.headers.iter().enumerate() {
        let name = header.name.to_ascii_lowercase();
        if headers.iter().any(|seen| seen.name == name) {
            return Err(Problem::invalid(
                &format!("{field}.headers[{at}].name"),
                format!(
                    "`{}` is listed more than once, so no request can match",
                    header.name
                ),
            ));
        }
        headers.push(HeaderMatch {
            name,
            value: header.value.clone(),
        });
    }
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(RouteMatch {
        path_prefix: path_prefix.flatten(),
        models: spec.models.clone(),
        headers,
    })
}

/// Without the trailing slash that whole segments do not need; `/` alone restricts nothing.
fn path_prefix(field: &str, text: &str) -> Result<Option<String>, Problem> {
    if !text.starts_with('/') || text.contains(['?', '#']) {
        return Err(Problem::invalid(
            &format!("{field}.pathPrefix"),
            format!("`{text}` is not a path; write it like /olla/openai"),
        ));
    }
    let trimmed = text.trim_end_matches('/');
    Ok((!trimmed.is_empty()).then(|| trimmed.to_owned()))
}

fn selection(spec: Option<&EndpointsSpec>) -> Result<Selection, Problem> {
    let Some(spec) = spec else {
        return Ok(Selection {
            set: Some(sets::all()),
            ..Selection::default()
        });
    };
    if spec.refs.is_empty() && spec.selector.is_none() {
        return Err(Problem::invalid(
            "spec.endpoints",
            "set refs, selector or both; omit endpoints to use all LlmEndpoints of the namespace",
        ));
    }
    if let Some(selector) = &spec.selector {
        well_formed("spec.endpoints.selector", selector)?;
    }
    let mut named = BTreeSet::new();
    for (at, reference) in spec.refs.iter().enumerate() {
        if !named.insert(&reference.name) {
            return Err(Problem::invalid(
                &format!("spec.endpoints.refs[{at}].name"),
                format!("`{}` is listed more than once", reference.name),
            ));
        }
    }
    let refs = spec.refs.iter().map(|reference| EndpointRef {
        endpoint: EndpointId::from(reference.name.as_str()),
        priority: reference.priority,
        weight: reference.weight,
    });
    Ok(Selection {
        set: spec.selector.as_ref().map(sets::of),
        refs: refs.collect(),
        ..Selection::default()
    })
}

pub(crate) fn resolved(
    selection: &Selection,
    accepted: &impl Fn(&str) -> bool,
) -> Result<(), Problem> {
    let names = selection.refs.iter().map(|named| named.endpoint.as_str());
    let mut missing: Vec<&str> = names.filter(|name| !accepted(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_unstable();
    let quoted: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
    Err(Problem::new(
        Reason::EndpointNotFound,
        "spec.endpoints.refs",
        format!(
            "no accepted LlmEndpoint named {} in this namespace; the remaining refs are used",
            some_of(&quoted)
        ),
    ))
}
