//! Our own CA and the leaf it signs. Pure but for the random keys.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::Error;

/// A leaf that ends sooner is made anew.
pub const VALID_FOR_MORE: Duration = Duration::days(30);
const LEAF_LIFE: Duration = Duration::days(180);
const CA_LIFE: Duration = Duration::days(3650);
/// Against clocks that are behind ours.
const BACKDATED: Duration = Duration::hours(1);
const CA_NAME: &str = "olla-operator CA";

/// What a TLS port needs, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct PemBundle {
    /// What data planes trust; more than one certificate while a CA is being replaced.
    pub ca: String,
    pub certificate: String,
    pub key: String,
}

impl fmt::Debug for PemBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PemBundle([redacted])")
    }
}

/// A CA with its key, in PEM.
#[derive(Clone)]
pub(super) struct Authority {
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) until: OffsetDateTime,
}

impl Authority {
    pub(super) fn new(now: OffsetDateTime) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let until = now + CA_LIFE;
        let mut params = params();
        params.not_before = now - BACKDATED;
        params.not_after = until;
        Ok(Self {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
            until,
        })
    }

    /// A certificate for `names`, and when it ends.
    pub(super) fn sign(
        &self,
        names: &[String],
        now: OffsetDateTime,
    ) -> Result<(PemBundle, OffsetDateTime), rcgen::Error> {
        // Only the name and the key of an issuer go into what it signs, so that the CA's
        // certificate need not be parsed.
        let issuer = Issuer::new(params(), KeyPair::from_pem(&self.key)?);
        let key = KeyPair::generate()?;
        let until = (now + LEAF_LIFE).min(self.until);
        let mut leaf = CertificateParams::new(names.to_vec())?;
        leaf.distinguished_name
            .push(DnType::CommonName, "olla-operator");
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages.push(KeyUsagePurpose::DigitalSignature);
        leaf.extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
        leaf.not_before = now - BACKDATED;
        leaf.not_after = until;
        let certificate = leaf.signed_by(&key, &issuer)?.pem();
        let material = PemBundle {
            ca: self.certificate.clone(),
            certificate,
            key: key.serialize_pem(),
        };
        Ok((material, until))
    }
}

/// Names in the leaf: of the Service in all its lengths, of the webhook's, of this machine, and those asked for.
pub(super) fn names(namespace: &str, more: &[String]) -> Vec<String> {
    let service = crate::MANAGER;
    let mut names = vec![
        service.to_owned(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
        format!("{}.{namespace}.svc", crate::WEBHOOK_SERVICE),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
    ];
    names.extend_from_slice(more);
    names
}

pub(super) fn failed(names: &[String]) -> impl Fn(rcgen::Error) -> Error {
    let names = names.to_vec();
    move |source| Error::Certificate {
        names: names.clone(),
        source,
    }
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    params.key_usages.push(KeyUsagePurpose::CrlSign);
    params
}
