//! TLS towards clients. In: a certificate and its key in two PEM files. Out: a configuration
//! whose certificate follows the files while it serves, as whoever renews it expects.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use rustls::sign::CertifiedKey;
use serving::certificate;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::TlsFiles;

/// Between two looks at the files. A certificate is renewed days before it ends.
const LOOK_EVERY: Duration = Duration::from_secs(30);

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

impl Error {
    fn of(files: &TlsFiles, error: certificate::Error) -> Self {
        match error {
            certificate::Error::NoCertificate => Self::NoCertificate {
                path: files.certificate.clone(),
            },
            certificate::Error::NoKey => Self::NoKey {
                path: files.key.clone(),
            },
            certificate::Error::Unusable(cause) => Self::Unusable {
                files: files.clone(),
                cause,
            },
        }
    }
}

/// The certificate in use.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: TlsFiles,
    in_use: Arc<certificate::Certificate>,
}

impl Certificate {
    pub(crate) fn read(files: TlsFiles) -> Result<Arc<Self>, Error> {
        let in_use = certificate::Certificate::new(read(&files)?);
        Ok(Arc::new(Self { files, in_use }))
    }

    /// Speaks HTTP/2 with those who can, else HTTP/1.1.
    pub(crate) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, Error> {
        let config = self.in_use.server_config(&[b"h2", b"http/1.1"]);
        let config = config.map_err(|error| Error::of(&self.files, error))?;
        Ok(config.into())
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
                    if self.in_use.replace(pair) {
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

/// The pair, if the two belong together.
fn read(files: &TlsFiles) -> Result<CertifiedKey, Error> {
    let bytes = |path: &PathBuf| {
        fs::read(path).map_err(|cause| Error::Read {
            path: path.clone(),
            cause,
        })
    };
    let (chain, key) = (bytes(&files.certificate)?, bytes(&files.key)?);
    certificate::pair(&chain, &key).map_err(|error| Error::of(files, error))
}
