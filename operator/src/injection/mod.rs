//! Sidecar injection: the webhook that the API server asks about pods that are created.
//!
//! ```text
//! serve    the port: TLS, HTTP/1.1, limits ─▶ review
//! room     memory for what strangers send to it
//! review   AdmissionReview in, AdmissionReview out; what happens to a pod is decided in `injection`
//! trust    the CA that the API server checks the port by
//! ```
//!
//! Every replica answers; the one that leads writes the CA.
//!
//! Nothing here may keep a pod from starting: whatever goes wrong, it starts without a sidecar.

pub mod review;
mod room;
pub mod serve;
pub mod trust;

use std::time::Duration;

use injection::Settings;
use kube::Client;
use tokio::time::timeout;

use crate::{CA_CONFIG_MAP, config::Config};

/// Name of the MutatingWebhookConfiguration.
pub const WEBHOOKS: &str = "olla-injection";
/// Asked about pods that have the label themselves.
pub const POD_PATH: &str = "/inject/pod";
/// Asked about pods in a namespace that has the label.
pub const NAMESPACE_PATH: &str = "/inject/namespace";

/// The first with sidecars among the init containers, without a feature gate.
const OLDEST: (u32, u32) = (1, 29);
/// Group of the SecurityContextConstraints.
const OPENSHIFT: &str = "security.openshift.io";
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// What the configuration and the cluster say.
pub async fn settings(config: &Config, client: &Client) -> Settings {
    let native_sidecars = match timeout(API_TIMEOUT, client.apiserver_version()).await {
        Ok(Ok(version)) => has_native_sidecars(&version.major, &version.minor),
        // The chart asks for such a server anyway.
        Ok(Err(error)) => {
            tracing::warn!(%error, "version of the API server not known; taken for new enough for sidecars");
            true
        }
        Err(_) => {
            tracing::warn!(
                "no version from the API server within 10s; taken for new enough for sidecars"
            );
            true
        }
    };
    let image = config.data_plane_image.clone();
    if image.is_none() {
        tracing::warn!("no sidecars are injected: --data-plane-image is not set");
    }
    Settings {
        image,
        operator_url: config.operator_url.clone(),
        ca_config_map: CA_CONFIG_MAP.to_owned(),
        native_sidecars,
        assigns_users: assigns_users(client).await,
        defaults: config.injection_defaults.clone(),
    }
}

/// OpenShift refuses pods with a container whose user it has not chosen.
async fn assigns_users(client: &Client) -> bool {
    match timeout(API_TIMEOUT, client.list_api_groups()).await {
        Ok(Ok(groups)) => groups.groups.iter().any(|group| group.name == OPENSHIFT),
        Ok(Err(error)) => {
            tracing::warn!(%error, "API groups not known; sidecars run as a user of ours");
            false
        }
        Err(_) => {
            tracing::warn!(
                "no API groups from the API server within 10s; sidecars run as a user of ours"
            );
            false
        }
    }
}

/// Some providers write `29+`.
fn has_native_sidecars(major: &str, minor: &str) -> bool {
    let number = |text: &str| -> Option<u32> {
        let end = text.find(|c: char| !c.is_ascii_digit());
        text.get(..end.unwrap_or(text.len()))?.parse().ok()
    };
    match (number(major), number(minor)) {
        (Some(major), Some(minor)) => (major, minor) >= OLDEST,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_before_1_29_have_no_native_sidecars() {
        for (major, minor, has) in [
            ("1", "28", false),
            ("1", "28+", false),
            ("1", "29", true),
            ("1", "30+", true),
            ("2", "0", true),
            ("", "", true),
        ] {
            assert_eq!(has_native_sidecars(major, minor), has, "{major}.{minor}");
        }
    }
}
