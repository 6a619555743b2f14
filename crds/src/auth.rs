//! What is sent to a backend to authenticate with it, and where its parts are kept.

#![allow(
    unreachable_pub,
    reason = "what KubeSchema derives repeats the structs inside functions"
)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::SUBDOMAIN_PATTERN;

/// The message of the rule of [`AuthSpec`].
pub const ONE_KIND: &str = "set exactly one of bearer, basic, apiKey, header";

/// Exactly one kind of credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.bearer), has(self.basic), has(self.apiKey), has(self.header)].exists_one(t, t)")
    .message("auth: set exactly one of bearer, basic, apiKey, header"))]
pub struct AuthSpec {
    /// `Authorization: Bearer VALUE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<ValueAuth>,
    /// `Authorization: Basic …` with a user name and a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicAuth>,
    /// `X-Api-Key: VALUE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ValueAuth>,
    /// Any other request header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderAuth>,
    /// Paths that clients may use with this credential. `Inference` (default): chats, completions,
    /// embeddings and the like, and model listings; other paths are answered 403. `All`: every
    /// path; every client of the data plane can then use all permissions of the credential, so do
    /// not use an administrator's credential.
    #[serde(default)]
    pub paths: AuthPaths,
}

/// Paths of a backend that a credential is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthPaths {
    #[default]
    Inference,
    All,
}

impl AuthSpec {
    /// The Secrets that are named, each with the field that does.
    pub fn secrets(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            (
                "spec.auth.bearer.valueFrom.secretKeyRef.name",
                self.bearer.as_ref().map(|it| it.value_from.secret()),
            ),
            (
                "spec.auth.basic.valueFrom.secretRef.name",
                self.basic
                    .as_ref()
                    .map(|it| it.value_from.secret_ref.name.as_str()),
            ),
            (
                "spec.auth.apiKey.valueFrom.secretKeyRef.name",
                self.api_key.as_ref().map(|it| it.value_from.secret()),
            ),
            (
                "spec.auth.header.valueFrom.secretKeyRef.name",
                self.header.as_ref().map(|it| it.value_from.secret()),
            ),
        ]
        .into_iter()
        .filter_map(|(field, name)| Some((field, name?)))
    }
}

/// A credential that is one value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValueAuth {
    /// Source of the value.
    pub value_from: ValueSource,
}

/// A user name and a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// Source of user name and password.
    pub value_from: PairSource,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderAuth {
    /// Name of the request header.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9-]+$"))]
    pub name: String,
    /// Source of the header's value.
    pub value_from: ValueSource,
}

/// Source of one value. Further members may be added beside `secretKeyRef`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValueSource {
    /// One key of a Secret of the same namespace.
    pub secret_key_ref: SecretKeyRef,
}

impl ValueSource {
    fn secret(&self) -> &str {
        &self.secret_key_ref.name
    }
}

/// Source of a user name and a password. Further members may be added beside `secretRef`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairSource {
    /// A Secret of the same namespace with the keys `username` and `password` (type
    /// `kubernetes.io/basic-auth`).
    pub secret_ref: SecretRef,
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN_PATTERN))]
    pub name: String,
}

/// One key of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN_PATTERN))]
    pub name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl SecretKeyRef {
    /// As a credential writes it.
    pub fn as_source(self) -> ValueSource {
        ValueSource {
            secret_key_ref: self,
        }
    }
}
