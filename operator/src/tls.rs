//! Certificate of the data planes' and the webhook's port: a CA of our own and a leaf, kept in Secret
//! `olla-operator-tls` of the operator's namespace, or files of somebody else's making.
//!
//! In: the Secret. Out: a rustls configuration whose certificate can be changed while it serves,
//! and the CA as ConfigMap `olla-operator-ca` in each namespace that holds objects of ours. Keys
//! are in no log and no error.

mod authority;
pub mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
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
    time::{Instant, interval_at, sleep},
};
use tokio_util::sync::CancellationToken;

pub use authority::{PemBundle, VALID_FOR_MORE};

use crate::{
    CA_CONFIG_MAP, Error, MANAGER,
    config::Config,
    limiter::{Limiter, Limits},
};

/// Key in it.
pub const CA_KEY: &str = "ca.crt";
/// How often the certificate is read again. All replicas serve with it, and whichever is first renews
/// it: the others must not go on with another one for long.
const CHECK: Duration = Duration::from_mins(1);
/// How often the CA is applied again where somebody may have removed it: new data planes of such a
/// namespace do not start before. It costs a request a namespace that changes nothing.
const REAPPLY: Duration = Duration::from_mins(5);
const RETRY: Duration = Duration::from_secs(5);
/// Namespaces that get the CA at a time.
const LIMITS: Limits = Limits {
    total: 8,
    per_namespace: 1,
    slow: 4,
};

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

    /// TLS for the webhook's port, where API servers speak HTTP/1.1.
    pub fn webhook_config(&self) -> Result<Arc<ServerConfig>, Error> {
        self.leaf.server_config(&[b"http/1.1"]).map_err(unusable)
    }

    /// The CA, PEM, now and whenever it changes.
    pub fn subscribe_ca(&self) -> watch::Receiver<String> {
        self.ca.subscribe()
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
    let mut check = interval_at(Instant::now() + CHECK, CHECK);
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
        // It is looked at often: what is wrong is told once.
        if !problem.is_empty() && problem != told {
            tracing::error!(
                problem,
                "certificate not renewed; the current one stays in use"
            );
        }
        told = problem;
    }
}

/// Keeps the CA where data planes look for it. A namespace that does not take it holds up no other.
pub async fn publish_ca(
    client: Client,
    certificate: Arc<ServingCertificate>,
    mut namespaces: watch::Receiver<BTreeSet<String>>,
    stop: CancellationToken,
) {
    let limiter = Limiter::new(LIMITS);
    let mut ca = certificate.ca.subscribe();
    // Each with the CA that it took.
    let mut done: BTreeMap<String, String> = BTreeMap::new();
    let mut pending: BTreeSet<String> = BTreeSet::new();
    let mut writes = FuturesUnordered::new();
    let mut again = interval_at(Instant::now() + REAPPLY, REAPPLY);
    loop {
        let text = ca.borrow_and_update().clone();
        let wanted = namespaces.borrow_and_update().clone();
        done.retain(|namespace, taken| wanted.contains(namespace) && *taken == text);
        for namespace in wanted {
            if !done.contains_key(&namespace) && pending.insert(namespace.clone()) {
                writes.push(apply(&client, &limiter, namespace, text.clone()));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Some((namespace, taken)) = writes.next() => {
                pending.remove(&namespace);
                done.extend(taken.map(|text| (namespace, text)));
            }
            changed = namespaces.changed() => if changed.is_err() {
                // Routing has ended; whoever ended it ends us.
                stop.cancelled().await;
                return;
            },
            _ = ca.changed() => {}
            _ = again.tick() => done.clear(),
        }
    }
}

/// The namespace, and the CA if it took it; if not, after a pause.
async fn apply(
    client: &Client,
    limiter: &Limiter,
    namespace: String,
    ca: String,
) -> (String, Option<String>) {
    let applied = limiter.run(&namespace, apply_ca(client, &namespace, &ca));
    let problem = match applied.await {
        Some(Ok(())) => return (namespace, Some(ca)),
        // The namespace is being deleted: the next list of namespaces is without it.
        Some(Err(error)) => error.to_string(),
        None => "no answer within 10s".to_owned(),
    };
    tracing::warn!(
        namespace,
        problem,
        "CA ConfigMap not written; will be retried"
    );
    sleep(RETRY).await;
    (namespace, None)
}

async fn apply_ca(client: &Client, namespace: &str, ca: &str) -> Result<(), kube::Error> {
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
    api.patch(CA_CONFIG_MAP, &parameters, &patch).await?;
    Ok(())
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
