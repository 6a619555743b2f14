//! What a pod's annotations say about its sidecar. One that cannot be read is passed over with a
//! warning: a pod must not fail to start because of a typing error.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{
    defaults::{Amount, Amounts, Resources},
    others,
    quantity::Quantity,
};

/// How long containers of the pod wait for the sidecar's first routing table, such as `10s`, the
/// default; `0s` to `10m`. After that they start without, and the sidecar answers 503 until it has
/// one.
pub const START_WITHOUT_TABLE_AFTER: &str = "olla.dev/start-without-table-after";
/// Default: the cluster's, 10m unless its owner says otherwise.
pub const CPU_REQUEST: &str = "olla.dev/cpu-request";
/// At least 50m. Default: the cluster's, if there is one; or 100m where all other containers have one.
pub const CPU_LIMIT: &str = "olla.dev/cpu-limit";
/// Default: the cluster's, 16Mi unless its owner says otherwise.
pub const MEMORY_REQUEST: &str = "olla.dev/memory-request";
/// At least 48Mi. Default: the cluster's, if there is one; or 128Mi where all other containers have
/// one.
pub const MEMORY_LIMIT: &str = "olla.dev/memory-limit";
/// Name of an init container after which the sidecar starts, such as another sidecar that it needs
/// for its own connections. Default: it is the first.
pub const START_AFTER: &str = "olla.dev/start-after";

const DEFAULT_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_mins(10);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) start_without_table_after: Duration,
    /// As the container has them; may be empty.
    pub(crate) resources: Value,
    pub(crate) start_after: Option<String>,
}

impl Options {
    /// And warnings about what could not be read.
    pub(crate) fn of(pod: &Value, defaults: &Resources) -> (Self, Vec<String>) {
        let annotations = &pod["metadata"]["annotations"];
        let mut warnings = Vec::new();
        let wait = annotations[START_WITHOUT_TABLE_AFTER].as_str();
        let options = Self {
            start_without_table_after: wait.map_or(DEFAULT_WAIT, |text| {
                wait_of(text).unwrap_or_else(|| {
                    warnings.push(format!(
                        "{START_WITHOUT_TABLE_AFTER}: {text:?} is not a duration from 0s to 10m; 10s is used"
                    ));
                    DEFAULT_WAIT
                })
            }),
            resources: if has_resources(pod) {
                if let Some(name) = RESOURCES.iter().flat_map(|r| [r.request, r.limit]).find(|name| annotations[*name].is_string()) {
                    warnings.push(format!(
                        "{name}: not used, because the pod has resources of its own (spec.resources)"
                    ));
                }
                json!({})
            } else {
                resources(pod, defaults, &mut warnings)
            },
            start_after: annotations[START_AFTER].as_str().map(str::to_owned),
        };
        (options, warnings)
    }
}

/// Resources of the pod as a whole: what its containers request may not exceed them, so the sidecar
/// requests nothing and shares what the pod has.
fn has_resources(pod: &Value) -> bool {
    let resources = &pod["spec"]["resources"];
    ["requests", "limits"].iter().any(|kind| {
        resources[kind]
            .as_object()
            .is_some_and(|map| !map.is_empty())
    })
}

fn wait_of(text: &str) -> Option<Duration> {
    let wait = crds::Duration::new(text).parse()?;
    (wait <= LONGEST_WAIT).then_some(wait)
}

struct Resource {
    name: &'static str,
    request: &'static str,
    limit: &'static str,
    default_request: &'static str,
    /// Below it the sidecar would be killed, or its startup probe would never be done in time, and
    /// the pod would not start.
    least_limit: &'static str,
    /// Where all other containers have one, so that a quota of limits, or the QoS class Guaranteed,
    /// holds for the pod as it did.
    usual_limit: &'static str,
    default: fn(&Amounts) -> Option<&Amount>,
}

const RESOURCES: [Resource; 2] = [
    Resource {
        name: "cpu",
        request: CPU_REQUEST,
        limit: CPU_LIMIT,
        default_request: "10m",
        least_limit: "50m",
        usual_limit: "100m",
        default: |amounts| amounts.cpu.as_ref(),
    },
    Resource {
        name: "memory",
        request: MEMORY_REQUEST,
        limit: MEMORY_LIMIT,
        default_request: "16Mi",
        least_limit: "48Mi",
        usual_limit: "128Mi",
        default: |amounts| amounts.memory.as_ref(),
    },
];

fn resources(pod: &Value, defaults: &Resources, warnings: &mut Vec<String>) -> Value {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    let guaranteed = RESOURCES
        .iter()
        .all(|resource| others_limits(pod, resource.name) == Limits::AsRequested);
    for resource in RESOURCES {
        let (request, limit) = amounts(pod, &resource, defaults, guaranteed, warnings);
        for (map, quantity) in [(&mut requests, request), (&mut limits, limit)] {
            if let Some(quantity) = quantity {
                map.insert(resource.name.to_owned(), quantity.as_str().into());
            }
        }
    }
    if limits.is_empty() {
        return json!({ "requests": requests });
    }
    json!({ "requests": requests, "limits": limits })
}

/// Request and limit.
fn amounts(
    pod: &Value,
    resource: &Resource,
    defaults: &Resources,
    guaranteed: bool,
    warnings: &mut Vec<String>,
) -> (Option<Quantity>, Option<Quantity>) {
    let mut read = |name: &str| {
        let text = pod["metadata"]["annotations"][name].as_str()?;
        let quantity = Quantity::parse(text);
        if quantity.is_none() {
            warnings.push(format!("{name}: {text:?} is not a quantity; not used"));
        }
        quantity
    };
    let (own_request, own_limit) = (read(resource.request), read(resource.limit));
    let default = |amounts| (resource.default)(amounts).map(|amount| amount.0.clone());
    let request = own_request.clone().or_else(|| default(&defaults.requests));
    let request = request.or_else(|| Quantity::parse(resource.default_request));
    let limit = own_limit.clone().or_else(|| default(&defaults.limits));
    // As of the pod's other containers.
    let as_limit = guaranteed && own_request.is_none();
    let Some(limit) = limit else {
        if others_limits(pod, resource.name) == Limits::Missing {
            return (request, None);
        }
        let usual = Quantity::parse(resource.usual_limit);
        let limit = match (&request, usual) {
            (Some(request), Some(usual)) if request.exceeds(&usual) => Some(request.clone()),
            (_, usual) => usual,
        };
        return (if as_limit { limit.clone() } else { request }, limit);
    };
    // More than the limit would be refused, and the pod with it.
    let at_limit = request.as_ref().is_none_or(|r| !limit.exceeds(r));
    let limit = match Quantity::parse(resource.least_limit) {
        Some(least) if least.exceeds(&limit) => {
            if own_limit.is_some() {
                warnings.push(format!(
                    "{}: the sidecar would not start with {:?}; {} is used",
                    resource.limit,
                    limit.as_str(),
                    resource.least_limit
                ));
            }
            least
        }
        _ => limit,
    };
    (
        if at_limit || as_limit {
            Some(limit.clone())
        } else {
            request
        },
        Some(limit),
    )
}

/// Of one resource, in all containers but the sidecar.
#[derive(PartialEq, Eq)]
enum Limits {
    /// One has none.
    Missing,
    Set,
    /// All that they request, too.
    AsRequested,
}

fn others_limits(pod: &Value, resource: &str) -> Limits {
    let mut others = others(pod).peekable();
    let mut found = match others.peek() {
        Some(_) => Limits::AsRequested,
        None => Limits::Missing,
    };
    for container in others {
        let of = |kind: &str| &container["resources"][kind][resource];
        let (request, limit) = (quantity(of("requests")), quantity(of("limits")));
        match (request, limit) {
            (_, None) => return Limits::Missing,
            // What it requests is then what it may have.
            (None, _) => {}
            (Some(request), Some(limit)) if !limit.exceeds(&request) => {}
            _ => found = Limits::Set,
        }
    }
    found
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::Number(number) => Quantity::parse(&number.to_string()),
        value => Quantity::parse(value.as_str()?),
    }
}
