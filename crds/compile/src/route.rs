//! One `OllaRoute`. In: the object. Out: a route of the table, or why it makes none.

mod policy;

use std::{
    collections::BTreeSet,
    hash::{Hash, Hasher},
    sync::Arc,
};

use crds::{
    LabelSelector, OllaRoute, Reason,
    route::{EndpointsSpec, LoadBalancer, PriorityOrder as PriorityOrderSpec},
};
use dataplane_protocol::{
    EndpointId, RouteId,
    table::{Balancer, EndpointRef, HeaderMatch, PriorityOrder, Route, RouteMatch, Selection},
};

use crate::{Problem, sets, verdict::some_of};

/// A route that makes sense by itself.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) route: Arc<Route>,
    key: Match,
    pub(crate) selector: Option<LabelSelector>,
}

/// By what makes two routes take the same requests.
impl PartialEq for Parsed {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Parsed {}

impl Hash for Parsed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// In seconds since 1970.
pub(crate) fn created(route: &OllaRoute) -> Option<i64> {
    let created = route.metadata.creation_timestamp.as_ref();
    created.map(|time| time.0.as_second())
}

/// What makes two routes take the same requests.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Match {
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
        key: Match::of(&route.matches),
        selector: endpoints.and_then(|it| it.selector.clone()),
        route: Arc::new(route),
    })
}

fn parse(object: &OllaRoute) -> Result<Route, Problem> {
    let spec = &object.spec;
    Ok(Route {
        id: RouteId::from(name_of(object)),
        created: created(object),
        matches: matches(spec.matches.as_ref())?,
        endpoints: Selection {
            priority_order: match spec.priority_order {
                PriorityOrderSpec::LowestFirst => PriorityOrder::LowestFirst,
                PriorityOrderSpec::HighestFirst => PriorityOrder::HighestFirst,
            },
            ..selection(spec.endpoints.as_ref())?
        },
        balancer: match spec.load_balancer {
            LoadBalancer::Priority => Balancer::Priority,
            LoadBalancer::RoundRobin => Balancer::RoundRobin,
            LoadBalancer::LeastConnections => Balancer::LeastConnections,
        },
        failover: policy::failover(spec.engine, spec.failover.as_ref()),
        breaker: policy::breaker(spec.engine, spec.circuit_breaker.as_ref())?,
        timeouts: policy::timeouts(&spec.timeouts)?,
    })
}

fn matches(spec: Option<&crds::route::RouteMatch>) -> Result<RouteMatch, Problem> {
    let Some(spec) = spec else {
        return Ok(RouteMatch::default());
    };
    let path_prefix = spec.path_prefix.as_deref().map(path_prefix).transpose()?;
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for (at, header) in spec.headers.iter().enumerate() {
        let name = header.name.to_ascii_lowercase();
        if headers.iter().any(|seen| seen.name == name) {
            return Err(Problem::invalid(
                &format!("spec.match.headers[{at}].name"),
                format!("`{}` is named twice, so no request could fit", header.name),
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
fn path_prefix(text: &str) -> Result<Option<String>, Problem> {
    if !text.starts_with('/') || text.contains(['?', '#']) {
        return Err(Problem::invalid(
            "spec.match.pathPrefix",
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
            "set refs, selector or both; leave endpoints out to use all",
        ));
    }
    let mut named = BTreeSet::new();
    for (at, reference) in spec.refs.iter().enumerate() {
        if !named.insert(&reference.name) {
            return Err(Problem::invalid(
                &format!("spec.endpoints.refs[{at}].name"),
                format!("`{}` is named twice", reference.name),
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
            "no accepted LlmEndpoint of this namespace is named {}; the others are used",
            some_of(&quoted)
        ),
    ))
}
