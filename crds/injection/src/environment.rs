//! Variables that point clients at the sidecar, for containers that start after it.
//!
//! What a container sets itself stays, and so does what it takes from a ConfigMap or Secret as a
//! whole (`envFrom`): we cannot see what is in there, and a variable in `env` would win over it.
//! An annotation of the pod says which variables were not set.

use serde_json::{Value, json};

use crate::{
    CONTAINERS, INIT_CONTAINERS, additions::Additions, containers, server, sidecar::CONTAINER,
};

/// Annotation with the variables that were not set, by container:
/// `app: OLLAMA_HOST (env); worker: OPENAI_BASE_URL OPENAI_API_BASE OPENAI_API_KEY (envFrom)`.
pub const NOT_SET: &str = "olla.dev/env-not-set";

/// Name and value.
type Variable = (&'static str, &'static str);

/// Variables of one client. They go together: of one who chooses one of them himself, none is
/// touched, or a key would go to another place than it was meant for.
struct Client {
    /// Any of them leads to a place.
    places: &'static [Variable],
    /// Names of variables by which the client goes to another place, and would refuse to start, or
    /// take the key there, if it had ours, too.
    elsewhere: &'static [&'static str],
    /// Only set where all of the places are ours.
    key: Option<Variable>,
}

const CLIENTS: [Client; 3] = [
    Client {
        places: &[
            ("OPENAI_BASE_URL", "http://127.0.0.1:40114/v1"),
            // Its name in older clients.
            ("OPENAI_API_BASE", "http://127.0.0.1:40114/v1"),
        ],
        // Azure's: LangChain's classes for it fail where OPENAI_API_BASE is set.
        elsewhere: &[
            "AZURE_OPENAI_ENDPOINT",
            "AZURE_OPENAI_API_KEY",
            "OPENAI_API_TYPE",
            "OPENAI_API_VERSION",
        ],
        // Clients refuse to start without one. It goes no further than the sidecar.
        key: Some(("OPENAI_API_KEY", "olla")),
    },
    Client {
        places: &[("ANTHROPIC_BASE_URL", "http://127.0.0.1:40114")],
        elsewhere: &[],
        key: None,
    },
    Client {
        places: &[(OLLAMA_HOST, "http://127.0.0.1:40114")],
        elsewhere: &[],
        key: None,
    },
];

const OLLAMA_HOST: &str = "OLLAMA_HOST";

/// Clients of any library send plain HTTP through these, to 127.0.0.1, too.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Why a variable is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The container sets it, or another of the same client, itself.
    Env,
    /// The container may have it, or another of the same client, from a ConfigMap or Secret.
    EnvFrom,
    /// An Ollama runs in the pod: it listens where `OLLAMA_HOST` says, and what runs beside it asks it
    /// by the client's default.
    OllamaServer,
    /// The container sends plain HTTP through a proxy, which would get what is meant for the sidecar.
    Proxy,
}

impl Why {
    fn word(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::EnvFrom => "envFrom",
            Self::OllamaServer => "Ollama in the pod",
            Self::Proxy => "HTTP_PROXY without 127.0.0.1 in NO_PROXY",
        }
    }
}

/// Adds the variables to all containers that start after the sidecar, which stands, or will stand,
/// at `position` among the init containers. Out: the annotation's text, empty where all are set.
pub(crate) fn add(pod: &Value, position: usize, additions: &mut Additions<'_>) -> String {
    let after = containers(pod, INIT_CONTAINERS).enumerate();
    let after = after
        .filter(|(index, container)| *index >= position && container["name"] != CONTAINER)
        .map(|(index, container)| (INIT_CONTAINERS, index, container));
    let all = containers(pod, CONTAINERS).enumerate();
    let all = all.map(|(index, container)| (CONTAINERS, index, container));
    let has_ollama = server::runs_ollama(pod);
    let mut notes = Vec::new();
    for (list, index, container) in after.chain(all) {
        let (variables, not_set) = variables(container, has_ollama);
        additions.add_env(list, index, container, variables);
        if !not_set.is_empty() {
            let name = container["name"].as_str().unwrap_or_default();
            notes.push(format!("{name}: {}", told(&not_set)));
        }
    }
    notes.join("; ")
}

/// `A B (env), C (envFrom)`.
fn told(not_set: &[(&str, Why)]) -> String {
    let groups = not_set.chunk_by(|(_, a), (_, b)| a == b);
    let groups = groups.map(|group| {
        let names: Vec<&str> = group.iter().map(|(name, _)| *name).collect();
        let why = group.first().map(|(_, why)| why.word()).unwrap_or_default();
        format!("{} ({why})", names.join(" "))
    });
    groups.collect::<Vec<String>>().join(", ")
}

/// Those that the container lacks, and those that it does not get, with the reason.
fn variables(container: &Value, has_ollama: bool) -> (Vec<Value>, Vec<(&'static str, Why)>) {
    let (mut missing, mut not_set) = (Vec::new(), Vec::new());
    let proxied = sends_through_a_proxy(container).then_some(Why::Proxy);
    for client in CLIENTS {
        let is_ollama = client.places.iter().any(|(name, _)| *name == OLLAMA_HOST);
        let mut places = client.places.iter();
        let mut elsewhere = client.elsewhere.iter();
        let whole = places
            .find_map(|place| kept(container, *place))
            .or_else(|| elsewhere.find_map(|name| chosen(container, name)))
            .or_else(|| (is_ollama && has_ollama).then_some(Why::OllamaServer))
            .or(proxied);
        let all = client.places.iter().chain(&client.key);
        for variable in all {
            match whole.or_else(|| kept(container, *variable)) {
                Some(why) => not_set.push((variable.0, why)),
                None if own(container, variable.0).is_some() => {}
                None => missing.push(json!({ "name": variable.0, "value": variable.1 })),
            }
        }
    }
    (missing, not_set)
}

/// Why the variable must stay as the container has it, if so.
fn kept(container: &Value, (name, value): Variable) -> Option<Why> {
    match own(container, name) {
        // Ours, from the first time that the API server asked.
        Some(own) => (own["value"] != value).then_some(Why::Env),
        None => from_elsewhere(container, name),
    }
}

/// Whether the container has the variable, which we never set.
fn chosen(container: &Value, name: &str) -> Option<Why> {
    match own(container, name) {
        // OpenAI itself, as older clients call it.
        Some(own) if own["value"] == "openai" || own["value"] == "open_ai" => None,
        Some(_) => Some(Why::Env),
        None => from_elsewhere(container, name),
    }
}

fn from_elsewhere(container: &Value, name: &str) -> Option<Why> {
    let mut sources = container["envFrom"].as_array().into_iter().flatten();
    let may_have = |source: &Value| name.starts_with(source["prefix"].as_str().unwrap_or_default());
    sources.any(may_have).then_some(Why::EnvFrom)
}

/// What it may get by `envFrom` is not looked at: with that, none of our variables is set, or it has
/// other names.
fn sends_through_a_proxy(container: &Value) -> bool {
    let set = |name: &&str| own(container, name).is_some_and(|own| own["value"] != "");
    if !PROXIES.iter().any(set) {
        return false;
    }
    // Of two, libraries differ in which one they read.
    let mut exceptions = NO_PROXY
        .iter()
        .filter_map(|name| own(container, name))
        .peekable();
    let has_sidecar = |variable: &Value| {
        let list = variable["value"].as_str().unwrap_or_default();
        let mut hosts = list.split(',').map(str::trim);
        hosts.any(|host| host == "127.0.0.1" || host == "*")
    };
    exceptions.peek().is_none() || !exceptions.all(has_sidecar)
}

fn own<'a>(container: &'a Value, name: &str) -> Option<&'a Value> {
    let mut env = container["env"].as_array().into_iter().flatten();
    env.find(|variable| variable["name"] == name)
}
