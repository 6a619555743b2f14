//! All `OllaRoute`s of a namespace. In: the objects and the endpoints that were accepted. Out:
//! the routes of the table in order of precedence, and a verdict each.

mod policy;

use std::{
    collections::{BTreeMap, BTreeSet},
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

use crate::{
    Kind, Objects, Problem, Verdict,
    labels::well_formed,
    sets,
    verdict::{Problems, some_of},
};

/// A route of the table, and the selector of its set.
pub(crate) struct Made {
    pub(crate) route: Arc<Route>,
    pub(crate) selector: Option<LabelSelector>,
}

/// What becomes of all routes of a namespace.
pub(crate) struct Routes {
    /// In order of precedence.
    pub(crate) made: Vec<Made>,
    pub(crate) verdicts: Vec<Verdict>,
    /// Names of those that are refused, and of which no accepted form is known.
    pub(crate) unknown: Vec<String>,
}

/// The forms of one object that may be used, the newest first.
struct Forms<'a> {
    verdict: Verdict,
    newest: Option<&'a OllaRoute>,
    accepted: Option<&'a OllaRoute>,
}

/// `endpoints` are those that were accepted. Whoever is older takes its requests first, by its
/// newest form or, where that is refused, by the one that was accepted last: so one pass over the
/// objects is enough, and no edit of an older route frees requests for a younger one by mistake.
pub(crate) fn compile(objects: &Objects, endpoints: &BTreeSet<String>) -> Routes {
    let mut all = Routes {
        made: Vec::new(),
        verdicts: Vec::new(),
        unknown: Vec::new(),
    };
    let mut taken = Taken::default();
    for forms in by_age(objects) {
        let Forms {
            mut verdict,
            newest,
            accepted,
        } = forms;
        let mut used = None;
        if let Some(newest) = newest {
            match make(newest, &mut taken) {
                Ok(route) => used = Some((route, newest)),
                Err(problem) => verdict.accepted = Err(problem),
            }
        }
        if used.is_none()
            && let Some(older) = accepted
            && let Ok(route) = make(older, &mut taken)
        {
            let mut of_older = Verdict::good(Kind::OllaRoute, &verdict.name, &older.metadata);
            of_older.resolved_refs = resolved(&route.endpoints, endpoints);
            verdict = verdict.with_in_use(&of_older);
            used = Some((route, older));
        } else if let Some((route, _)) = &used {
            verdict.resolved_refs = resolved(&route.endpoints, endpoints);
        }
        match used {
            Some((route, object)) => all.made.push(Made {
                route: Arc::new(route),
                selector: object
                    .spec
                    .endpoints
                    .as_ref()
                    .and_then(|it| it.selector.clone()),
            }),
            // One that is known and lost its requests to an older route is not to be kept.
            None if accepted.is_none() => all.unknown.push(verdict.name.clone()),
            None => {}
        }
        all.verdicts.push(verdict);
    }
    all.made.sort_by_cached_key(|made| made.route.precedence());
    all
}

/// Oldest first, then by name; an object that no cluster dated is younger than all that one did.
fn by_age(objects: &Objects) -> Vec<Forms<'_>> {
    let older = |name: &str, generation: i64| {
        let older = objects.accepted.routes.get(name).map(AsRef::as_ref);
        older.filter(|older| older.metadata.generation != Some(generation))
    };
    let readable = objects.routes.iter().map(|object| {
        let verdict = Verdict::good(Kind::OllaRoute, name_of(object), &object.metadata);
        Forms {
            newest: Some(object),
            accepted: older(name_of(object), verdict.generation),
            verdict,
        }
    });
    let unreadable = objects.unreadable_of(Kind::OllaRoute).map(|object| Forms {
        verdict: Verdict::unreadable(object),
        newest: None,
        accepted: older(&object.name, object.generation),
    });
    let mut all: Vec<Forms<'_>> = readable.chain(unreadable).collect();
    all.sort_by_cached_key(|forms| {
        let created = forms.newest.or(forms.accepted).and_then(created);
        (created.is_none(), created, forms.verdict.name.clone())
    });
    all
}

/// In seconds since 1970.
fn created(route: &OllaRoute) -> Option<i64> {
    let created = route.metadata.creation_timestamp.as_ref();
    created.map(|time| time.0.as_second())
}

/// Which route takes the requests of a match.
type Taken<'a> = BTreeMap<Match, &'a OllaRoute>;

/// What makes two matches fit the same requests.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
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

/// `field` is the loser's match.
fn conflict(winner: &OllaRoute, loser: &OllaRoute, field: &str) -> Problem {
    let why = if winner.metadata.creation_timestamp == loser.metadata.creation_timestamp {
        "comes first by name"
    } else {
        "is older"
    };
    let message = format!(
        "takes the same requests as OllaRoute `{}`, which {why}; change one of them",
        name_of(winner)
    );
    Problem::new(Reason::Conflicted, field, message)
}

fn name_of(object: &OllaRoute) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

/// The route, unless another has taken the requests of one of its matches: a route that takes a
/// part of what it says it takes would be a riddle.
fn make<'a>(object: &'a OllaRoute, taken: &mut Taken<'a>) -> Result<Route, Problem> {
    let route = parse(object)?;
    for (at, one) in route.matches.iter().enumerate() {
        if let Some(winner) = taken.get(&Match::of(one)) {
            let field = if object.spec.matches.is_empty() {
                "spec.matches".to_owned()
            } else {
                matches_at(at)
            };
            return Err(conflict(winner, object, &field));
        }
    }
    taken.extend(route.matches.iter().map(|one| (Match::of(one), object)));
    Ok(route)
}

fn matches_at(place: usize) -> String {
    format!("spec.matches[{place}]")
}

/// What is wrong with its spec by itself, if something is.
pub(crate) fn problem(object: &OllaRoute) -> Option<Problem> {
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
        created: created(object),
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
    problems.end(made)
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
            "set refs, selector or both; leave endpoints out to use all",
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

fn resolved(selection: &Selection, accepted: &BTreeSet<String>) -> Result<(), Problem> {
    let names = selection.refs.iter().map(|named| named.endpoint.as_str());
    let mut missing: Vec<&str> = names.filter(|name| !accepted.contains(*name)).collect();
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
