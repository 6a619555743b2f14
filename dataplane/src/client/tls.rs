//! TLS towards clients. In: a certificate and its key in two PEM files. Out: a configuration
//! whose certificate follows the files while it serves, as whoever renews it expects.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::TlsFiles;

/// Between two looks at the files. A certificate is renewed days before it ends.
const LOOK_EVERY: Duration = Duration::from_secs(30);

fn unusable(files: &TlsFiles, cause: rustls::Error) -> Error {
    let files = files.clone();
    Error::Unusable { files, cause }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {}: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{}: holds no certificate in PEM", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{}: holds no private key in PEM", path.display())]
    NoKey { path: PathBuf },
    #[error("{} and {}: {cause}", files.certificate.display(), files.key.display())]
    Unusable {
        files: TlsFiles,
        cause: rustls::Error,
    },
}

/// The certificate in use.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: TlsFiles,
    pair: ArcSwap<CertifiedKey>,
}

impl Certificate {
    pub(crate) fn read(files: TlsFiles) -> Result<Arc<Self>, Error> {
        let pair = ArcSwap::from_pointee(read(&files)?);
        Ok(Arc::new(Self { files, pair }))
    }

    /// Speaks HTTP/2 with those who can, else HTTP/1.1.
    pub(crate) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| unusable(&self.files, cause))?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config).into())
    }

    /// Follows the files until the process drains, and at once when told to look; while they are of no use, the certificate in
    /// use stays. New connections get the new one.
    pub(crate) async fn follow(self: Arc<Self>, look: Arc<Notify>, drain: CancellationToken) {
        let mut told = String::new();
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = look.notified() => {}
            }
            let problem = match read(&self.files) {
                Ok(pair) => {
                    if self.pair.load().cert != pair.cert {
                        self.pair.store(Arc::new(pair));
                        tracing::info!("certificate renewed");
                    }
                    String::new()
                }
                Err(error) => error.to_string(),
            };
            if !problem.is_empty() && problem != told {
                tracing::warn!(
                    problem,
                    "certificate not reloaded: the previous one stays in use"
                );
            }
            told = problem;
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pair.load_full())
    }
}

/// The pair, if the two belong together.
fn read(files: &TlsFiles) -> Result<CertifiedKey, Error> {
    let bytes = |path: &PathBuf| {
        fs::read(path).map_err(|cause| Error::Read {
            path: path.clone(),
            cause,
        })
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&bytes(&files.certificate)?)
            .filter_map(Result::ok)
            .collect();
    if chain.is_empty() {
        let path = files.certificate.clone();
        return Err(Error::NoCertificate { path });
    }
    // What is wrong with it is not repeated: it could hold some of it.
    let key = PrivateKeyDer::from_pem_slice(&bytes(&files.key)?).map_err(|_| Error::NoKey {
        path: files.key.clone(),
    })?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|cause| unusable(files, cause))
}
