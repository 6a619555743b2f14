//! A document held against a CRD's own schema. In: a tree and the schema. Out: a note for each
//! place that the API server would refuse, in words that say what to write.
//!
//! Knows as much of OpenAPI as our CRDs use; a test below fails when they use more.

use std::{collections::BTreeSet, sync::LazyLock};

use crds::{
    cause::{CAUSE_PATTERN, FailoverCause},
    common::{DURATION_PATTERN, SUBDOMAIN_PATTERN},
    port::{PORT_NAME_PATTERN, is_port_name},
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use super::{
    note::Notes,
    yaml::{Entry, Node, Value},
};
use compile::{Url, nearest};

/// The schema of `spec` of one of our kinds.
pub(super) fn of_spec(kind: &str) -> Option<&'static JSONSchemaProps> {
    let (_, schema) = SPECS.iter().find(|(name, _)| name == kind)?;
    Some(schema)
}

static SPECS: LazyLock<Vec<(String, JSONSchemaProps)>> = LazyLock::new(|| {
    let spec_of = |crd: CustomResourceDefinition| {
        let version = crd.spec.versions.into_iter().next()?;
        let mut properties = version.schema?.open_api_v3_schema?.properties?;
        Some((crd.spec.names.kind, properties.remove("spec")?))
    };
    crds::all().into_iter().filter_map(spec_of).collect()
});

/// Notes an error for each deviation of `node`, which stands at `path`.
pub(super) fn check(node: &Node, schema: &JSONSchemaProps, path: &str, notes: &mut Notes<'_>) {
    let mut expected = schema.type_.as_deref().unwrap_or("object");
    if schema.x_kubernetes_int_or_string == Some(true) {
        expected = match node.value {
            Value::Number(_) => "integer",
            Value::Text(_) => "string",
            _ => "number or string",
        };
    }
    match (&node.value, expected) {
        (Value::Map(entries), "object") => object(node, entries, schema, path, notes),
        (Value::List(items), "array") => list(node, items, schema, path, notes),
        (Value::Text(text), "string") => {
            if let Err(message) = string(text, schema) {
                notes.error(node.line, path, message);
            }
        }
        (Value::Number(number), "integer") if number.is_i64() || number.is_u64() => {
            let number = number.as_f64().unwrap_or(f64::MAX);
            if let Err(message) = range(number, schema) {
                notes.error(node.line, path, message);
            }
        }
        (Value::Bool(_), "boolean") => {}
        _ => notes.error(node.line, path, wrong_type(node, expected)),
    }
}

fn wrong_type(node: &Node, expected: &str) -> String {
    let wanted = match expected {
        "object" => "a map",
        "array" => "a list",
        "integer" => "a whole number",
        "boolean" => "true or false",
        "number or string" => "a number or a string",
        _ => "a string",
    };
    let hint = match (&node.value, expected) {
        (Value::Number(_) | Value::Bool(_), "string") => "; put it in quotes",
        (Value::Number(_), "integer") => return "must be a whole number".into(),
        _ => "",
    };
    format!("must be {wanted}, not {}{hint}", node.type_name())
}

fn object(
    node: &Node,
    entries: &[Entry],
    schema: &JSONSchemaProps,
    path: &str,
    notes: &mut Notes<'_>,
) {
    let known = schema.properties.as_ref();
    for entry in entries {
        let at = format!("{path}.{}", entry.key);
        let of_entry = known
            .and_then(|known| known.get(&entry.key))
            .or_else(|| additional(schema));
        match of_entry {
            // As the API server does, which prunes them.
            Some(_) if entry.value.is_null() => {}
            Some(of_entry) => check(&entry.value, of_entry, &at, notes),
            None if schema.x_kubernetes_preserve_unknown_fields == Some(true) => {}
            None => {
                let names = known.into_iter().flatten().map(|(name, _)| name.as_str());
                notes.error(
                    entry.line,
                    &at,
                    format!("unknown field{}", hint(&entry.key, names)),
                );
            }
        }
    }
    for name in schema.required.iter().flatten() {
        if node.find(name).is_none_or(|entry| entry.value.is_null()) {
            notes.error(node.line, &format!("{path}.{name}"), "must be set");
        }
    }
    if schema
        .max_properties
        .is_some_and(|max| count(entries.len()) > max)
    {
        let max = schema.max_properties.unwrap_or_default();
        notes.error(node.line, path, format!("must have at most {max} entries"));
    }
}

fn additional(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(schema)) => Some(schema),
        _ => None,
    }
}

/// What follows "unknown field" for a name that is not among `known`.
pub(super) fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: BTreeSet<&str> = known.collect();
    if let Some(near) = nearest(name, known.iter().copied()) {
        return format!("; did you mean `{near}`?");
    }
    let known: Vec<&str> = known.into_iter().collect();
    format!("; known are {}", known.join(", "))
}

fn list(node: &Node, items: &[Node], schema: &JSONSchemaProps, path: &str, notes: &mut Notes<'_>) {
    if schema.min_items.is_some_and(|min| count(items.len()) < min) {
        notes.error(
            node.line,
            path,
            "must not be empty; leave it out for its default",
        );
    }
    if schema.max_items.is_some_and(|max| count(items.len()) > max) {
        let max = schema.max_items.unwrap_or_default();
        notes.error(node.line, path, format!("must have at most {max} entries"));
    }
    let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items else {
        return;
    };
    for (at, item) in items.iter().enumerate() {
        check(item, schema, &format!("{path}[{at}]"), notes);
    }
}

fn string(text: &str, schema: &JSONSchemaProps) -> Result<(), String> {
    if let Some(allowed) = &schema.enum_ {
        let mut allowed = allowed.iter().filter_map(|value| value.0.as_str());
        if !allowed.clone().any(|value| value == text) {
            let words: Vec<&str> = allowed.by_ref().collect();
            return Err(format!("`{text}` must be one of {}", words.join(", ")));
        }
    }
    let length = count(text.chars().count());
    if schema.min_length.is_some_and(|min| length < min) {
        return Err("must not be empty".into());
    }
    if let Some(max) = schema.max_length.filter(|max| length > *max) {
        return Err(format!("must be at most {max} characters, not {length}"));
    }
    match schema.pattern.as_deref().and_then(shape) {
        Some(refusal) => refusal(text).map_or(Ok(()), Err),
        None => Ok(()),
    }
}

/// What is wrong with a text, if something is.
type Refusal = fn(&str) -> Option<String>;

/// The patterns of our CRDs, each as a function with words for people.
fn shape(pattern: &str) -> Option<Refusal> {
    Some(match pattern {
        DURATION_PATTERN => |text| {
            let fits = crds::Duration::new(text).parse().is_some();
            (!fits).then(|| format!("`{text}` is not a duration; write it like 500ms, 10s, 1m30s"))
        },
        SUBDOMAIN_PATTERN => compile::not_a_secret_s,
        CAUSE_PATTERN => |text| text.parse::<FailoverCause>().err().map(|e| e.to_string()),
        PORT_NAME_PATTERN => |text| {
            let what = "must be a port number, without quotes, or a port name such as http";
            (!is_port_name(text)).then(|| format!("`{text}` {what}"))
        },
        "^/" => |text| (!text.starts_with('/')).then(|| format!("`{text}` must start with /")),
        r"^https?://[^@\s]+$" => |text| Url::parse(text).err().map(|error| error.to_string()),
        "^[A-Za-z0-9-]+$" => |text| {
            let fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            (!fits).then(|| format!("`{text}` must be made of letters, digits and -"))
        },
        _ => return None,
    })
}

/// As OpenAPI counts.
fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn range(number: f64, schema: &JSONSchemaProps) -> Result<(), String> {
    let (min, max) = (schema.minimum, schema.maximum);
    if min.is_none_or(|min| number >= min) && max.is_none_or(|max| number <= max) {
        return Ok(());
    }
    Err(match (min, max) {
        (Some(min), Some(max)) => format!("must be from {min} to {max}, not {number}"),
        (Some(min), None) => format!("must be at least {min}, not {number}"),
        (_, max) => format!("must be at most {}, not {number}", max.unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn notes(kind: &str, spec: &str) -> Vec<String> {
        let node = yaml::documents(spec).remove(0).ok().unwrap();
        let mut notes = Notes::on("f.yaml");
        check(&node, of_spec(kind).unwrap(), "spec", &mut notes);
        notes.into_list().iter().map(ToString::to_string).collect()
    }

    /// Members of a schema that `check` does not look at, by path.
    fn unhandled(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        const HANDLED: [&str; 16] = [
            "type",
            "properties",
            "additionalProperties",
            "required",
            "maxProperties",
            "minItems",
            "maxItems",
            "items",
            "enum",
            "minLength",
            "maxLength",
            "pattern",
            "minimum",
            "maximum",
            "x-kubernetes-int-or-string",
            "x-kubernetes-preserve-unknown-fields",
        ];
        // Held by `compile` itself, or without a meaning for a single document.
        const ELSEWHERE: [&str; 6] = [
            "description",
            "format",
            "default",
            "x-kubernetes-validations",
            "x-kubernetes-list-type",
            "x-kubernetes-list-map-keys",
        ];
        let Some(members) = value.as_object() else {
            return;
        };
        for name in members.keys() {
            if !HANDLED.contains(&name.as_str()) && !ELSEWHERE.contains(&name.as_str()) {
                found.push(format!("{path}: {name}"));
            }
        }
        if let Some(pattern) = value["pattern"].as_str().filter(|p| shape(p).is_none()) {
            found.push(format!("{path}: pattern {pattern}"));
        }
        for (name, property) in value["properties"].as_object().into_iter().flatten() {
            unhandled(property, &format!("{path}.{name}"), found);
        }
        unhandled(&value["items"], &format!("{path}[]"), found);
        unhandled(&value["additionalProperties"], &format!("{path}.*"), found);
    }

    #[test]
    fn everything_that_our_schemas_say_is_looked_at() {
        let mut found = Vec::new();
        for (kind, schema) in SPECS.iter() {
            unhandled(&serde_json::to_value(schema).unwrap(), kind, &mut found);
        }
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(SPECS.len(), crds::all().len());
    }

    #[test]
    fn a_misspelt_field_is_answered_with_the_nearest() {
        assert_eq!(
            notes("OllaRoute", "timeouts:\n  firstTokn: 10s\n"),
            ["f.yaml:2: spec.timeouts.firstTokn: unknown field; did you mean `firstToken`?"]
        );
        assert_eq!(
            notes(
                "LlmEndpoint",
                "url: http://a\nservice: {name: a, port: 80, zzz: 1}\n"
            ),
            ["f.yaml:2: spec.service.zzz: unknown field; known are name, port"]
        );
    }

    #[test]
    fn each_kind_of_slip_is_told_at_its_line() {
        for (kind, spec, expected) in [
            (
                "LlmEndpoint",
                "service:\n  name: a\n",
                "f.yaml:2: spec.service.port: must be set",
            ),
            (
                "LlmEndpoint",
                "service: {name: a, port: '80'}\n",
                "f.yaml:1: spec.service.port: `80` must be a port number, without quotes, or a port name such \
                 as http",
            ),
            (
                "LlmEndpoint",
                "service: {name: a, port: true}\n",
                "f.yaml:1: spec.service.port: must be a number or a string, not a boolean",
            ),
            (
                "LlmEndpoint",
                "service: {name: a, port: 80.5}\n",
                "f.yaml:1: spec.service.port: must be a whole number",
            ),
            (
                "LlmEndpoint",
                "service: {name: a, port: 8e5}\n",
                "f.yaml:1: spec.service.port: must be from 1 to 65535, not 800000",
            ),
            (
                "LlmEndpoint",
                "service: {name: a, port: 0}\n",
                "f.yaml:1: spec.service.port: must be from 1 to 65535, not 0",
            ),
            (
                "LlmEndpoint",
                "url: 80\n",
                "f.yaml:1: spec.url: must be a string, not a number; put it in quotes",
            ),
            (
                "LlmEndpoint",
                "a\n",
                "f.yaml:1: spec: must be a map, not a string",
            ),
            (
                "LlmEndpoint",
                "service: []\n",
                "f.yaml:1: spec.service: must be a map, not a list",
            ),
            (
                "LlmEndpoint",
                "priority: 1.5\n",
                "f.yaml:1: spec.priority: must be a whole number",
            ),
            (
                "LlmEndpoint",
                "priority: -1\n",
                "f.yaml:1: spec.priority: must be from 0 to 1000000, not -1",
            ),
            (
                "LlmEndpoint",
                "models:\n  discovery:\n    enabled: yes\n",
                "f.yaml:3: spec.models.discovery.enabled: must be true or false, not a string",
            ),
            (
                "LlmEndpoint",
                "type: ''\n",
                "f.yaml:1: spec.type: must not be empty",
            ),
            (
                "LlmEndpoint",
                "models:\n  static:\n  - a\n  - ''\n",
                "f.yaml:4: spec.models.static[1]: must not be empty",
            ),
            (
                "LlmEndpoint",
                "health: {path: healthz}\n",
                "f.yaml:1: spec.health.path: `healthz` must start with /",
            ),
            (
                "LlmEndpoint",
                "health:\n  interval: 10 s\n",
                "f.yaml:2: spec.health.interval: `10 s` is not a duration; write it like 500ms, 10s, 1m30s",
            ),
            (
                "LlmEndpoint",
                "url: gpu:8000\n",
                "f.yaml:1: spec.url: must start with http:// or https://",
            ),
            (
                "OllaRoute",
                "engine: Olla\n",
                "f.yaml:1: spec.engine: `Olla` must be one of olla, sherpa",
            ),
            (
                "OllaRoute",
                "failover: {causes: [200]}\n",
                "f.yaml:1: spec.failover.causes[0]: must be from 400 to 599, not 200",
            ),
            (
                "OllaRoute",
                "failover: {causes: [Resets]}\n",
                "f.yaml:1: spec.failover.causes[0]: `Resets` must be ConnectFailure, Reset, \
                 FirstTokenTimeout, a status from 400 to 599, 4xx or 5xx",
            ),
            (
                "OllaRoute",
                "failover: {causes: [true]}\n",
                "f.yaml:1: spec.failover.causes[0]: must be a number or a string, not a boolean",
            ),
        ] {
            assert_eq!(notes(kind, spec), [expected], "{spec}");
        }
    }

    #[test]
    fn what_the_api_server_takes_is_taken() {
        for (kind, spec) in [
            ("OllaRoute", "{}"),
            (
                "OllaRoute",
                "endpoints:\ntimeouts: {connect: 1s}\nfailover: {causes: ['503', 408, 5xx, Reset]}\n",
            ),
            (
                "LlmEndpoint",
                "url: https://a/v1\nauth:\n  header: {name: X-A, valueFrom: {secretKeyRef: {name: a, key: b}}}\n",
            ),
            (
                "LlmEndpoint",
                "podSelector:\n  matchLabels: {app.kubernetes.io/name: a}\n  port: 80\n",
            ),
            ("LlmEndpoint", "service: {name: a, port: http}\n"),
        ] {
            assert_eq!(notes(kind, spec), Vec::<String>::new(), "{spec}");
        }
    }
}
