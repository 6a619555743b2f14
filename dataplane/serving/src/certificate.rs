//! The certificate of a TLS port. In: PEM. Out: a rustls configuration whose certificate can be
//! replaced while it serves.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no certificate in PEM")]
    NoCertificate,
    #[error("no private key in PEM")]
    NoKey,
    /// They do not belong together, or are of a kind that is not supported.
    #[error("{0}")]
    Unusable(#[from] rustls::Error),
}

/// The certificate in use.
#[derive(Debug)]
pub struct Certificate {
    pair: ArcSwap<CertifiedKey>,
}

impl Certificate {
    pub fn new(pair: CertifiedKey) -> Arc<Self> {
        Arc::new(Self {
            pair: ArcSwap::from_pointee(pair),
        })
    }

    /// New connections get this one. Whether it is another.
    pub fn replace(&self, pair: CertifiedKey) -> bool {
        let changed = self.pair.load().cert != pair.cert;
        if changed {
            self.pair.store(Arc::new(pair));
        }
        changed
    }

    /// `alpn`: what is spoken on the port, the preferred first.
    pub fn server_config(self: &Arc<Self>, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pair.load_full())
    }
}

/// The certificate chain and its key, if the two belong together. Errors repeat nothing of either.
pub fn pair(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, Error> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| Error::NoCertificate)?;
    if chain.is_empty() {
        return Err(Error::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Error::NoKey)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Ok(CertifiedKey::from_der(chain, key, &provider)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_is_used_only_with_its_own_key() {
        let ((certificate, key), (_, other)) = (made(), made());
        let pair = |certificate: &str, key: &str| pair(certificate.as_bytes(), key.as_bytes());
        assert!(pair(&certificate, &key).is_ok());
        for (certificate, key, why) in [
            (&*certificate, &*other, "Unusable"),
            ("", &*key, "NoCertificate"),
            ("-----BEGIN CERTIFICATE-----\n?", &*key, "NoCertificate"),
            (&*certificate, "secret", "NoKey"),
        ] {
            let error = format!("{:?}", pair(certificate, key).unwrap_err());
            assert!(error.starts_with(why), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_same_certificate_again_is_no_change() {
        let (certificate, key) = made();
        let again = || pair(certificate.as_bytes(), key.as_bytes()).unwrap();
        let in_use = Certificate::new(again());
        assert!(!in_use.replace(again()));
        let (certificate, key) = made();
        assert!(in_use.replace(pair(certificate.as_bytes(), key.as_bytes()).unwrap()));
    }
}
