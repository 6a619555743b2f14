//! Containers that serve models themselves: what is right for a client is wrong for them.

use serde_json::Value;

use crate::{CONTAINERS, INIT_CONTAINERS, containers};

const OLLAMA: &str = "ollama";
const OLLAMA_PORT: u64 = 11434;

/// Names of images, without registry and path, of servers and proxies that a namespace's endpoints
/// lead to. A proxy that reads the variables of its clients would send requests back to itself.
const SERVERS: [&str; 14] = [
    OLLAMA,
    "vllm-openai",
    "litellm",
    "litellm-database",
    "litellm-non_root",
    "localai",
    "local-ai",
    "gpustack",
    "sglang",
    "llama.cpp",
    "text-generation-inference",
    "text-embeddings-inference",
    "lmdeploy",
    "tritonserver",
];

/// The container and image of the first model server in the pod.
pub(crate) fn in_pod(pod: &Value) -> Option<(&str, &str)> {
    containers(pod, CONTAINERS).find_map(|container| {
        let image = image(container);
        let known = SERVERS.contains(&image);
        known.then(|| (container["name"].as_str().unwrap_or_default(), image))
    })
}

/// Whether a container of the pod is an Ollama: by its port, its image or its command.
pub(crate) fn runs_ollama(pod: &Value) -> bool {
    let mut all = containers(pod, INIT_CONTAINERS).chain(containers(pod, CONTAINERS));
    all.any(|container| {
        let mut ports = items(container, "ports");
        ports.any(|port| port["containerPort"] == OLLAMA_PORT)
            || image(container) == OLLAMA
            || serves(container)
    })
}

/// Its command or arguments have `ollama serve`, as a list or in a line for a shell.
fn serves(container: &Value) -> bool {
    let words = items(container, "command").chain(items(container, "args"));
    let words = words
        .filter_map(Value::as_str)
        .flat_map(str::split_whitespace);
    let words: Vec<&str> = words.collect();
    words.windows(2).any(|pair| {
        let program = pair[0].rsplit('/').next();
        program == Some(OLLAMA) && pair[1].trim_end_matches([';', '&']) == "serve"
    })
}

fn items<'a>(container: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    container[list].as_array().into_iter().flatten()
}

/// The last part of the image's name: `ollama` of `registry.example.com:5000/ollama/ollama:1@sha256:…`.
fn image(container: &Value) -> &str {
    let image = container["image"].as_str().unwrap_or_default();
    let name = image.split('@').next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    name.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_is_known_by_the_last_part_of_its_name() {
        for (text, name) in [
            ("ollama", "ollama"),
            ("ollama/ollama:0.6", "ollama"),
            ("registry.example.com:5000/x/ollama", "ollama"),
            ("registry.example.com:5000/x/ollama:1@sha256:ab", "ollama"),
            ("ollama/client", "client"),
            ("", ""),
        ] {
            assert_eq!(image(&json!({ "image": text })), name, "{text}");
        }
    }

    #[test]
    fn an_ollama_is_known_by_its_port_image_or_command() {
        for (container, is) in [
            (json!({ "ports": [{ "containerPort": 11434 }] }), true),
            (json!({ "image": "ollama/ollama" }), true),
            (
                json!({ "image": "own", "command": ["/bin/ollama", "serve"] }),
                true,
            ),
            (
                json!({ "image": "own", "command": ["ollama"], "args": ["serve"] }),
                true,
            ),
            (
                json!({ "image": "own", "args": ["-c", "ollama serve & sleep 5"] }),
                true,
            ),
            (
                json!({ "image": "own", "command": ["ollama", "pull", "m"] }),
                false,
            ),
            (
                json!({ "image": "own", "ports": [{ "containerPort": 8080 }] }),
                false,
            ),
        ] {
            for list in ["initContainers", "containers"] {
                let pod = json!({ "spec": { list: [container] } });
                assert_eq!(runs_ollama(&pod), is, "{pod}");
            }
        }
    }
}
