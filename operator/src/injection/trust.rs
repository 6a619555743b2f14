//! Keeps the CA in the MutatingWebhookConfiguration that the chart made: the API server checks the
//! webhook's certificate by it. Nothing else of that object is ours.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::WEBHOOKS;
use crate::{MANAGER, tls::ServingCertificate};

/// How often it is looked at: somebody may have applied it anew. A request that changes nothing.
const CHECK: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_secs(5);
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Until stopped.
pub async fn keep(client: Client, certificate: Arc<ServingCertificate>, stop: CancellationToken) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let mut ca = certificate.subscribe_ca();
    let mut told = String::new();
    loop {
        let bundle = ca.borrow_and_update().clone();
        let problem = match timeout(API_TIMEOUT, look(&api, &bundle)).await {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer from the API server within 10s".to_owned(),
        };
        // What stays wrong is told once.
        if !problem.is_empty() && problem != told {
            tracing::warn!(
                problem,
                name = WEBHOOKS,
                "CA of the webhook not kept; will be retried. Pods start without sidecars meanwhile"
            );
        }
        let wait = if problem.is_empty() { CHECK } else { RETRY };
        told = problem;
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(wait) => {}
            _ = ca.changed() => {}
        }
    }
}

async fn look(api: &Api<MutatingWebhookConfiguration>, ca: &str) -> Result<(), kube::Error> {
    let Some(found) = api.get_opt(WEBHOOKS).await? else {
        tracing::debug!(
            name = WEBHOOKS,
            "there is no such MutatingWebhookConfiguration"
        );
        return Ok(());
    };
    let Some(patch) = patch(&found, ca) else {
        return Ok(());
    };
    let parameters = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch: Patch<()> = Patch::Json(patch);
    api.patch(WEBHOOKS, &parameters, &patch).await?;
    tracing::info!(name = WEBHOOKS, "CA of the webhook written");
    Ok(())
}

/// Sets the CA of each webhook in it that has another. Fails at the API server if somebody has
/// changed their order meanwhile.
fn patch(found: &MutatingWebhookConfiguration, ca: &str) -> Option<json_patch::Patch> {
    let webhooks = found.webhooks.iter().flatten().enumerate();
    let wrong = webhooks.filter(|(_, webhook)| {
        let bundle = webhook.client_config.ca_bundle.as_ref();
        bundle.is_none_or(|bundle| bundle.0 != ca.as_bytes())
    });
    let ca = STANDARD.encode(ca);
    let operations: Vec<Value> = wrong
        .flat_map(|(index, webhook)| {
            let path = |member: &str| format!("/webhooks/{index}/{member}");
            [
                json!({ "op": "test", "path": path("name"), "value": webhook.name }),
                json!({ "op": "add", "path": path("clientConfig/caBundle"), "value": ca }),
            ]
        })
        .collect();
    if operations.is_empty() {
        return None;
    }
    serde_json::from_value(Value::Array(operations)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhooks(bundles: [Option<&str>; 2]) -> Value {
        let webhooks = ["a.olla.dev", "b.olla.dev"].iter().zip(bundles);
        let webhooks = webhooks.map(|(name, bundle)| {
            let mut webhook = json!({
                "name": name,
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "clientConfig": { "service": { "name": "s", "namespace": "n" } },
            });
            if let Some(bundle) = bundle {
                webhook["clientConfig"]["caBundle"] = STANDARD.encode(bundle).into();
            }
            webhook
        });
        json!({ "webhooks": webhooks.collect::<Vec<_>>() })
    }

    #[test]
    fn each_webhook_with_another_ca_gets_ours_and_nothing_else_changes() {
        for bundles in [[None, None], [Some("old"), Some("ca")], [Some("ca"), None]] {
            let mut object = webhooks(bundles);
            let found = serde_json::from_value(object.clone()).unwrap();
            let patch = patch(&found, "ca").unwrap();
            json_patch::patch(&mut object, &patch.0).unwrap();
            assert_eq!(object, webhooks([Some("ca"), Some("ca")]));
        }
    }

    #[test]
    fn what_is_right_is_not_written() {
        let right = serde_json::from_value(webhooks([Some("ca"), Some("ca")])).unwrap();
        assert_eq!(patch(&right, "ca"), None);
        let empty = MutatingWebhookConfiguration::default();
        assert_eq!(patch(&empty, "ca"), None);
    }

    #[test]
    fn webhooks_that_have_changed_places_are_not_written_to() {
        let found = serde_json::from_value(webhooks([None, Some("ca")])).unwrap();
        let patch = patch(&found, "ca").unwrap();
        let mut moved = webhooks([Some("ca"), None]);
        moved["webhooks"].as_array_mut().unwrap().reverse();
        assert!(json_patch::patch(&mut moved, &patch.0).is_err());
    }
}
