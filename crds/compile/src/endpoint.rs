//! One `LlmEndpoint`. In: the object and the facts. Out: what it adds to the table, with its
//! instances, and its verdict.

use std::sync::Arc;

use crds::{
    LlmEndpoint, LlmEndpointSpec, Reason,
    auth::AuthPaths,
    endpoint::{HealthMode as HealthModeSpec, HealthSpec, ModelsSpec, PodSelectorTarget},
};
use dataplane_protocol::{
    EndpointId, ModelName,
    check::is_path,
    table::{
        Credential, Discovery, Endpoint, HealthMode, HealthPolicy, Instance, Listing, ModelPolicy,
        PathScope, Profile,
    },
};

use crate::{
    Facts, Kind, Problem, Verdict, credential,
    duration::{millis, millis_from},
    instances::{self, MOST_INSTANCES},
    labels::{LabelIndex, well_formed},
    nearest::nearest,
    profile, url,
    verdict::Problems,
};

/// What an accepted endpoint adds to the table.
#[derive(Debug)]
pub(crate) struct EndpointParts {
    pub(crate) profile: Arc<Profile>,
    /// With its instances. Absent: its Secret or what its target names has not been listed.
    /// Neither is known then: of a form that is half known, the credential might go to where the
    /// form before it sent requests.
    pub(crate) known: Option<(Endpoint, Vec<Instance>)>,
    /// Present if the instances are the pods that it selects, all of them.
    pub(crate) pods: Option<PodSelectorTarget>,
    /// There was no room for all of its instances.
    pub(crate) is_cut: bool,
}

/// `None` beside a verdict that says why it is not accepted. A reference that does not resolve
/// leaves the endpoint in the table without instances: routes still name it, and nothing is ever
/// sent without the credential that belongs to it. `room`: how many instances it may have.
pub(crate) fn compile(
    object: &LlmEndpoint,
    facts: &Facts,
    usable: &LabelIndex<'_>,
    room: usize,
) -> (Verdict, Option<EndpointParts>) {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut verdict = Verdict::good(Kind::LlmEndpoint, &name, &object.metadata);
    let checked = match check(&object.spec) {
        Ok(checked) => checked,
        Err(problem) => {
            verdict.accepted = Err(problem);
            return (verdict, None);
        }
    };
    let secret = unlisted_secret(&object.spec, facts).map(|secret| format!("Secret `{secret}`"));
    let target = || checked.target.unlisted(facts).map(str::to_owned);
    if let Some(what) = secret.or_else(target) {
        verdict.resolved_refs = Err(not_listed(&what));
        let part = EndpointParts {
            profile: checked.profile,
            known: None,
            pods: None,
            is_cut: false,
        };
        return (verdict, Some(part));
    }
    let mut instances = checked.target.instances(&name, facts, usable, room);
    let mut is_cut = false;
    if let Ok(found) = &mut instances
        && found.len() > room
    {
        found.truncate(room);
        is_cut = true;
    }
    let credential = credential::resolve(object.spec.auth.as_ref(), facts);
    let mut pods = checked.target.pods().cloned();
    if let Ok(found) = &instances {
        verdict.instances = found.len() as u32;
    }
    let (instances, credential) = match (instances, credential) {
        (Ok(instances), Ok(credential)) => (instances, credential),
        (Ok(_), Err(problem)) | (Err(problem), _) => {
            verdict.resolved_refs = Err(problem);
            pods = None;
            is_cut = false;
            (Vec::new(), unresolved(&object.spec))
        }
    };
    if is_cut {
        pods = None;
        verdict.resolved_refs = verdict.resolved_refs.and(Err(too_large(room)));
    }
    let endpoint = Endpoint {
        id: EndpointId::from(name),
        profile: checked.profile.name.clone(),
        priority: object.spec.priority,
        weight: object.spec.weight,
        base_path: checked.target.base_path(),
        credential,
        paths: paths(&object.spec),
        health: checked.health,
        models: checked.models,
    };
    // No data plane would take a table that holds it.
    if let Err(what) = endpoint.check() {
        verdict.accepted = Err(Problem::invalid("spec", what));
        return (verdict, None);
    }
    let part = EndpointParts {
        profile: checked.profile,
        known: Some((endpoint, instances)),
        pods,
        is_cut,
    };
    (verdict, Some(part))
}

fn too_large(room: usize) -> Problem {
    let message = format!(
        "only {room} of its ready addresses are used: the LlmEndpoints of this namespace have more \
         than {MOST_INSTANCES} in total, and those that were there first keep theirs; use narrower \
         selectors, or fewer LlmEndpoints for the same pods"
    );
    Problem::new(Reason::TooLarge, "", message)
}

fn paths(spec: &LlmEndpointSpec) -> PathScope {
    match spec.auth.as_ref().map(|auth| auth.paths) {
        Some(AuthPaths::All) => PathScope::All,
        Some(AuthPaths::Inference) | None => PathScope::Inference,
    }
}

fn unlisted_secret<'a>(spec: &'a LlmEndpointSpec, facts: &Facts) -> Option<&'a str> {
    let mut secrets = spec.auth.iter().flat_map(crds::auth::AuthSpec::secrets);
    let unlisted = |name: &str| facts.unlisted.secrets.contains(name);
    secrets
        .find(|(_, name)| unlisted(name))
        .map(|(_, name)| name)
}

fn not_listed(what: &str) -> Problem {
    let message = format!(
        "{what} not listed by the API server yet; data planes keep their current state until then"
    );
    Problem::new(Reason::Pending, "", message)
}

/// Says that there should be a credential, so that no reader takes the endpoint for an open one.
fn unresolved(spec: &LlmEndpointSpec) -> Credential {
    match spec.auth {
        Some(_) => Credential::Withheld,
        None => Credential::None,
    }
}

/// A spec that makes sense by itself.
struct EndpointSettings<'a> {
    profile: Arc<Profile>,
    target: Target<'a>,
    health: HealthPolicy,
    models: ModelPolicy,
}

fn check(spec: &LlmEndpointSpec) -> Result<EndpointSettings<'_>, Problem> {
    let mut problems = Problems::default();
    let profile = problems.take(profile_of(spec));
    let target = problems.take(Target::of(spec));
    if let Some(auth) = &spec.auth {
        problems.take(credential::check(auth));
    }
    // What is wrong beside an unknown type is told as well.
    let defaults = profile.clone().or_else(|| profile::find("auto"));
    let defaults = defaults.as_deref();
    let health = defaults.and_then(|profile| health(&spec.health, profile, &mut problems));
    let models = defaults.and_then(|profile| models(&spec.models, profile, &mut problems));
    let made =
        profile
            .zip(target)
            .zip(health.zip(models))
            .map(|((profile, target), (health, models))| EndpointSettings {
                profile,
                target,
                health,
                models,
            });
    problems.end(made)
}

/// What is wrong with its spec by itself, if something is.
pub fn problem(object: &LlmEndpoint) -> Option<Problem> {
    check(&object.spec).err()
}

fn profile_of(spec: &LlmEndpointSpec) -> Result<Arc<Profile>, Problem> {
    profile::find(&spec.type_).ok_or_else(|| {
        let known = profile::known_types();
        let meant = nearest(&spec.type_, known.iter().copied());
        let message = format!(
            "`{}` is not a known type{}; known types are {}",
            spec.type_,
            meant.map_or_else(String::new, |name| format!(", did you mean `{name}`?")),
            known.join(", ")
        );
        Problem::new(Reason::UnknownType, "spec.type", message)
    })
}

enum Target<'a> {
    Url(url::Url),
    Service(&'a crds::endpoint::ServiceTarget),
    Pods(&'a PodSelectorTarget),
}

impl<'a> Target<'a> {
    fn of(spec: &'a LlmEndpointSpec) -> Result<Self, Problem> {
        match (&spec.url, &spec.service, &spec.pod_selector) {
            (Some(text), None, None) => url::Url::parse(text)
                .map(Self::Url)
                .map_err(|error| Problem::invalid("spec.url", error.to_string())),
            (None, Some(service), None) => Ok(Self::Service(service)),
            (None, None, Some(pods)) if pods.selector.is_empty() => Err(Problem::invalid(
                "spec.podSelector",
                "set matchLabels or matchExpressions; an empty selector would match every pod",
            )),
            (None, None, Some(pods)) => {
                well_formed("spec.podSelector", &pods.selector)?;
                Ok(Self::Pods(pods))
            }
            _ => Err(Problem::invalid(
                "spec",
                "set exactly one of url, service, podSelector",
            )),
        }
    }

    fn instances(
        &self,
        name: &str,
        facts: &Facts,
        pods: &LabelIndex<'_>,
        room: usize,
    ) -> Result<Vec<Instance>, Problem> {
        match self {
            Self::Url(url) => Ok(instances::of_url(name, url)),
            Self::Service(service) => instances::of_service(name, service, facts),
            Self::Pods(target) => instances::of_pods(name, target, facts, pods, room),
        }
    }

    /// What it depends on that has not been listed.
    fn unlisted(&self, facts: &Facts) -> Option<&'static str> {
        match self {
            Self::Service(_) if facts.unlisted.services => Some("Services and EndpointSlices"),
            Self::Pods(_) if facts.unlisted.pods => Some("pods"),
            Self::Url(_) | Self::Service(_) | Self::Pods(_) => None,
        }
    }

    fn pods(&self) -> Option<&'a PodSelectorTarget> {
        match self {
            Self::Pods(target) => Some(target),
            Self::Url(_) | Self::Service(_) => None,
        }
    }

    fn base_path(&self) -> String {
        match self {
            Self::Url(url) => url.base_path.clone(),
            Self::Service(_) | Self::Pods(_) => String::new(),
        }
    }
}

fn health(spec: &HealthSpec, profile: &Profile, problems: &mut Problems) -> Option<HealthPolicy> {
    let paths = match &spec.path {
        Some(path) => problems
            .take(absolute("spec.health.path", path))
            .map(|path| vec![path]),
        None => Some(profile.health_paths.clone()),
    };
    let interval = millis_from("spec.health.interval", &spec.interval, "100ms");
    let interval = problems.take(interval);
    let timeout = problems.take(millis("spec.health.timeout", &spec.timeout));
    Some(HealthPolicy {
        mode: match spec.mode {
            HealthModeSpec::Active => HealthMode::Active,
            HealthModeSpec::Passive => HealthMode::Passive,
            HealthModeSpec::Disabled => HealthMode::Disabled,
        },
        paths: paths?,
        interval_ms: interval?,
        timeout_ms: timeout?,
        unhealthy_threshold: spec.unhealthy_threshold,
        healthy_threshold: spec.healthy_threshold,
    })
}

fn models(spec: &ModelsSpec, profile: &Profile, problems: &mut Problems) -> Option<ModelPolicy> {
    let interval = &spec.discovery.interval;
    let interval = problems.take(millis_from(
        "spec.models.discovery.interval",
        interval,
        "1s",
    ));
    let listings = match &spec.discovery.path {
        Some(path) => problems
            .take(absolute("spec.models.discovery.path", path))
            .map(|path| listings_at(&path, profile)),
        None => Some(profile.listings.clone()),
    };
    let discovery = Discovery {
        listings: listings?,
        interval_ms: interval?,
    };
    let discovery = spec.discovery.enabled.then_some(discovery);
    Some(ModelPolicy {
        discovery,
        fixed: spec
            .fixed
            .iter()
            .map(|name| ModelName::from(name.as_str()))
            .collect(),
        include: spec.include.clone(),
        exclude: spec.exclude.clone(),
    })
}

/// The user's path says where, not in which shape: every shape of the type is tried there.
fn listings_at(path: &str, profile: &Profile) -> Vec<Listing> {
    let mut listings: Vec<Listing> = Vec::new();
    for known in &profile.listings {
        if listings
            .iter()
            .all(|listing| listing.format != known.format)
        {
            listings.push(Listing {
                path: path.to_owned(),
                ..known.clone()
            });
        }
    }
    listings
}

fn absolute(field: &str, path: &str) -> Result<String, Problem> {
    if is_path(path) && path.parse::<http::uri::PathAndQuery>().is_ok() {
        return Ok(path.to_owned());
    }
    Err(Problem::invalid(
        field,
        format!("`{path}` is not a path; write it like /health"),
    ))
}
