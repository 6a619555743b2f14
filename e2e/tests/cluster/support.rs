//! What several scenarios begin with.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{DataPlane, MockLlm, Tenant, wait};

/// For what follows a change of the cluster on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const MODEL: &str = "llama3.2";

/// An LlmEndpoint of type openai at `url`; `more` are further lines of its spec.
pub(crate) fn endpoint(name: &str, url: &str, more: &str) -> String {
    format!(
        "---\n\
         apiVersion: olla.dev/v1alpha1\n\
         kind: LlmEndpoint\n\
         metadata: {{name: {name}}}\n\
         spec:\n  type: openai\n  url: {url}\n{more}"
    )
}

/// An OllaRoute; `spec` in flow style.
pub(crate) fn route(name: &str, spec: &str) -> String {
    format!(
        "---\n\
         apiVersion: olla.dev/v1alpha1\n\
         kind: OllaRoute\n\
         metadata: {{name: {name}}}\n\
         spec: {spec}\n"
    )
}

/// One backend `base` behind one route, and a data plane that serves from it.
pub(crate) fn served(tenant: &Tenant) -> Result<(MockLlm, DataPlane)> {
    let backend = MockLlm::start("base", &[MODEL])?;
    let yaml = endpoint("base", &backend.url(), "  priority: 10\n") + &route("main", "{}");
    tenant.apply(&yaml)?;
    let data_plane = tenant.data_plane()?;
    wait_answer(&data_plane, "base")?;
    Ok((backend, data_plane))
}

/// Until `name` is the endpoint that answers.
pub(crate) fn wait_answer(data_plane: &DataPlane, name: &str) -> Result<()> {
    wait(&format!("{name} answers"), SOON, || {
        let answerer = data_plane.client().answerer(MODEL)?;
        ensure!(answerer == name, "{answerer} answers");
        Ok(Some(()))
    })
}

/// Until an Event about the object has this reason, and a note with these words.
pub(crate) fn wait_event(tenant: &Tenant, name: &str, reason: &str, words: &str) -> Result<()> {
    wait(&format!("an event tells {reason} of {name}"), SOON, || {
        let events = tenant.events(name)?;
        let told = events
            .iter()
            .any(|(why, note)| why == reason && note.contains(words));
        ensure!(told, "{events:?}");
        Ok(Some(()))
    })
}
