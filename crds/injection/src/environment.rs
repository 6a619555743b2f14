//! Variables that point clients at the sidecar, for containers that start after it.
//!
//! What a container sets itself stays, and so does what it takes from a ConfigMap or Secret as a
//! whole (`envFrom`): we cannot see what is in there, and a variable in `env` would win over it.
//! An annotation of the pod says which variables were not set.

use serde_json::{Value, json};

use crate::{CONTAINERS, INIT_CONTAINERS, additions::Additions, containers, sidecar::CONTAINER};

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
        // Clients refuse to start without one. It goes no further than the sidecar.
        key: Some(("OPENAI_API_KEY", "olla")),
    },
    Client {
        places: &[("ANTHROPIC_BASE_URL", "http://127.0.0.1:40114")],
        key: None,
    },
    Client {
        places: &[(OLLAMA_HOST, "http://127.0.0.1:40114")],
        key: None,
    },
];

const OLLAMA_HOST: &str = "OLLAMA_HOST";

/// Ollama itself listens where `OLLAMA_HOST` says.
const OLLAMA_PORT: u64 = 11434;

/// Why a variable is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The container sets it, or another of the same client, itself.
    Env,
    /// The container may have it, or another of the same client, from a ConfigMap or Secret.
    EnvFrom,
    /// The container is an Ollama, by the port that it declares.
    OllamaServer,
}

impl Why {
    fn word(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::EnvFrom => "envFrom",
            Self::OllamaServer => "port 11434",
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
    let mut notes = Vec::new();
    for (list, index, container) in after.chain(all) {
        let (variables, not_set) = variables(container);
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
fn variables(container: &Value) -> (Vec<Value>, Vec<(&'static str, Why)>) {
    let (mut missing, mut not_set) = (Vec::new(), Vec::new());
    for client in CLIENTS {
        let kept = client
            .places
            .iter()
            .find_map(|place| kept(container, *place));
        let all = client.places.iter().chain(&client.key);
        for variable in all {
            match kept.or_else(|| self::kept(container, *variable)) {
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
    if let Some(own) = own(container, name) {
        // Ours, from the first time that the API server asked.
        return (own["value"] != value).then_some(Why::Env);
    }
    let mut sources = container["envFrom"].as_array().into_iter().flatten();
    let may_have = |source: &Value| name.starts_with(source["prefix"].as_str().unwrap_or_default());
    if sources.any(may_have) {
        return Some(Why::EnvFrom);
    }
    (name == OLLAMA_HOST && listens_as_ollama(container)).then_some(Why::OllamaServer)
}

fn own<'a>(container: &'a Value, name: &str) -> Option<&'a Value> {
    let mut env = container["env"].as_array().into_iter().flatten();
    env.find(|variable| variable["name"] == name)
}

fn listens_as_ollama(container: &Value) -> bool {
    let mut ports = container["ports"].as_array().into_iter().flatten();
    ports.any(|port| port["containerPort"] == OLLAMA_PORT)
}
