//! Certificate of the data planes' port: a CA of our own and a leaf, kept in Secret
//! `olla-operator-tls` of the operator's namespace, or files of somebody else's making.
//!
//! In: the Secret. Out: a rustls configuration whose certificate can be changed while it serves,
//! and the CA as ConfigMap `olla-operator-ca` in each namespace that holds objects of ours. Keys
//! are in no log and no error.

mod authority;
pub mod store;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use rustls::{ServerConfig, sign::CertifiedKey};
use serde_json::json;
use serving::certificate::{self, Certificate};
use tokio::{
    sync::watch,
    time::{Instant, interval, interval_at, timeout},
};
use tokio_util::sync::CancellationToken;

pub use authority::{PemBundle, VALID_FOR_MORE};

use crate::{Error, MANAGER, config::Config};

/// Where data planes find the CA.
pub const CA_CONFIG_MAP: &str = "olla-operator-ca";
/// Key in it.
pub const CA_KEY: &str = "ca.crt";
/// How often the certificate's end is looked at.
const CHECK: Duration = Duration::from_hours(24);
/// How often files are read again: whoever renews them expects that to be all.
const CHECK_FILES: Duration = Duration::from_mins(1);
/// How often the CA is applied again where somebody may have removed it: new data planes of such a
/// namespace do not start before. It costs a request a namespace that changes nothing.
const REAPPLY: Duration = Duration::from_mins(5);
const RETRY: Duration = Duration::from_secs(5);
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// Namespaces that get the CA at a time: one that does not answer holds up no other.
const CONCURRENCY: usize = 8;

/// The certificate in use.
#[derive(Debug)]
pub struct ServingCertificate {
    leaf: Arc<Certificate>,
    ca: watch::Sender<String>,
}

impl ServingCertificate {
    pub fn new(material: &PemBundle) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            leaf: Certificate::new(pair(material)?),
            ca: watch::Sender::new(material.ca.clone()),
        }))
    }

    /// What data planes are to trust, PEM.
    pub fn ca(&self) -> String {
        self.ca.borrow().clone()
    }

    /// TLS for the data planes' port; only HTTP/2 is spoken there.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        self.leaf.server_config(&[b"h2"]).map_err(unusable)
    }

    /// New connections get this one.
    pub fn replace(&self, material: &PemBundle) -> Result<(), Error> {
        self.leaf.replace(pair(material)?);
        self.ca.send_if_modified(|ca| {
            let changed = *ca != material.ca;
            ca.clone_from(&material.ca);
            changed
        });
        Ok(())
    }
}

/// From files if the configuration says so, else from the Secret, made where it is missing.
pub async fn load(config: &Config, client: &Client) -> Result<PemBundle, Error> {
    match &config.cert_dir {
        Some(dir) => Ok(PemBundle {
            ca: read(dir, "ca.crt").await?,
            certificate: read(dir, "tls.crt").await?,
            key: read(dir, "tls.key").await?,
        }),
        None => store::ensure(config, client).await,
    }
}

/// Takes up a renewed certificate, and renews our own before it ends.
pub async fn keep_fresh(
    config: Config,
    client: Client,
    certificate: Arc<ServingCertificate>,
    stop: CancellationToken,
) {
    let mut check = interval(match &config.cert_dir {
        Some(_) => CHECK_FILES,
        None => CHECK,
    });
    check.tick().await;
    let mut told = String::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = check.tick() => {}
        }
        let fresh = match load(&config, &client).await {
            Ok(material) => certificate.replace(&material),
            Err(error) => Err(error),
        };
        let problem = fresh
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        // Files are looked at often: what is wrong with them is told once.
        if !problem.is_empty() && (problem != told || config.cert_dir.is_none()) {
            tracing::error!(
                problem,
                "certificate not renewed; the current one stays in use"
            );
        }
        told = problem;
    }
}

/// Keeps the CA where data planes look for it.
pub async fn publish_ca(
    client: Client,
    certificate: Arc<ServingCertificate>,
    mut namespaces: watch::Receiver<BTreeSet<String>>,
    stop: CancellationToken,
) {
    let mut ca = certificate.ca.subscribe();
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut again = interval_at(Instant::now() + REAPPLY, REAPPLY);
    loop {
        let text = ca.borrow_and_update().clone();
        let wanted = namespaces.borrow_and_update().clone();
        done.retain(|namespace| wanted.contains(namespace));
        let without = wanted.difference(&done).cloned().collect();
        tokio::select! {
            () = stop.cancelled() => return,
            applied = apply_each(&client, without, &text) => done.extend(applied),
        }
        let failed = done.len() < wanted.len();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY), if failed => {}
            changed = namespaces.changed() => if changed.is_err() {
                // Routing has ended; whoever ended it ends us.
                stop.cancelled().await;
                return;
            },
            _ = ca.changed() => done.clear(),
            _ = again.tick() => done.clear(),
        }
    }
}

/// Those of the namespaces that took it.
async fn apply_each(client: &Client, namespaces: Vec<String>, ca: &str) -> Vec<String> {
    stream::iter(namespaces)
        .map(|namespace| async move {
            let applied = apply_ca(client, &namespace, ca).await;
            applied.then_some(namespace)
        })
        .buffer_unordered(CONCURRENCY)
        .filter_map(std::future::ready)
        .collect()
        .await
}

async fn apply_ca(client: &Client, namespace: &str, ca: &str) -> bool {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": CA_CONFIG_MAP,
            "labels": { "app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/part-of": "olla" },
        },
        "data": { CA_KEY: ca },
    });
    let parameters = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&object);
    let problem = match timeout(API_TIMEOUT, api.patch(CA_CONFIG_MAP, &parameters, &patch)).await {
        Ok(Ok(_)) => return true,
        // The namespace is being deleted: the next list of namespaces is without it.
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer within 10s".to_owned(),
    };
    tracing::warn!(
        namespace,
        problem,
        "CA ConfigMap not written; will be retried"
    );
    false
}

async fn read(dir: &Path, name: &str) -> Result<String, Error> {
    let path = dir.join(name);
    tokio::fs::read_to_string(&path)
        .await
        .map_err(|source| Error::Read { path, source })
}

fn pair(material: &PemBundle) -> Result<CertifiedKey, Error> {
    certificate::pair(material.certificate.as_bytes(), material.key.as_bytes()).map_err(unusable)
}

fn unusable(problem: certificate::Error) -> Error {
    Error::UnusableCertificate {
        origin: "tls.crt and tls.key".into(),
        problem: problem.to_string(),
    }
}
