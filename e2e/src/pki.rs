//! Keys and certificates of the test cluster. In: a folder. Out: PEM files in it, named below.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// The files, all below one folder.
#[derive(Debug)]
pub(crate) struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// One CA signs the server, the admin and what the cluster's own signers are asked for.
    pub(crate) fn create(folder: &Path, server_addresses: &[Ipv4Addr]) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let pki = Self {
            folder: folder.to_owned(),
        };

        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params
            .distinguished_name
            .push(DnType::CommonName, "olla-e2e-ca");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)
            .context("sign the test cluster's CA")?;
        pki.write("ca.crt", &ca.pem())?;
        pki.write("ca.key", &ca.key().serialize_pem())?;

        let names = ["localhost", "kubernetes", "kubernetes.default.svc"];
        let mut params = CertificateParams::new(names.map(String::from))?;
        params.subject_alt_names.extend(
            server_addresses
                .iter()
                .map(|address| SanType::IpAddress(IpAddr::V4(*address))),
        );
        pki.sign(
            "apiserver",
            params,
            ExtendedKeyUsagePurpose::ServerAuth,
            &ca,
        )?;

        let mut params = CertificateParams::default();
        // The group that every API server lets do anything.
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:masters");
        params
            .distinguished_name
            .push(DnType::CommonName, "olla-e2e-admin");
        pki.sign("admin", params, ExtendedKeyUsagePurpose::ClientAuth, &ca)?;

        // ServiceAccount tokens are signed with a bare key.
        let key = KeyPair::generate().context("make the ServiceAccount key")?;
        pki.write("service-account.key", &key.serialize_pem())?;
        pki.write("service-account.pub", &key.public_key_pem())?;
        Ok(pki)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes `<name>.crt` and `<name>.key`.
    fn sign(
        &self,
        name: &str,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        ca: &CertifiedIssuer<'_, KeyPair>,
    ) -> Result<()> {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().with_context(|| format!("make the key of {name}"))?;
        let certificate = params
            .signed_by(&key, ca)
            .with_context(|| format!("sign the certificate of {name}"))?;
        self.write(&format!("{name}.crt"), &certificate.pem())?;
        self.write(&format!("{name}.key"), &key.serialize_pem())
    }

    fn write(&self, name: &str, pem: &str) -> Result<()> {
        let path = self.path(name);
        std::fs::write(&path, pem).with_context(|| format!("write {}", path.display()))
    }
}
