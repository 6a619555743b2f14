//! Olla's `config.yaml`. In: its tree. Out: the LlmEndpoints, Secrets and the one OllaRoute
//! (named `olla`) that it amounts to, and the address to listen on.
//!
//! Two layouts are in use. Olla's own has `discovery.static.endpoints`, prefers the larger
//! `priority` and balances by `least-connections` unless told otherwise. The one of its
//! integration guide has `endpoints` and `health` at the top, prefers the smaller `priority` and
//! balances by it. `proxy.priority_order` (`lowest_first`, `highest_first`), which Olla does not
//! know and skips, says the direction in both.

mod auth;
mod endpoint;
mod period;
mod section;

use std::collections::BTreeSet;

use crds::{
    Duration, OllaRoute, OllaRouteSpec,
    endpoint::DiscoverySpec,
    route::{Engine, LoadBalancer, PriorityOrder, TimeoutsSpec},
};

use super::{
    Object,
    note::Notes,
    yaml::{Node, Value},
};
use endpoint::{Defaults, Imported};
use section::Section;

/// What an Olla file amounts to.
pub(super) struct Config {
    /// Each with the line that it comes from.
    pub(super) objects: Vec<(Object, u32)>,
    /// `host:port`.
    pub(super) listen: Option<String>,
}

/// Top-level keys that are read.
const READ: [&str; 5] = ["discovery", "endpoints", "health", "proxy", "server"];

/// Top-level keys of Olla that have no counterpart here yet.
const NOT_YET: [&str; 7] = [
    "dashboard",
    "engineering",
    "logging",
    "model_aliases",
    "model_registry",
    "security",
    "translators",
];

/// Whether a document without `kind` is an Olla config.
pub(super) fn recognises(document: &Node) -> bool {
    let known = |key: &str| READ.contains(&key) || NOT_YET.contains(&key);
    let has = |key: &str| document.find(key).is_some();
    !has("kind") && !has("apiVersion") && document.entries().iter().any(|e| known(&e.key))
}

pub(super) fn read(
    document: &Node,
    env: &dyn Fn(&str) -> Option<String>,
    notes: &mut Notes<'_>,
) -> Config {
    let root = Section::root(document);
    root.report_rest(&READ, &NOT_YET, &[], notes);
    let listen = listen(&root.section("server", notes), notes);
    let discovery = root.section("discovery", notes);
    let defaults = defaults(&root, &discovery, notes);
    let (endpoints, layout) = endpoint_nodes(&root, &discovery, notes);

    let mut objects = Vec::new();
    let mut names = BTreeSet::new();
    let mut priorities = Vec::new();
    for (path, node) in endpoints {
        let section = Section::open(path, node, notes);
        let Some(imported) = endpoint::read(&section, &defaults, &mut names, env, notes) else {
            continue;
        };
        let Imported { endpoint, secret } = imported;
        priorities.push(endpoint.spec.priority);
        objects.push((Object::Endpoint(Box::new(endpoint)), node.line));
        objects.extend(secret.map(|secret| (secret, node.line)));
    }
    let proxy = root.section("proxy", notes);
    if let Some(spec) = route(&proxy, layout, &priorities, notes) {
        let route = OllaRoute::new("olla", spec);
        objects.push((Object::Route(Box::new(route)), proxy.line));
    }
    Config { objects, listen }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Olla,
    Guide,
}

/// The list of endpoints, each with its path, and whose layout it is.
fn endpoint_nodes<'a>(
    root: &Section<'a>,
    discovery: &Section<'a>,
    notes: &mut Notes<'_>,
) -> (Vec<(String, &'a Node)>, Layout) {
    let fixed = discovery.section("static", notes);
    fixed.report_rest(&["endpoints"], &[], &[], notes);
    let (own, guide) = (fixed.find("endpoints"), root.find("endpoints"));
    let (entry, path, layout) = match (own, guide) {
        (Some(own), _) => (own, "discovery.static.endpoints", Layout::Olla),
        (None, Some(guide)) => (guide, "endpoints", Layout::Guide),
        (None, None) => {
            let message = "none are listed, so nothing is routed to; Olla itself would try an \
                           Ollama at localhost:11434";
            notes.warn(root.line, "discovery.static.endpoints", message);
            return (Vec::new(), Layout::Olla);
        }
    };
    if let (Some(_), Some(guide)) = (own, guide) {
        let message = "not read, as in Olla, because discovery.static.endpoints is there too";
        notes.warn(guide.line, "endpoints", message);
    }
    let Value::List(items) = &entry.value.value else {
        let message = format!("must be a list, not {}", entry.value.type_name());
        notes.error(entry.line, path, message);
        return (Vec::new(), layout);
    };
    let items = items.iter().enumerate();
    let named = items.map(|(at, node)| {
        let name = node.find("name").and_then(|entry| entry.value.as_text());
        let name = name.map_or_else(String::new, |name| format!(" ({name})"));
        (format!("{path}[{at}]{name}"), node)
    });
    (named.collect(), layout)
}

/// `health` and model discovery, which the guide has at the top of `discovery`.
fn defaults(root: &Section<'_>, discovery: &Section<'_>, notes: &mut Notes<'_>) -> Defaults {
    let health = root.section("health", notes);
    health.report_rest(&["interval", "timeout"], &[], &[], notes);
    discovery.report_rest(
        &["type", "static", "model_discovery", "enabled", "interval"],
        &[],
        &["refresh_interval", "health_check"],
        notes,
    );
    if let Some(kind) = discovery
        .text("type", notes)
        .filter(|kind| kind != "static")
    {
        let message = format!("`{kind}` is not supported; only `static` is, as in Olla");
        notes.error(discovery.line_of("type"), "discovery.type", message);
    }
    let models = discovery.section("model_discovery", notes);
    models.report_rest(
        &["enabled", "interval"],
        &["timeout", "concurrent_workers"],
        &["retry_attempts", "retry_backoff"],
        notes,
    );
    let general = discovery.flag("enabled", notes);
    let enabled = models.flag("enabled", notes).or(general);
    let general = discovery.duration("interval", notes);
    let interval = models.duration("interval", notes).or(general);
    let default = DiscoverySpec::default();
    Defaults {
        // Olla's, where the file says nothing.
        interval: health
            .duration("interval", notes)
            .unwrap_or_else(|| Duration::new("5s")),
        timeout: health
            .duration("timeout", notes)
            .unwrap_or_else(|| Duration::new("2s")),
        discovery: DiscoverySpec {
            enabled: enabled.unwrap_or(default.enabled),
            path: None,
            interval: interval.unwrap_or(default.interval),
        },
    }
}

/// `server`: Olla's defaults fill in what is missing once one of the two is there.
fn listen(server: &Section<'_>, notes: &mut Notes<'_>) -> Option<String> {
    server.report_rest(
        &["host", "port"],
        &[
            "cors",
            "idle_timeout",
            "rate_limits",
            "read_header_timeout",
            "read_timeout",
            "request_limits",
            "shutdown_timeout",
            "write_timeout",
        ],
        &["request_logging"],
        notes,
    );
    let host = server.text("host", notes);
    let port = server.number("port", 1, 65_535, notes);
    if host.is_none() && port.is_none() {
        return None;
    }
    let host = host.unwrap_or_else(|| "localhost".to_owned());
    let port = port.unwrap_or(40_114);
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    Some(if bare_v6 {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

/// `proxy`; none when something in it is wrong.
fn route(
    proxy: &Section<'_>,
    layout: Layout,
    priorities: &[u32],
    notes: &mut Notes<'_>,
) -> Option<OllaRouteSpec> {
    let errors_before = notes.errors();
    proxy.report_rest(
        &[
            "connection_timeout",
            "engine",
            "load_balancer",
            "priority_order",
            "read_timeout",
            "response_header_timeout",
        ],
        &[
            "connection_keep_alive",
            "sticky_sessions",
            "stream_buffer_size",
            "tls_handshake_timeout",
        ],
        &[
            "max_retries",
            "profile",
            "profile_filter",
            "response_timeout",
            "retry",
            "retry_backoff",
        ],
        notes,
    );
    let engine = proxy.word(
        "engine",
        &[("olla", Engine::Olla), ("sherpa", Engine::Sherpa)],
        notes,
    );
    let balancers = [
        ("priority", LoadBalancer::Priority),
        ("round-robin", LoadBalancer::RoundRobin),
        ("least-connections", LoadBalancer::LeastConnections),
    ];
    let load_balancer = proxy
        .word("load_balancer", &balancers, notes)
        .unwrap_or(match layout {
            Layout::Olla => LoadBalancer::LeastConnections,
            Layout::Guide => LoadBalancer::Priority,
        });
    let orders = [
        ("lowest_first", PriorityOrder::LowestFirst),
        ("highest_first", PriorityOrder::HighestFirst),
    ];
    let said = proxy.word("priority_order", &orders, notes);
    if said.is_none() {
        warn_of_direction(proxy, (layout, load_balancer), priorities, notes);
    }
    let timeouts = TimeoutsSpec {
        connect: proxy.duration("connection_timeout", notes),
        first_token: proxy.duration("response_header_timeout", notes),
        stream_idle: proxy.duration("read_timeout", notes),
        request: None,
    };
    let spec = OllaRouteSpec {
        engine: engine.unwrap_or_default(),
        load_balancer,
        priority_order: said.unwrap_or(match layout {
            Layout::Olla => PriorityOrder::HighestFirst,
            Layout::Guide => PriorityOrder::LowestFirst,
        }),
        timeouts,
        ..OllaRouteSpec::default()
    };
    (notes.errors() == errors_before).then_some(spec)
}

/// The two layouts read the same numbers in opposite ways, which nobody should find out during
/// an outage.
fn warn_of_direction(
    proxy: &Section<'_>,
    (layout, load_balancer): (Layout, LoadBalancer),
    priorities: &[u32],
    notes: &mut Notes<'_>,
) {
    let (Some(smallest), Some(largest)) = (priorities.iter().min(), priorities.iter().max()) else {
        return;
    };
    if smallest == largest {
        return;
    }
    let (first, second, reason, word) = match layout {
        Layout::Guide => (
            smallest,
            largest,
            "as the integration guide writes it, while Olla itself prefers larger numbers",
            "lowest_first or highest_first",
        ),
        Layout::Olla => (
            largest,
            smallest,
            "since Olla itself prefers larger numbers",
            "highest_first (or lowest_first) to say that this is meant",
        ),
    };
    let message = if load_balancer == LoadBalancer::Priority {
        format!("not set: {first} is preferred over {second}, {reason}; set {word}")
    } else {
        format!(
            "not set: priorities count only with `load_balancer: priority`; with it {first} would be \
             preferred over {second}, {reason}"
        )
    };
    notes.warn(proxy.line, "proxy.priority_order", message);
}
