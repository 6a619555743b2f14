//! Files of a data plane that runs without a cluster. In: their text and the environment. Out:
//! the same objects and facts per namespace that an operator would hold, and notes on what was
//! wrong with them.
//!
//! Two languages are read: Kubernetes objects (YAML or JSON, any number of documents: our kinds,
//! `Secret`, `List`), and Olla's own `config.yaml`, which becomes such objects.

mod note;
mod objects;
mod olla;
mod schema;
mod yaml;

pub use note::{Note, Severity};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use crds::{LlmEndpoint, OllaRoute, OllaRouteSpec};
use dataplane_protocol::Secret;

use compile::{Facts, Kind, Objects};
use note::Notes;

/// A file. Its text may hold credentials, so it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// What notes call it: a path.
    pub name: String,
    pub text: String,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.text.len())
    }
}

/// All that files say.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub namespaces: BTreeMap<String, Input>,
    pub settings: Settings,
    /// In the order of the files. Any [`Severity::Error`] means that something was left out.
    pub notes: Vec<Note>,
    /// By kind, namespace and name.
    places: BTreeMap<(&'static str, String, String), Place>,
}

impl Loaded {
    /// Where the object of a verdict stands; none for a route that [`load`] added.
    pub fn place(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Place> {
        let key = (kind.as_str(), namespace.to_owned(), name.to_owned());
        self.places.get(&key)
    }

    pub fn has_errors(&self) -> bool {
        self.notes
            .iter()
            .any(|note| note.severity == Severity::Error)
    }
}

/// What [`compile`](compile::compile()) takes, for one namespace. Never in a cluster.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub objects: Objects,
    pub facts: Facts,
}

/// What an Olla file says about the process itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` from `server`; absent when no file has it.
    pub listen: Option<String>,
}

/// Reads all `sources`. Objects without a namespace are in `default_namespace`. A namespace that
/// has endpoints but no OllaRoute gets an empty one named `default`, which sends everything to
/// all of them. `env` answers `${VAR}` in Olla files.
pub fn load(
    sources: &[Source],
    default_namespace: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Loaded {
    let mut collected = Collected::new(default_namespace, env);
    for source in sources {
        collected.read(source);
    }
    collected.add_default_routes();
    collected.loaded
}

/// Where an object stands. Prints as `file:line`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub source: String,
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

/// One object as a file holds it.
enum Object {
    Endpoint(Box<LlmEndpoint>),
    Route(Box<OllaRoute>),
    Secret {
        name: String,
        values: BTreeMap<String, Secret>,
    },
}

impl Object {
    fn kind(&self) -> &'static str {
        match self {
            Self::Endpoint(_) => Kind::LlmEndpoint.as_str(),
            Self::Route(_) => Kind::OllaRoute.as_str(),
            Self::Secret { .. } => "Secret",
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Endpoint(object) => object.metadata.name.as_deref().unwrap_or_default(),
            Self::Route(object) => object.metadata.name.as_deref().unwrap_or_default(),
            Self::Secret { name, .. } => name,
        }
    }
}

struct Collected<'a> {
    default_namespace: &'a str,
    env: &'a dyn Fn(&str) -> Option<String>,
    loaded: Loaded,
    /// Namespaces for which someone wrote a route, even a broken one.
    routed: BTreeSet<String>,
}

impl<'a> Collected<'a> {
    fn new(default_namespace: &'a str, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            default_namespace,
            env,
            loaded: Loaded::default(),
            routed: BTreeSet::new(),
        }
    }

    fn read(&mut self, source: &Source) {
        let mut notes = Notes::on(&source.name);
        for document in yaml::documents(&source.text) {
            match document {
                Ok(document) => self.document(&document, &mut notes),
                Err(error) => notes.error(error.line, "", error.message),
            }
        }
        self.loaded.notes.extend(notes.into_list());
    }

    fn document(&mut self, document: &yaml::Node, notes: &mut Notes<'_>) {
        if olla::recognises(document) {
            self.olla(document, notes);
            return;
        }
        for object in objects::read(document, notes) {
            let namespace = object
                .namespace
                .unwrap_or_else(|| self.default_namespace.to_owned());
            if object.kind == Some(Kind::OllaRoute) {
                self.routed.insert(namespace.clone());
            }
            if let Some(read) = object.object {
                self.add(namespace, read, object.line, notes);
            }
        }
    }

    fn olla(&mut self, document: &yaml::Node, notes: &mut Notes<'_>) {
        let config = olla::read(document, self.env, notes);
        let namespace = self.default_namespace;
        self.routed.insert(namespace.to_owned());
        for (object, line) in config.objects {
            self.add(namespace.to_owned(), object, line, notes);
        }
        if let Some(listen) = config.listen {
            self.loaded.settings.listen.get_or_insert(listen);
        }
    }

    fn add(&mut self, namespace: String, object: Object, line: u32, notes: &mut Notes<'_>) {
        let key = (object.kind(), namespace.clone(), object.name().to_owned());
        if let Some(first) = self.loaded.places.get(&key) {
            let (kind, name) = (key.0, &key.2);
            let message = format!(
                "{kind} `{name}` of namespace `{namespace}` is already defined at {first}; rename or remove \
                 one"
            );
            notes.error(line, "metadata.name", message);
            return;
        }
        let source = notes.source().to_owned();
        self.loaded.places.insert(key, Place { source, line });
        let input = self.loaded.namespaces.entry(namespace).or_default();
        match object {
            Object::Endpoint(object) => input.objects.endpoints.push(Arc::from(object)),
            Object::Route(object) => input.objects.routes.push(Arc::from(object)),
            Object::Secret { name, values } => {
                input.facts.secrets.insert(name, values.into());
            }
        }
    }

    fn add_default_routes(&mut self) {
        for (namespace, input) in &mut self.loaded.namespaces {
            if input.objects.endpoints.is_empty() || self.routed.contains(namespace) {
                continue;
            }
            let mut route = OllaRoute::new("default", OllaRouteSpec::default());
            route.metadata.namespace = Some(namespace.clone());
            input.objects.routes.push(Arc::new(route));
        }
    }
}
