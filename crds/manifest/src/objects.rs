//! Kubernetes documents. In: a tree. Out: the objects in it that make sense; notes on the rest.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use crds::{LlmEndpoint, common::is_subdomain};
use dataplane_protocol::Secret;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    Object,
    note::Notes,
    schema,
    yaml::{Entry, Node, Value},
};
use compile::{Kind, cost_of_probe, endpoint_problem, nearest, route_problem};

/// A document of a kind that is read here.
pub(super) struct Read {
    /// Absent where the file leaves it to the caller.
    pub(super) namespace: Option<String>,
    /// Absent for a Secret.
    pub(super) kind: Option<Kind>,
    /// `None` when a note says what is wrong with it.
    pub(super) object: Option<Object>,
    pub(super) line: u32,
}

const KINDS: [&str; 5] = ["LlmEndpoint", "OllaRoute", "OllaGateway", "Secret", "List"];

/// One, except for a `List`; none for kinds that are not read.
pub(super) fn read(document: &Node, notes: &mut Notes<'_>) -> Vec<Read> {
    let Some(kind) = kind(document, notes) else {
        return Vec::new();
    };
    if kind != "List" {
        return Vec::from([object(document, kind, notes)]);
    }
    if let Some(Value::List(items)) = document.find("items").map(|items| &items.value.value) {
        return items.iter().flat_map(|item| read(item, notes)).collect();
    }
    notes.error(document.line, "items", "must be a list of objects");
    Vec::new()
}

/// A kind of [`KINDS`], beside the API version that belongs to it.
fn kind<'a>(document: &'a Node, notes: &mut Notes<'_>) -> Option<&'a str> {
    if !matches!(document.value, Value::Map(_)) {
        let message = format!("a document must be a map, not {}", document.type_name());
        notes.error(document.line, "", message);
        return None;
    }
    let Some(kind) = document
        .find("kind")
        .and_then(|entry| entry.value.as_text())
    else {
        let message = "neither a Kubernetes object (it has no kind) nor an Olla config (it has \
                       none of its sections)";
        notes.error(document.line, "kind", message);
        return None;
    };
    let api_version = document.find("apiVersion");
    let given = api_version
        .and_then(|entry| entry.value.as_text())
        .unwrap_or_default();
    let line = api_version.map_or(document.line, |entry| entry.line);
    let ours = given.split('/').next() == Some(crds::GROUP);
    if !KINDS.contains(&kind) {
        match nearest(kind, KINDS.into_iter()).filter(|_| ours) {
            Some(near) => {
                notes.error(
                    line,
                    "kind",
                    format!("unknown kind `{kind}`; did you mean `{near}`?"),
                );
            }
            None => notes.warn(line, "kind", format!("{kind} is not read here; skipped")),
        }
        return None;
    }
    let right = match kind {
        "Secret" | "List" => "v1".to_owned(),
        _ => format!("{}/{}", crds::GROUP, crds::VERSION),
    };
    if given != right {
        let message = format!("must be `{right}` for kind {kind}, not `{given}`");
        notes.error(line, "apiVersion", message);
        return None;
    }
    Some(kind)
}

fn object(document: &Node, kind: &str, notes: &mut Notes<'_>) -> Read {
    let (errors_before, notes_before) = (notes.errors(), notes.len());
    let metadata = metadata(document, notes);
    let mut read = Read {
        namespace: metadata.namespace,
        kind: match kind {
            "LlmEndpoint" => Some(Kind::LlmEndpoint),
            "OllaRoute" => Some(Kind::OllaRoute),
            _ => None,
        },
        object: None,
        line: metadata.line,
    };
    if kind == "Secret" {
        let values = secret(document, notes);
        if notes.errors() == errors_before {
            read.object = Some(Object::Secret {
                name: metadata.name,
                values,
            });
        }
        return read;
    }
    check_members(
        document,
        &["apiVersion", "kind", "metadata", "spec", "status"],
        notes,
    );
    match (document.find("spec"), schema::of_spec(kind)) {
        (Some(spec), Some(schema)) => schema::check(&spec.value, schema, "spec", notes),
        (None, _) => notes.error(
            document.line,
            "spec",
            "must be set; `spec: {}` takes defaults",
        ),
        (_, None) => {}
    }
    if notes.errors() == errors_before {
        read.object = match read.kind {
            // Its pods are the operator's to run.
            None => {
                let message = "has no effect without a cluster";
                notes.warn(document.line, kind, message);
                None
            }
            Some(Kind::LlmEndpoint) => decode(document, notes)
                .inspect(|endpoint| warn_of_cost(endpoint, document, notes))
                .map(Object::Endpoint),
            Some(Kind::OllaRoute) => decode(document, notes).map(Object::Route),
        };
    } else {
        tell_the_rest(document, kind, notes_before, notes);
    }
    read
}

/// What compiling would refuse in an object that its schema refuses already: whoever mends a file
/// should not find its errors one by one.
fn tell_the_rest(document: &Node, kind: &str, notes_before: usize, notes: &mut Notes<'_>) {
    let mut unheard = Notes::on("");
    let problem = match kind {
        "LlmEndpoint" => decode(document, &mut unheard).and_then(|it| endpoint_problem(&it)),
        "OllaGateway" => None,
        _ => decode(document, &mut unheard).and_then(|it| route_problem(&it)),
    };
    let Some(problem) = problem else { return };
    for (field, message) in problem.parts() {
        if !notes.told_of(field, notes_before) {
            notes.error(line_of(document, field), field, message);
        }
    }
}

/// Of the nearest part of `field` that is there.
fn line_of(document: &Node, field: &str) -> u32 {
    let mut line = document.line;
    let mut node = Some(document);
    for name in field.split(['.', '[']) {
        let place = name.strip_suffix(']').and_then(|at| at.parse().ok());
        node = match (node.map(|node| &node.value), place) {
            (Some(Value::List(items)), Some(at)) => items.get::<usize>(at),
            _ => {
                let entry = node.and_then(|node| node.find(name));
                line = entry.map_or(line, |entry| entry.line);
                entry.map(|entry| &entry.value)
            }
        };
    }
    line
}

fn warn_of_cost(endpoint: &LlmEndpoint, document: &Node, notes: &mut Notes<'_>) {
    let spec = &endpoint.spec;
    let probe = spec.health.path.as_deref();
    if let Some(cost) = probe.and_then(|path| cost_of_probe(&spec.type_, path)) {
        let place = ["spec", "health", "path"]
            .iter()
            .try_fold(document, |node, key| {
                node.find(key).map(|entry| &entry.value)
            });
        notes.warn(place.map_or(0, |node| node.line), "spec.health.path", cost);
    }
}

/// What a file says of an object; the cluster's own marks on it, as in the output of `kubectl
/// get`, are dropped, but for its age, which decides between routes.
fn decode<T: DeserializeOwned>(document: &Node, notes: &mut Notes<'_>) -> Option<Box<T>> {
    let json = document.to_json();
    let metadata = |name: &str| json["metadata"][name].clone();
    let kept = json!({
        "apiVersion": json["apiVersion"],
        "kind": json["kind"],
        "metadata": {
            "name": metadata("name"),
            "namespace": metadata("namespace"),
            "labels": metadata("labels"),
            "creationTimestamp": metadata("creationTimestamp"),
        },
        "spec": json["spec"],
    });
    match serde_json::from_value(kept) {
        Ok(object) => Some(Box::new(object)),
        Err(error) => {
            notes.error(document.line, "", format!("does not fit its kind: {error}"));
            None
        }
    }
}

struct Metadata {
    name: String,
    namespace: Option<String>,
    line: u32,
}

fn metadata(document: &Node, notes: &mut Notes<'_>) -> Metadata {
    let mut metadata = Metadata {
        name: String::new(),
        namespace: None,
        line: document.line,
    };
    let entry = document.find("metadata");
    let member = |name: &str| entry.and_then(|entry| entry.value.find(name));
    match member("name") {
        Some(name) => {
            metadata.line = name.line;
            name_of(name, "metadata.name", notes).clone_into(&mut metadata.name);
        }
        None => notes.error(document.line, "metadata.name", "must be set"),
    }
    if let Some(namespace) = member("namespace") {
        metadata.namespace = Some(name_of(namespace, "metadata.namespace", notes).to_owned());
    }
    for label in member("labels")
        .iter()
        .flat_map(|labels| labels.value.entries())
    {
        if label.value.as_text().is_none() {
            let message = format!(
                "must be a string, not {}; put it in quotes",
                label.value.type_name()
            );
            notes.error(
                label.line,
                &format!("metadata.labels.{}", label.key),
                message,
            );
        }
    }
    metadata
}

/// A DNS-1123 subdomain, as Kubernetes wants all names.
fn name_of<'a>(entry: &'a Entry, field: &str, notes: &mut Notes<'_>) -> &'a str {
    let name = entry.value.as_text().unwrap_or_default();
    if !is_subdomain(name) {
        let message = "must be a string of lower-case letters, digits, - and ., with a letter or \
                       digit at both ends and on both sides of each .";
        notes.error(entry.line, field, message);
    }
    name
}

fn check_members(document: &Node, known: &[&str], notes: &mut Notes<'_>) {
    for entry in document.entries() {
        if !known.contains(&entry.key.as_str()) {
            let hint = schema::hint(&entry.key, known.iter().copied());
            notes.error(entry.line, &entry.key, format!("unknown field{hint}"));
        }
    }
}

/// `data` and `stringData`, the latter over the former, as in Kubernetes.
fn secret(document: &Node, notes: &mut Notes<'_>) -> BTreeMap<String, Secret> {
    let known = [
        "apiVersion",
        "kind",
        "metadata",
        "data",
        "stringData",
        "type",
        "immutable",
    ];
    for entry in document.entries() {
        if !known.contains(&entry.key.as_str()) {
            // A slip of indentation can make a value a key, so it is not named.
            let message = format!("unknown field; known are {}", known.join(", "));
            notes.error(entry.line, "", message);
        }
    }
    let mut values = BTreeMap::new();
    for (section, encoded) in [("data", true), ("stringData", false)] {
        let Some(entry) = document
            .find(section)
            .filter(|entry| !entry.value.is_null())
        else {
            continue;
        };
        if !matches!(entry.value.value, Value::Map(_)) {
            let message = format!("must be a map, not {}", entry.value.type_name());
            notes.error(entry.line, section, message);
        }
        for item in entry.value.entries() {
            if item.value.is_null() {
                // As above.
                notes.error(item.line, section, "holds an entry without a value");
                continue;
            }
            let field = format!("{section}.{}", item.key);
            if let Some(value) = secret_value(item, &field, encoded, notes) {
                values.insert(item.key.clone(), Secret::new(value));
            }
        }
    }
    values
}

fn secret_value(
    entry: &Entry,
    field: &str,
    encoded: bool,
    notes: &mut Notes<'_>,
) -> Option<String> {
    let Some(text) = entry.value.as_text() else {
        let message = format!("must be a string, not {}", entry.value.type_name());
        notes.error(entry.line, field, message);
        return None;
    };
    if !encoded {
        return Some(text.to_owned());
    }
    let packed: String = text.split_ascii_whitespace().collect();
    let Ok(bytes) = STANDARD.decode(packed) else {
        notes.error(
            entry.line,
            field,
            "is not base64; plain text belongs in stringData",
        );
        return None;
    };
    let value = String::from_utf8(bytes);
    if value.is_err() {
        notes.warn(entry.line, field, "is not text, so no credential; skipped");
    }
    value.ok()
}
