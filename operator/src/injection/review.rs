//! One question of the API server and its answer. Pure.

use std::collections::BTreeMap;

use injection::{Decision, LABEL, Settings};
use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation},
};

/// What became of the pod, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Injected,
    /// Nobody asked for a sidecar, or it is there.
    LeftAlone,
    /// A sidecar was asked for and the pod cannot have one.
    Refused,
    /// Not a question that we can answer.
    Invalid,
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::LeftAlone => "left_alone",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
        }
    }
}

/// An AdmissionReview as JSON, of a pod in a namespace that asks for sidecars or not. The answer
/// always lets the pod in.
pub fn answer(review: &[u8], namespace_asks: bool, settings: &Settings) -> (Outcome, Vec<u8>) {
    let request = serde_json::from_slice::<AdmissionReview<DynamicObject>>(review)
        .ok()
        .and_then(|review| review.try_into().ok());
    let Some(request) = request else {
        return (Outcome::Invalid, Vec::new());
    };
    let (outcome, response) = decide(&request, namespace_asks, settings);
    match serde_json::to_vec(&response.into_review()) {
        Ok(text) => (outcome, text),
        Err(_) => (Outcome::Invalid, Vec::new()),
    }
}

fn decide(
    request: &AdmissionRequest<DynamicObject>,
    namespace_asks: bool,
    settings: &Settings,
) -> (Outcome, AdmissionResponse) {
    let response = AdmissionResponse::from(request);
    // Whoever wrote the webhook's rules may have asked for more than this.
    let is_pod = (request.kind.group.as_str(), request.kind.kind.as_str()) == ("", "Pod");
    let pod = (is_pod && request.operation == Operation::Create)
        .then_some(request.object.as_ref())
        .flatten()
        .and_then(|pod| serde_json::to_value(pod).ok());
    let Some(pod) = pod else {
        return (Outcome::LeftAlone, response);
    };
    let asks = namespace_asks.then(|| (LABEL.to_owned(), "true".to_owned()));
    let labels: BTreeMap<String, String> = asks.into_iter().collect();
    let decision = injection::decide(&pod, &labels, settings);
    let name = pod["metadata"]["name"].as_str();
    let name = name.or_else(|| pod["metadata"]["generateName"].as_str());
    let (name, namespace) = (name.unwrap_or_default(), request.namespace.as_deref());
    match decision {
        Decision::LeaveAlone => (Outcome::LeftAlone, response),
        Decision::Refuse(obstacle) => {
            // No more than this: anybody in the cluster can ask. The metric counts them.
            tracing::debug!(namespace, pod = name, %obstacle, "pod starts without a sidecar");
            let told = injection::refusal(&pod, &obstacle)
                .and_then(|patch| response.clone().with_patch(patch).ok());
            let response = told.unwrap_or(response);
            (
                Outcome::Refused,
                warned(response, vec![obstacle.to_string()]),
            )
        }
        Decision::Inject { patch, warnings } => match response.clone().with_patch(patch) {
            Ok(response) => {
                tracing::debug!(namespace, pod = name, "sidecar injected");
                (Outcome::Injected, warned(response, warnings))
            }
            Err(_) => (Outcome::Invalid, response),
        },
    }
}

fn warned(mut response: AdmissionResponse, warnings: Vec<String>) -> AdmissionResponse {
    response.warnings = (!warnings.is_empty()).then_some(warnings);
    response
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settings() -> Settings {
        Settings {
            image: Some("data-plane:1".into()),
            operator_url: "https://operator:9443".into(),
            ca_config_map: "ca".into(),
            native_sidecars: true,
            assigns_users: false,
            defaults: injection::Defaults::default(),
        }
    }

    /// As the API server writes it, with members that we do not use.
    fn review(pod: &Value) -> Value {
        json!({
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": "705ab4f5",
                "kind": { "group": "", "version": "v1", "kind": "Pod" },
                "resource": { "group": "", "version": "v1", "resource": "pods" },
                "namespace": "team-a",
                "operation": "CREATE",
                "userInfo": { "username": "system:serviceaccount:kube-system:replicaset-controller" },
                "object": pod,
                "oldObject": null,
                "dryRun": true,
                "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
            },
        })
    }

    fn pod(label: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "generateName": "app-", "creationTimestamp": null,
                "labels": { "olla.dev/inject": label },
            },
            "spec": spec,
        })
    }

    fn ask(review: &Value, namespace_asks: bool) -> (Outcome, Value) {
        let (outcome, text) = answer(review.to_string().as_bytes(), namespace_asks, &settings());
        (outcome, serde_json::from_slice(&text).unwrap_or_default())
    }

    fn patch(told: &Value) -> Value {
        // kube writes bytes as numbers, which Go reads as it reads base64.
        let patch = told["response"]["patch"].clone();
        let patch: Vec<u8> = serde_json::from_value(patch).unwrap();
        serde_json::from_slice(&patch).unwrap()
    }

    #[test]
    fn the_answer_is_a_review_with_the_question_s_uid_and_a_json_patch() {
        let spec = json!({ "containers": [{ "name": "app", "image": "app" }] });
        let (outcome, told) = ask(&review(&pod("true", &spec)), false);
        assert_eq!(outcome, Outcome::Injected);
        assert_eq!(told["kind"], "AdmissionReview");
        assert_eq!(told["apiVersion"], "admission.k8s.io/v1");
        let response = &told["response"];
        assert_eq!(response["uid"], "705ab4f5");
        assert_eq!(response["allowed"], true);
        assert_eq!(response["patchType"], "JSONPatch");
        let patch = patch(&told);
        assert_eq!(patch[0]["op"], "add");
        assert_eq!(patch[0]["path"], "/spec/initContainers");
    }

    #[test]
    fn the_namespace_s_wish_counts_where_the_pod_has_none() {
        let spec = json!({ "containers": [{ "name": "app", "image": "app" }] });
        for (label, namespace_asks, outcome) in [
            ("", true, Outcome::Injected),
            ("", false, Outcome::LeftAlone),
            ("false", true, Outcome::LeftAlone),
            ("true", false, Outcome::Injected),
        ] {
            let told = ask(&review(&pod(label, &spec)), namespace_asks);
            assert_eq!(told.0, outcome, "{label:?} {namespace_asks}");
            assert_eq!(told.1["response"]["allowed"], true);
        }
    }

    #[test]
    fn a_pod_that_cannot_have_one_is_let_in_with_a_warning() {
        let spec = json!({ "hostNetwork": true, "containers": [{ "name": "app" }] });
        let (outcome, told) = ask(&review(&pod("true", &spec)), false);
        assert_eq!(outcome, Outcome::Refused);
        assert_eq!(told["response"]["allowed"], true);
        let patch = patch(&told);
        assert_eq!(patch.as_array().map(Vec::len), Some(1), "{patch}");
        assert_eq!(patch[0]["path"], "/metadata/annotations");
        let reason = patch[0]["value"][injection::NOT_INJECTED].as_str();
        assert!(
            reason.unwrap_or_default().contains("host's network"),
            "{patch}"
        );
        let warning = told["response"]["warnings"][0].as_str();
        assert!(
            warning.unwrap_or_default().contains("host's network"),
            "{told}"
        );
    }

    #[test]
    fn what_is_not_the_creation_of_a_pod_is_let_in_as_it_is() {
        let spec = json!({ "containers": [{ "name": "app" }] });
        let question = review(&pod("true", &spec));
        for (path, value) in [
            ("/request/operation", json!("UPDATE")),
            ("/request/kind/kind", json!("ReplicaSet")),
            ("/request/object", Value::Null),
        ] {
            let mut question = question.clone();
            *question.pointer_mut(path).unwrap() = value;
            let (outcome, told) = ask(&question, true);
            assert_eq!(outcome, Outcome::LeftAlone, "{path}");
            assert_eq!(told["response"]["allowed"], true, "{path}");
        }
    }

    #[test]
    fn what_is_no_review_gets_no_answer() {
        for text in [
            "",
            "{}",
            "[1]",
            "{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1\"}",
        ] {
            let (outcome, told) = answer(text.as_bytes(), true, &settings());
            assert_eq!((outcome, told.len()), (Outcome::Invalid, 0), "{text}");
        }
    }
}
