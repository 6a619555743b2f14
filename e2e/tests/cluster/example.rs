//! An example of `deploy/examples` at work: applied to a namespace with a mock in the place of each
//! host, behind a data plane. In: the folder's name. Out: backends to kill, and who answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Client, DataPlane, MockLlm, Tenant, wait};
use serde_json::{Value, json};

/// A verdict on a dead backend takes two probes, a return a third and the ramp a few tries.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) const MODEL: &str = "llama3.2";

/// An example at work in one namespace.
pub(crate) struct Example {
    backends: BTreeMap<String, MockLlm>,
    pub(crate) data_plane: DataPlane,
}

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples")
}

/// The objects of an example's files.
fn objects(pattern: &str) -> Result<Vec<Value>> {
    let folder = folder();
    let mut objects = Vec::new();
    for file in ["endpoints.yaml", "route.yaml", "secret.yaml"] {
        let path = folder.join(pattern).join(file);
        if file == "secret.yaml" && !path.exists() {
            continue;
        }
        let what = || path.display().to_string();
        let text = std::fs::read_to_string(&path).with_context(what)?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).with_context(what)?;
        objects.extend(documents);
    }
    Ok(objects)
}

impl Example {
    /// With backends that all serve one model.
    pub(crate) fn apply(pattern: &str, tenant: Tenant) -> Result<Self> {
        Self::apply_with(pattern, tenant, |_| vec![MODEL])
    }

    /// Applies it with a mock in the place of each host. Those with `auth` want the key of the
    /// example's Secret.
    pub(crate) fn apply_with(
        pattern: &str,
        tenant: Tenant,
        models: impl Fn(&str) -> Vec<&'static str>,
    ) -> Result<Self> {
        let mut backends = BTreeMap::new();
        let mut objects = objects(pattern)?;
        objects.retain(|object| {
            let namespace = &object["metadata"]["namespace"];
            namespace.is_null() || namespace == tenant.namespace()
        });
        let mut yaml = String::new();
        for mut object in objects {
            if object["kind"] == "LlmEndpoint" {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let backend = MockLlm::start(name, &models(name))?;
                if !object["spec"]["auth"].is_null() {
                    backend.require("Bearer sk-change-me");
                }
                let name = name.to_owned();
                object["spec"]["url"] = json!(backend.url());
                backends.insert(name, backend);
            }
            yaml += "---\n";
            yaml += &object.to_string();
            yaml += "\n";
        }
        ensure!(!backends.is_empty(), "{pattern} has no endpoint");
        tenant.apply(&yaml)?;
        let data_plane = tenant.data_plane()?;
        let example = Self {
            backends,
            data_plane,
        };
        example.wait_models()?;
        Ok(example)
    }

    /// Every backend that is asked for its models has told them.
    fn wait_models(&self) -> Result<()> {
        wait("all models are known", SOON, || {
            let status = self.data_plane.status()?;
            let instances = status["endpoints"].as_array().into_iter().flatten();
            for instance in instances {
                let known = instance["models"].as_array().is_some_and(|m| !m.is_empty());
                ensure!(known, "{instance}");
            }
            Ok(Some(()))
        })
    }

    pub(crate) fn client(&self) -> Client {
        self.data_plane.client()
    }

    pub(crate) fn backend(&self, name: &str) -> Result<&MockLlm> {
        self.backends
            .get(name)
            .with_context(|| format!("no endpoint {name}"))
    }

    /// The next answers come from these, all of them, and from nobody else.
    pub(crate) fn answered_by(&self, names: &[&str]) -> Result<()> {
        let mut seen = self.client().answerers(MODEL, 4 * names.len())?;
        seen.sort();
        seen.dedup();
        ensure!(seen == names, "answered by {seen:?}, not {names:?}");
        Ok(())
    }

    /// `first` answer; killed, `then` do without any client error; revived, `first` do again.
    pub(crate) fn dies_and_returns(&self, first: &[&str], then: &[&str]) -> Result<()> {
        self.answered_by(first).context("while all live")?;
        for name in first {
            self.backend(name)?.kill()?;
        }
        self.answered_by(then).context("after the death")?;
        for name in first {
            self.backend(name)?.revive()?;
        }
        self.wait_answered_by(first)
    }

    /// Nothing is left for the model: whoever runs into that is told 502, and once it is known
    /// everybody 503 and when to come back.
    pub(crate) fn wait_told_to_come_back(&self, model: &str) -> Result<()> {
        wait("a 503 says when to come back", SOON, || {
            let reply = self.client().chat(model)?;
            assert!([502, 503].contains(&reply.status), "{reply:?}");
            let told = reply.status == 503 && !reply.header("retry-after").is_empty();
            ensure!(told, "{reply:?}");
            Ok(Some(()))
        })
    }

    pub(crate) fn wait_answered_by(&self, names: &[&str]) -> Result<()> {
        wait(&format!("{names:?} answer again"), SOON, || {
            self.answered_by(names).map(Some)
        })
    }
}
