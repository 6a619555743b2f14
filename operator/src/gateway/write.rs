//! Carries out a [`Plan`](super::plan::Plan)'s orders, and writes statuses.

use std::{sync::Arc, time::Duration};

use crds::{GROUP, OllaGateway, OllaGatewayStatus, VERSION};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use super::{
    plan::Order,
    render::ChildKind,
    watch::{ChildObject, child, resource},
};
use crate::{
    MANAGER,
    limiter::{Limiter, Limits},
};

/// Writes under way at a time.
const LIMITS: Limits = Limits {
    total: 16,
    per_namespace: 2,
    slow: 4,
};

#[derive(Clone)]
pub struct GatewayWriter {
    client: Client,
    limiter: Arc<Limiter>,
}

impl std::fmt::Debug for GatewayWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GatewayWriter")
    }
}

/// What became of some orders.
#[derive(Debug)]
pub struct Written {
    pub namespace: String,
    /// What is there now.
    pub now: Vec<(ChildKind, Option<ChildObject>)>,
    /// What it was all about, as [`Decision::goal`](super::state::Decision::goal).
    pub goal: u64,
    /// Why the first that failed did; those after it were not tried.
    pub problem: Option<String>,
}

impl GatewayWriter {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            limiter: Arc::new(Limiter::new(LIMITS)),
        }
    }

    pub async fn carry_out(self, namespace: String, orders: Vec<Order>, goal: u64) -> Written {
        let mut written = Written {
            namespace,
            now: Vec::new(),
            goal,
            problem: None,
        };
        for order in orders {
            let kind = order.kind();
            let result = self.one(&written.namespace, order);
            match self.limiter.run(&written.namespace, result).await {
                Some(Ok(now)) => written.now.push((kind, now)),
                Some(Err(error)) => {
                    if is_gone(&error) {
                        written.now.push((kind, None));
                    }
                    let (kind, name) = (kind.as_str(), kind.object_name());
                    written.problem = Some(format!("{kind} `{name}`: {}", text_of(&error)));
                    return written;
                }
                None => {
                    let seconds = Duration::from_secs(10).as_secs();
                    let message = format!("{}: no answer within {seconds}s", kind.as_str());
                    written.problem = Some(message);
                    return written;
                }
            }
        }
        written
    }

    /// What is there now.
    async fn one(&self, namespace: &str, order: Order) -> Result<Option<ChildObject>, kube::Error> {
        let kind = order.kind();
        let resource = resource(kind);
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        let name = kind.object_name();
        let applied = match order {
            // Without force: whoever made one a moment ago keeps it.
            Order::Create(new) => {
                let patch = Patch::Apply(&new.body);
                api.patch(name, &PatchParams::apply(MANAGER), &patch)
                    .await?
            }
            Order::Apply {
                child: mut new,
                uid,
            } => {
                new.body["metadata"]["uid"] = uid.into();
                let patch = Patch::Apply(&new.body);
                let parameters = PatchParams::apply(MANAGER).force();
                api.patch(name, &parameters, &patch).await?
            }
            Order::Delete { uid, .. } => {
                let parameters = DeleteParams::background().preconditions(Preconditions {
                    uid: Some(uid),
                    ..Preconditions::default()
                });
                return match api.delete(name, &parameters).await {
                    Ok(_) => Ok(None),
                    Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(None),
                    Err(error) => Err(error),
                };
            }
        };
        Ok(Some(child(kind, &applied)))
    }

    /// Each by the name of its OllaGateway. Out: the namespace, and why one was not written.
    pub async fn statuses(
        self,
        namespace: String,
        statuses: Vec<(String, OllaGatewayStatus)>,
    ) -> (String, Option<String>) {
        let mut problem = None;
        for (name, status) in statuses {
            problem = problem.or(self.status(&namespace, &name, status).await);
        }
        (namespace, problem)
    }

    async fn status(
        &self,
        namespace: &str,
        name: &str,
        status: OllaGatewayStatus,
    ) -> Option<String> {
        let resource = ApiResource::erase::<OllaGateway>(&());
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        let patch = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "OllaGateway",
            "metadata": { "name": name },
            "status": status,
        });
        let write = async {
            let parameters = PatchParams::apply(MANAGER).force();
            api.patch_status(name, &parameters, &Patch::Apply(&patch))
                .await
        };
        match self.limiter.run(namespace, write).await {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(text_of(&error)),
            None => Some("no answer from the API server".to_owned()),
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// The object of that uid is not there: a conflict, as the API server calls it, if there is none of
/// its name, or one of another uid.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(answer) if answer.code == 404 || answer.message.contains("uid mismatch"))
}

/// For a condition.
fn text_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(answer) => answer.message.clone(),
        error => error.to_string(),
    }
}
