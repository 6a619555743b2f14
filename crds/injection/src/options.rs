//! What a pod's annotations say about its sidecar. One that cannot be read is passed over with a
//! warning: a pod must not fail to start because of a typing error.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::quantity::Quantity;

/// How long containers of the pod wait for the sidecar's first routing table, such as `10s`, the
/// default; `0s` to `10m`. After that they start without, and the sidecar answers 503 until it has
/// one.
pub const START_WITHOUT_TABLE_AFTER: &str = "olla.dev/start-without-table-after";
/// Default 10m.
pub const CPU_REQUEST: &str = "olla.dev/cpu-request";
/// Default: none.
pub const CPU_LIMIT: &str = "olla.dev/cpu-limit";
/// Default 16Mi.
pub const MEMORY_REQUEST: &str = "olla.dev/memory-request";
/// Default: none.
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
    pub(crate) fn of(pod: &Value) -> (Self, Vec<String>) {
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
                resources(annotations, &mut warnings)
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
}

const RESOURCES: [Resource; 2] = [
    Resource {
        name: "cpu",
        request: CPU_REQUEST,
        limit: CPU_LIMIT,
        default_request: "10m",
    },
    Resource {
        name: "memory",
        request: MEMORY_REQUEST,
        limit: MEMORY_LIMIT,
        default_request: "16Mi",
    },
];

fn resources(annotations: &Value, warnings: &mut Vec<String>) -> Value {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for resource in RESOURCES {
        let mut read = |name: &str| {
            let text = annotations[name].as_str()?;
            let quantity = Quantity::parse(text);
            if quantity.is_none() {
                warnings.push(format!("{name}: {text:?} is not a quantity; not used"));
            }
            quantity
        };
        let limit = read(resource.limit);
        let request = read(resource.request).or_else(|| Quantity::parse(resource.default_request));
        // More than the limit would be refused, and the pod with it.
        let request = match (request, &limit) {
            (Some(request), Some(limit)) if request.exceeds(limit) => Some(limit.clone()),
            (request, _) => request,
        };
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
