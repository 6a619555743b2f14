//! All `OllaRoute`s of a namespace. In: the objects and the endpoints that were accepted. Out:
//! the routes of the table in order of precedence, and a verdict each.

mod policy;

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crds::{
    LlmEndpoint, OllaRoute, Reason,
    route::{EndpointsSpec, LoadBalancer, PriorityOrder},
};
use dataplane_protocol::{
    EndpointId, RouteId,
    table::{Balancer, HeaderMatch, Route, RouteMatch, Target},
};

use crate::{Kind, Problem, Verdict, labels::LabelIndex, verdict::some_of};

/// Accepted endpoints by name.
pub(crate) type Accepted = BTreeMap<String, Arc<LlmEndpoint>>;

/// What becomes of all routes of a namespace.
pub(crate) fn compile(
    objects: &[Arc<OllaRoute>],
    accepted: &Accepted,
) -> (Vec<Verdict>, Vec<Arc<Route>>) {
    let index = by_labels(accepted);
    let mut ordered: Vec<_> = objects.iter().map(AsRef::as_ref).collect();
    ordered.sort_by(|a: &&OllaRoute, b| by_age(a, b));
    let mut verdicts = Vec::new();
    let mut routes = Vec::new();
    let mut taken: BTreeMap<Match, &OllaRoute> = BTreeMap::new();
    for object in ordered {
        let mut verdict = Verdict {
            kind: Kind::OllaRoute,
            name: name_of(object).to_owned(),
            uid: object.metadata.uid.clone(),
            generation: object.metadata.generation.unwrap_or_default(),
            accepted: Ok(()),
            resolved_refs: Ok(()),
            instances: 0,
            in_use: None,
        };
        let made = make(object, accepted, &index).and_then(|(route, resolved)| {
            let key = Match::of(&route.matches);
            if let Some(winner) = taken.get(&key) {
                return Err(conflict(winner, object));
            }
            taken.insert(key, object);
            Ok((route, resolved))
        });
        match made {
            Ok((route, resolved)) => {
                verdict.resolved_refs = resolved;
                routes.push(Arc::new(route));
            }
            Err(problem) => verdict.accepted = Err(problem),
        }
        verdicts.push(verdict);
    }
    // Stable: among equals, age and name have already decided.
    routes.sort_by_key(|route| specificity(&route.matches));
    (verdicts, routes)
}

fn by_labels(accepted: &Accepted) -> LabelIndex<'_> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let mut index = LabelIndex::default();
    for (name, endpoint) in accepted {
        index.add(name, endpoint.metadata.labels.as_ref().unwrap_or(&NONE));
    }
    index
}

/// Oldest first, then by name; an object that no cluster dated is younger than all that one did.
fn by_age(a: &OllaRoute, b: &OllaRoute) -> Ordering {
    let created = |route: &OllaRoute| route.metadata.creation_timestamp.clone().map(|t| t.0);
    let (age_a, age_b) = (created(a), created(b));
    age_a
        .is_none()
        .cmp(&age_b.is_none())
        .then(age_a.cmp(&age_b))
        .then(name_of(a).cmp(name_of(b)))
}

/// Smaller comes first. Of two prefixes that fit one path, the longer text has more segments.
fn specificity(matches: &RouteMatch) -> (Reverse<usize>, bool, Reverse<usize>) {
    (
        Reverse(matches.path_prefix.as_ref().map_or(0, String::len)),
        matches.models.is_empty(),
        Reverse(matches.headers.len()),
    )
}

/// What makes two routes take the same requests.
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

fn conflict(winner: &OllaRoute, loser: &OllaRoute) -> Problem {
    let why = if winner.metadata.creation_timestamp == loser.metadata.creation_timestamp {
        "comes first by name"
    } else {
        "is older"
    };
    let message = format!(
        "takes the same requests as OllaRoute `{}`, which {why}; change match, or delete one",
        name_of(winner)
    );
    Problem::new(Reason::Conflicted, "spec.match", message)
}

fn name_of(object: &OllaRoute) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

/// A route and whether all that it names exists; or why there is none.
fn make(
    object: &OllaRoute,
    accepted: &Accepted,
    index: &LabelIndex<'_>,
) -> Result<(Route, Result<(), Problem>), Problem> {
    let spec = &object.spec;
    let matches = matches(spec.matches.as_ref())?;
    let (chosen, resolved) = chosen(spec.endpoints.as_ref(), accepted, index)?;
    let route = Route {
        id: RouteId::from(name_of(object)),
        matches,
        targets: targets(chosen, spec.priority_order),
        balancer: match spec.load_balancer {
            LoadBalancer::Priority => Balancer::Priority,
            LoadBalancer::RoundRobin => Balancer::RoundRobin,
            LoadBalancer::LeastConnections => Balancer::LeastConnections,
        },
        failover: policy::failover(spec.engine, spec.failover.as_ref()),
        breaker: policy::breaker(spec.engine, spec.circuit_breaker.as_ref())?,
        timeouts: policy::timeouts(&spec.timeouts)?,
    };
    Ok((route, resolved))
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

/// An endpoint of a route, with the numbers that count for this route.
struct Chosen {
    priority: u32,
    weight: u32,
}

type ChosenByName = BTreeMap<String, Chosen>;

/// `refs` and `selector` add up; a ref's own numbers win.
fn chosen(
    spec: Option<&EndpointsSpec>,
    accepted: &Accepted,
    index: &LabelIndex<'_>,
) -> Result<(ChosenByName, Result<(), Problem>), Problem> {
    let own = |endpoint: &LlmEndpoint| Chosen {
        priority: endpoint.spec.priority,
        weight: endpoint.spec.weight,
    };
    let Some(spec) = spec else {
        let all = accepted.iter().map(|(name, it)| (name.clone(), own(it)));
        return Ok((all.collect(), Ok(())));
    };
    if spec.refs.is_empty() && spec.selector.is_none() {
        return Err(Problem::invalid(
            "spec.endpoints",
            "set refs, selector or both; leave endpoints out to use all",
        ));
    }
    let mut chosen = ChosenByName::new();
    if let Some(selector) = &spec.selector {
        for name in index.matching(&selector.match_labels) {
            let own = accepted.get(name).map(|endpoint| own(endpoint));
            chosen.extend(own.map(|own| (name.to_owned(), own)));
        }
    }
    let mut named = BTreeSet::new();
    let mut missing = Vec::new();
    for (at, reference) in spec.refs.iter().enumerate() {
        if !named.insert(&reference.name) {
            return Err(Problem::invalid(
                &format!("spec.endpoints.refs[{at}].name"),
                format!("`{}` is named twice", reference.name),
            ));
        }
        let Some(endpoint) = accepted.get(&reference.name) else {
            missing.push(format!("`{}`", reference.name));
            continue;
        };
        let numbers = Chosen {
            priority: reference.priority.unwrap_or(endpoint.spec.priority),
            weight: reference.weight.unwrap_or(endpoint.spec.weight),
        };
        chosen.insert(reference.name.clone(), numbers);
    }
    Ok((chosen, all_found(missing)))
}

fn all_found(mut missing: Vec<String>) -> Result<(), Problem> {
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort();
    Err(Problem::new(
        Reason::EndpointNotFound,
        "spec.endpoints.refs",
        format!(
            "no accepted LlmEndpoint of this namespace is named {}; the others are used",
            some_of(&missing)
        ),
    ))
}

/// Numbers become tiers by rank, so that only their order counts.
fn targets(chosen: ChosenByName, order: PriorityOrder) -> Vec<Target> {
    let distinct: BTreeSet<u32> = chosen.values().map(|it| it.priority).collect();
    let ordered: Vec<u32> = match order {
        PriorityOrder::LowestFirst => distinct.into_iter().collect(),
        PriorityOrder::HighestFirst => distinct.into_iter().rev().collect(),
    };
    let tier_of: BTreeMap<u32, u32> = ordered.into_iter().zip(0..).collect();
    let mut targets: Vec<_> = chosen
        .into_iter()
        .map(|(name, it)| Target {
            endpoint: EndpointId::from(name),
            tier: tier_of.get(&it.priority).copied().unwrap_or_default(),
            priority: it.priority,
            weight: it.weight,
        })
        .collect();
    targets.sort_by(|a, b| (a.tier, &a.endpoint).cmp(&(b.tier, &b.endpoint)));
    targets
}
