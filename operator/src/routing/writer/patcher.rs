//! One status → one patch at the API server, when it is its namespace's turn.

use std::sync::Arc;

use compile::Kind;
use crds::{GROUP, LlmEndpoint, OllaRoute, VERSION};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::Status,
};
use serde_json::json;

use crate::{
    MANAGER,
    limiter::{Limiter, Limits},
    routing::status::ObjectStatus,
};

/// Patches under way at a time: more would only wait in the API server's own queues, before the
/// requests of others.
const LIMITS: Limits = Limits {
    total: 32,
    per_namespace: 8,
    slow: 8,
};

/// How a status is written.
#[derive(Clone)]
pub struct StatusPatcher {
    client: Client,
    limiter: Arc<Limiter>,
}

impl std::fmt::Debug for StatusPatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StatusPatcher")
    }
}

impl StatusPatcher {
    pub fn by_client(client: Client) -> Self {
        Self {
            client,
            limiter: Arc::new(Limiter::new(LIMITS)),
        }
    }

    /// `others`: conditions of the object that are not ours. `Err(None)` when the API server does
    /// not answer.
    pub(super) async fn patch(
        &self,
        namespace: &str,
        kind: Kind,
        name: &str,
        status: &ObjectStatus,
        others: &[Condition],
    ) -> Result<(), Option<kube::Error>> {
        let resource = match kind {
            Kind::LlmEndpoint => ApiResource::erase::<LlmEndpoint>(&()),
            Kind::OllaRoute => ApiResource::erase::<OllaRoute>(&()),
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        let patch = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": kind.to_string(),
            "metadata": { "name": name },
            "status": status,
        });
        let write = async {
            let parameters = PatchParams::apply(MANAGER).force();
            let patch = Patch::Apply(&patch);
            match api.patch_status(name, &parameters, &patch).await {
                // Apply wants the whole object typed, which an undecodable one is not; a merge
                // looks only at what changes.
                Err(kube::Error::Api(answer)) if is_untyped(&answer) => {
                    let parameters = PatchParams {
                        field_manager: Some(MANAGER.to_owned()),
                        ..PatchParams::default()
                    };
                    // A merge replaces lists: what others say is said again.
                    let mut whole = status.clone();
                    whole.conditions.extend_from_slice(others);
                    let patch = Patch::Merge(json!({ "status": whole }));
                    api.patch_status(name, &parameters, &patch).await
                }
                other => other,
            }
        };
        match self.limiter.run(namespace, write).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(Some(error)),
            None => Err(None),
        }
    }
}

/// Whether the object as it is stored has no place in its kind's schema. Other errors of this code
/// (a store that is busy) are to be tried again as they are.
fn is_untyped(answer: &Status) -> bool {
    answer.code == 500 && answer.message.contains("typed")
}
