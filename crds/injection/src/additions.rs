//! A JSON patch that only adds to one pod.

use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use serde_json::{Value, json};

use crate::{INIT_CONTAINERS, defaults::Reference};

/// Of all annotations of an object together, names and values, bytes: more is refused.
const MAX_ANNOTATIONS: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Additions<'a> {
    pod: &'a Value,
    operations: Vec<PatchOperation>,
    /// Where the init container was put that the pod does not have yet.
    inserted: Option<usize>,
}

impl<'a> Additions<'a> {
    pub(crate) fn new(pod: &'a Value) -> Self {
        Self {
            pod,
            operations: Vec::new(),
            inserted: None,
        }
    }

    /// `None`: there is nothing to add.
    pub(crate) fn into_patch(self) -> Option<Patch> {
        (!self.operations.is_empty()).then_some(Patch(self.operations))
    }

    pub(crate) fn insert_init_container(&mut self, position: usize, container: Value) {
        if self.pod["spec"][INIT_CONTAINERS].is_array() {
            let index = position.to_string();
            self.add(&["spec", INIT_CONTAINERS, &index], container);
        } else {
            self.add(&["spec", INIT_CONTAINERS], json!([container]));
        }
        self.inserted = Some(position);
    }

    /// Those that the pod does not have by name.
    pub(crate) fn add_volumes(&mut self, volumes: impl IntoIterator<Item = Value>) {
        self.add_named("volumes", volumes);
    }

    /// Those that the pod does not have. Its ServiceAccount's are there before any webhook is asked.
    pub(crate) fn add_pull_secrets(&mut self, secrets: &[Reference]) {
        let secrets = secrets.iter().map(|secret| json!({ "name": secret.name }));
        self.add_named("imagePullSecrets", secrets);
    }

    fn add_named(&mut self, list: &str, values: impl IntoIterator<Item = Value>) {
        let own = &self.pod["spec"][list];
        let there = |value: &Value| {
            let mut own = own.as_array().into_iter().flatten();
            own.any(|it| it["name"] == value["name"])
        };
        let missing = values.into_iter().filter(|value| !there(value));
        self.append(&["spec", list], own, missing.collect());
    }

    /// Variables for the container that the pod has at `index` of `list`.
    pub(crate) fn add_env(
        &mut self,
        list: &str,
        index: usize,
        container: &Value,
        variables: Vec<Value>,
    ) {
        let moved = list == INIT_CONTAINERS && self.inserted.is_some_and(|at| at <= index);
        let index = (index + usize::from(moved)).to_string();
        self.append(&["spec", list, &index, "env"], &container["env"], variables);
    }

    /// Sets one of our annotations, unless there is no room for it: the pod matters more.
    pub(crate) fn annotate(&mut self, name: &str, value: &str) {
        let own = &self.pod["metadata"]["annotations"];
        if value.is_empty() || own[name] == value {
            return;
        }
        let Some(map) = own.as_object() else {
            self.add(&["metadata", "annotations"], json!({ name: value }));
            return;
        };
        let length =
            |(name, value): (&String, &Value)| name.len() + value.as_str().map_or(0, str::len);
        let used: usize = map.iter().map(length).sum();
        if used + name.len() + value.len() <= MAX_ANNOTATIONS {
            self.add(&["metadata", "annotations", name], value.into());
        }
    }

    /// To the list at `path`, which the pod has as `own`.
    fn append(&mut self, path: &[&str], own: &Value, values: Vec<Value>) {
        if values.is_empty() {
            return;
        }
        if own.is_array() {
            for value in values {
                self.add(&[path, &["-"]].concat(), value);
            }
        } else {
            self.add(path, values.into());
        }
    }

    fn add(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.operations
            .push(PatchOperation::Add(AddOperation { path, value }));
    }
}
