//! Model listings: read from backends, written for clients.

use std::{fmt, marker::PhantomData};

use dataplane_protocol::{EndpointId, ModelName, table::ListingFormat};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Value, json};

use crate::scan::MAX_VALUE;

/// Largest listing that is read, bytes; real ones reach some hundred kilobytes.
pub const MAX_BYTES: usize = 10 << 20;

/// Models of one listing that are taken; real ones reach some thousand.
pub const MAX_MODELS: usize = 10_000;

/// What a backend lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelList {
    /// Sorted, each once.
    pub models: Vec<ModelName>,
    /// Names over [`MAX_MODELS`], or longer than one in a request may be.
    pub dropped: usize,
}

/// The first [`MAX_MODELS`] members of an array, and how many more it has.
struct Bounded<T> {
    taken: Vec<T>,
    more: usize,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Bounded<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Bounded<T>, A::Error> {
                let (mut taken, mut more) = (Vec::new(), 0);
                while taken.len() < MAX_MODELS
                    && let Some(member) = members.next_element()?
                {
                    taken.push(member);
                }
                while members.next_element::<IgnoredAny>()?.is_some() {
                    more += 1;
                }
                Ok(Bounded { taken, more })
            }
        }
        from.deserialize_seq(Members(PhantomData))
    }
}

#[derive(Deserialize)]
struct OpenAi {
    data: Bounded<OpenAiModel>,
}

#[derive(Deserialize)]
struct OpenAiModel {
    id: String,
}

#[derive(Deserialize)]
struct Ollama {
    // Null when nothing is pulled yet, but always there: an OpenAI list has no such member.
    #[serde(deserialize_with = "Option::deserialize")]
    models: Option<Bounded<OllamaModel>>,
}

#[derive(Deserialize)]
struct OllamaModel {
    name: Option<String>,
    model: Option<String>,
}

/// Model names of a backend's listing. An error says what was wrong with it.
pub fn parse(format: ListingFormat, body: &[u8]) -> Result<ModelList, String> {
    let (names, more): (Vec<String>, usize) = match format {
        ListingFormat::Openai | ListingFormat::LmStudio => {
            let listing: OpenAi = serde_json::from_slice(body)
                .map_err(|error| format!("not an OpenAI model list: {error}"))?;
            let Bounded { taken, more } = listing.data;
            (taken.into_iter().map(|model| model.id).collect(), more)
        }
        ListingFormat::Ollama => {
            let listing: Ollama = serde_json::from_slice(body)
                .map_err(|error| format!("not an Ollama model list: {error}"))?;
            let (taken, more) = listing
                .models
                .map_or_else(Default::default, |models| (models.taken, models.more));
            let names = taken
                .into_iter()
                .filter_map(|model| model.name.or(model.model));
            (names.collect(), more)
        }
    };
    let count = names.len();
    // One that no request could name.
    let short = names.into_iter().filter(|name| name.len() <= MAX_VALUE);
    let short: Vec<_> = short.collect();
    let dropped = more + count - short.len();
    let named = short.into_iter().filter(|name| !name.is_empty());
    let mut models: Vec<_> = named.map(ModelName::from).collect();
    models.sort();
    models.dedup();
    Ok(ModelList { models, dropped })
}

/// A model and who serves it.
#[derive(Clone, Debug)]
pub struct ModelEntry<'a> {
    pub name: &'a ModelName,
    pub endpoints: &'a [EndpointId],
}

/// Shapes in which clients ask for lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/models`
    OpenAi,
    /// `/olla/models`: OpenAI's shape and who serves each model.
    Unified,
    /// Anthropic's `/v1/models`
    Anthropic,
    /// `/api/tags`
    Ollama,
    /// `/api/v0/models`
    LmStudio,
}

/// `created` is when this data plane started, seconds since 1970: backends disagree, and a time
/// that moves with each call defeats caches.
pub fn render(shape: Shape, models: &[ModelEntry<'_>], created: u64) -> Vec<u8> {
    let document = match shape {
        Shape::OpenAi | Shape::Unified => json!({
            "object": "list",
            "data": models.iter().map(|m| openai(shape, m, created)).collect::<Vec<_>>(),
        }),
        Shape::LmStudio => json!({
            "object": "list",
            "data": models
                .iter()
                .map(|m| json!({ "id": m.name, "object": "model", "state": "loaded" }))
                .collect::<Vec<_>>(),
        }),
        Shape::Anthropic => json!({
            "data": models
                .iter()
                .map(|m| json!({ "type": "model", "id": m.name, "display_name": m.name }))
                .collect::<Vec<_>>(),
            "has_more": false,
            "first_id": models.first().map(|m| m.name),
            "last_id": models.last().map(|m| m.name),
        }),
        Shape::Ollama => json!({
            "models": models
                .iter()
                .map(|m| json!({ "name": m.name, "model": m.name, "details": {} }))
                .collect::<Vec<_>>(),
        }),
    };
    document.to_string().into_bytes()
}

/// One model as `/v1/models/{id}` and the lists show it.
pub fn openai(shape: Shape, model: &ModelEntry<'_>, created: u64) -> Value {
    let mut entry = json!({
        "id": model.name, "object": "model", "created": created, "owned_by": "olla",
    });
    if shape == Shape::Unified
        && let Some(object) = entry.as_object_mut()
    {
        let availability: Vec<_> = model
            .endpoints
            .iter()
            .map(|endpoint| json!({ "endpoint": endpoint, "state": "available" }))
            .collect();
        object.insert("olla".into(), json!({ "availability": availability }));
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(format: ListingFormat, body: &str) -> Result<Vec<String>, String> {
        let models = parse(format, body.as_bytes())?.models;
        Ok(models.iter().map(|name| name.as_str().to_owned()).collect())
    }

    #[test]
    fn each_format_is_read() {
        let openai = r#"{"object":"list","data":[{"id":"a","max_model_len":1},{"id":"b"}]}"#;
        assert_eq!(names(ListingFormat::Openai, openai).unwrap(), ["a", "b"]);
        let ollama = r#"{"models":[{"name":"a:latest","size":1},{"model":"b:7b"}]}"#;
        assert_eq!(
            names(ListingFormat::Ollama, ollama).unwrap(),
            ["a:latest", "b:7b"]
        );
        let lm_studio = r#"{"data":[{"id":"a","state":"not-loaded"}]}"#;
        assert_eq!(names(ListingFormat::LmStudio, lm_studio).unwrap(), ["a"]);
        assert!(
            names(ListingFormat::Ollama, r#"{"models":null}"#)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn an_openai_list_is_no_empty_ollama_list() {
        // What made Olla's `auto` find no models on OpenAI servers.
        let openai = r#"{"object":"list","data":[{"id":"a"}]}"#;
        assert!(names(ListingFormat::Ollama, openai).is_err());
        assert!(names(ListingFormat::Openai, r#"{"models":[]}"#).is_err());
        assert!(
            names(ListingFormat::Openai, "<html>")
                .unwrap_err()
                .contains("OpenAI")
        );
    }

    #[test]
    fn a_listing_is_taken_up_to_its_bounds() {
        let entries: Vec<_> = (0..MAX_MODELS + 7)
            .map(|number| json!({ "id": format!("m{number:06}") }))
            .chain([json!({ "id": 5 })])
            .collect();
        let body = json!({ "data": entries }).to_string();
        let listing = parse(ListingFormat::Openai, body.as_bytes()).unwrap();
        assert_eq!((listing.models.len(), listing.dropped), (MAX_MODELS, 8));

        let long = "x".repeat(MAX_VALUE + 1);
        let body = json!({ "models": [{ "name": long }, { "name": "b" }, { "name": "a" }, { "name": "b" }] });
        let listing = parse(ListingFormat::Ollama, body.to_string().as_bytes()).unwrap();
        assert_eq!(listing.models, ["a", "b"].map(ModelName::from));
        assert_eq!(listing.dropped, 1);
    }

    #[test]
    fn lists_have_the_shape_clients_expect() {
        let (name, endpoints) = (ModelName::from("m"), [EndpointId::from("e")]);
        let models = [ModelEntry {
            name: &name,
            endpoints: &endpoints,
        }];
        let text = |shape| String::from_utf8(render(shape, &models, 7)).unwrap();
        insta::assert_snapshot!(text(Shape::OpenAi), @r#"{"data":[{"created":7,"id":"m","object":"model","owned_by":"olla"}],"object":"list"}"#);
        insta::assert_snapshot!(text(Shape::Unified), @r#"{"data":[{"created":7,"id":"m","object":"model","olla":{"availability":[{"endpoint":"e","state":"available"}]},"owned_by":"olla"}],"object":"list"}"#);
        insta::assert_snapshot!(text(Shape::Anthropic), @r#"{"data":[{"display_name":"m","id":"m","type":"model"}],"first_id":"m","has_more":false,"last_id":"m"}"#);
        insta::assert_snapshot!(text(Shape::Ollama), @r#"{"models":[{"details":{},"model":"m","name":"m"}]}"#);
    }
}
