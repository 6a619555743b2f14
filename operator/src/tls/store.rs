//! The Secret that holds CA and leaf. When they end stands in annotations beside them, so that
//! no certificate has to be parsed.

use std::time::Duration;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ObjectMeta, PostParams},
};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::authority::{Authority, PemBundle, VALID_FOR_MORE, failed, names};
use crate::{Error, config::Config};

/// In the operator's namespace.
pub const SECRET: &str = "olla-operator-tls";
const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Unix seconds.
const CA_UNTIL: &str = "olla.dev/ca-not-after";
/// Unix seconds.
const UNTIL: &str = "olla.dev/not-after";
/// The leaf's names, by commas.
const NAMES: &str = "olla.dev/names";
/// A CA that ends sooner is replaced; data planes trust both meanwhile.
const CA_VALID_FOR_MORE: time::Duration = time::Duration::days(365);
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// Somebody else may write it at the same time, but not again and again.
const ATTEMPTS: u32 = 5;

/// What the Secret holds, after it was made or renewed where that is due.
pub async fn ensure(config: &Config, client: &Client) -> Result<PemBundle, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &config.namespace);
    let names = names(&config.namespace, &config.tls_san);
    let mut conflict = None;
    for _ in 0..ATTEMPTS {
        let found = asked("read", &config.namespace, api.get_opt(SECRET)).await?;
        let (secret, material) = match plan(found.as_ref(), &names, OffsetDateTime::now_utc()) {
            Ok(Plan::Keep(material)) => return Ok(material),
            Ok(Plan::Replace(secret, material)) => (secret, material),
            Err(error) => return Err(failed(&names)(error)),
        };
        let parameters = PostParams::default();
        let written = if found.is_some() {
            let write = api.replace(SECRET, &parameters, &secret);
            asked("renew", &config.namespace, write).await
        } else {
            let write = api.create(&parameters, &secret);
            asked("create", &config.namespace, write).await
        };
        match written {
            Ok(_) => return Ok(material),
            Err(error) if is_conflict(&error) => conflict = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(conflict.unwrap_or_else(|| Error::UnusableCertificate {
        origin: format!("Secret {}/{SECRET}", config.namespace),
        problem: "it could not be written".into(),
    }))
}

enum Plan {
    Keep(PemBundle),
    Replace(Box<Secret>, PemBundle),
}

fn plan(
    found: Option<&Secret>,
    names: &[String],
    now: OffsetDateTime,
) -> Result<Plan, rcgen::Error> {
    let old = found.and_then(StoredAuthority::read);
    if let Some(old) = &old
        && old.names == names.join(",")
        && old.until - now > VALID_FOR_MORE
        && old.authority.until - now > CA_VALID_FOR_MORE
    {
        return Ok(Plan::Keep(old.material.clone()));
    }
    let (authority, trusted_too) = match old {
        Some(old) if old.authority.until - now > CA_VALID_FOR_MORE => {
            let others = others(&old.material.ca, &old.authority.certificate);
            (old.authority, others)
        }
        Some(old) => (Authority::new(now)?, old.authority.certificate),
        None => (Authority::new(now)?, String::new()),
    };
    let (mut material, until) = authority.sign(names, now)?;
    material.ca.push_str(&trusted_too);
    let secret = secret(&authority, &material, until, names, found);
    Ok(Plan::Replace(Box::new(secret), material))
}

/// What a Secret of ours holds; nothing of it is used if a part is missing.
struct StoredAuthority {
    authority: Authority,
    material: PemBundle,
    until: OffsetDateTime,
    names: String,
}

impl StoredAuthority {
    fn read(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        let note = |key: &str| secret.annotations().get(key);
        let when = |key: &str| OffsetDateTime::from_unix_timestamp(note(key)?.parse().ok()?).ok();
        let ca = text(CA_CERTIFICATE)?;
        Some(Self {
            authority: Authority {
                certificate: first(&ca)?,
                key: text(CA_KEY)?,
                until: when(CA_UNTIL)?,
            },
            material: PemBundle {
                ca,
                certificate: text(CERTIFICATE)?,
                key: text(KEY)?,
            },
            until: when(UNTIL)?,
            names: note(NAMES)?.clone(),
        })
    }
}

fn secret(
    authority: &Authority,
    material: &PemBundle,
    until: OffsetDateTime,
    names: &[String],
    found: Option<&Secret>,
) -> Secret {
    // What others have written beside it stays: the chart makes the Secret, and helm knows it by that.
    let metadata = found
        .map(|found| found.metadata.clone())
        .unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.extend([
        (
            CA_UNTIL.into(),
            authority.until.unix_timestamp().to_string(),
        ),
        (UNTIL.into(), until.unix_timestamp().to_string()),
        (NAMES.into(), names.join(",")),
    ]);
    let mut labels = metadata.labels.unwrap_or_default();
    for (key, value) in [
        ("app.kubernetes.io/managed-by", crate::MANAGER),
        ("app.kubernetes.io/part-of", "olla"),
    ] {
        labels.entry(key.into()).or_insert_with(|| value.into());
    }
    let data = [
        (CA_CERTIFICATE, &material.ca),
        (CA_KEY, &authority.key),
        (CERTIFICATE, &material.certificate),
        (KEY, &material.key),
    ]
    .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())));
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.into()),
            labels: Some(labels),
            annotations: Some(annotations),
            // A replace of what has changed meanwhile is a conflict.
            resource_version: metadata.resource_version,
            ..ObjectMeta::default()
        },
        // The type of a Secret cannot be changed, only chosen.
        type_: found.map_or(Some("kubernetes.io/tls".into()), |found| {
            found.type_.clone()
        }),
        data: Some(data.into()),
        ..Secret::default()
    }
}

const END: &str = "-----END CERTIFICATE-----\n";

fn first(bundle: &str) -> Option<String> {
    let end = bundle.replace("\r\n", "\n").find(END)? + END.len();
    bundle.replace("\r\n", "\n").get(..end).map(str::to_owned)
}

fn others(bundle: &str, own: &str) -> String {
    bundle.strip_prefix(own).unwrap_or_default().to_owned()
}

async fn asked<T>(
    verb: &str,
    namespace: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    let attempt = || format!("{verb} Secret {namespace}/{SECRET}");
    match timeout(API_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Api {
            attempt: attempt(),
            source: Box::new(source),
        }),
        Err(_) => Err(Error::ApiTimeout { attempt: attempt() }),
    }
}

fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Api { source, .. }
        if matches!(&**source, kube::Error::Api(status) if status.code == 409))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(found: Option<&Secret>, names: &[String], now: OffsetDateTime) -> (Secret, PemBundle) {
        match plan(found, names, now).unwrap() {
            Plan::Replace(secret, material) => (*secret, material),
            Plan::Keep(_) => panic!("kept"),
        }
    }

    fn kept(found: &Secret, names: &[String], now: OffsetDateTime) -> bool {
        matches!(plan(Some(found), names, now).unwrap(), Plan::Keep(_))
    }

    #[test]
    fn a_certificate_is_kept_until_a_month_before_its_end_and_then_signed_by_the_same_ca() {
        let names = names("olla-system", &[]);
        let now = OffsetDateTime::now_utc();
        let (secret, before) = new(None, &names, now);
        assert!(kept(&secret, &names, now + time::Duration::days(100)));
        let (_, after) = new(Some(&secret), &names, now + time::Duration::days(151));
        assert_eq!(after.ca, before.ca);
        assert_ne!(after.certificate, before.certificate);
    }

    #[test]
    fn another_name_makes_another_leaf_under_the_same_ca() {
        let now = OffsetDateTime::now_utc();
        let (secret, before) = new(None, &names("a", &[]), now);
        let more = names("a", &["olla.example".into()]);
        let (secret, after) = new(Some(&secret), &more, now);
        assert_eq!(after.ca, before.ca);
        assert!(kept(&secret, &more, now));
    }

    #[test]
    fn a_new_ca_is_published_together_with_the_old_one() {
        let names = names("a", &[]);
        let now = OffsetDateTime::now_utc();
        let (secret, before) = new(None, &names, now);
        let late = now + time::Duration::days(3650 - 300);
        let (secret, after) = new(Some(&secret), &names, late);
        assert!(after.ca.ends_with(&before.ca));
        assert!(after.ca.len() > before.ca.len());
        let (_, later) = new(Some(&secret), &names, late + time::Duration::days(160));
        assert_eq!(
            later.ca, after.ca,
            "the bundle stays when only the leaf is renewed"
        );
    }

    #[test]
    fn a_secret_of_another_shape_is_replaced() {
        let found = Secret::default();
        new(Some(&found), &names("a", &[]), OffsetDateTime::now_utc());
    }
}
