//! From a configuration to an open stream: token, TLS, HTTP/2.

use std::{fs, io, path::Path, sync::Arc};

use bytes::Bytes;
use dataplane_protocol::sync::STREAM_PATH;
use http::{Request, header};
use http_body_util::{Channel, channel::Sender};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Client, Error, KEEP_ALIVE, STEP_TIMEOUT};
use crate::backend::{connect, resolve};

/// Of the stream's head.
type Answer = Result<http::Response<hyper::body::Incoming>, hyper::Error>;

impl Client {
    /// Connects and opens the stream. The response comes after the first line is sent.
    pub(super) async fn open(
        &self,
    ) -> Result<(Sender<Bytes>, impl Future<Output = Answer> + use<>, Guard), Error> {
        let url = self.config.url.clone();
        let failed = |cause| Error::Connect {
            url: url.clone(),
            cause,
        };
        let token = read(&self.config.token_file, "the token")?;
        let tls = TlsConnector::from(Arc::new(self.tls()?));
        let name =
            ServerName::try_from(self.host.clone()).map_err(|_| Error::Url { url: url.clone() })?;
        let connecting = async {
            let stream = connect::tcp(&resolve::OPERATOR, &self.host, self.port).await?;
            stream.set_nodelay(true)?;
            tls.connect(name, stream).await
        };
        let stream = timeout(STEP_TIMEOUT, connecting)
            .await
            .map_err(|_| Error::Timeout)?
            .map_err(failed)?;
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(KEEP_ALIVE))
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream));
        let (mut sender, connection) = timeout(STEP_TIMEOUT, handshake)
            .await
            .map_err(|_| Error::Timeout)??;
        let guard = Guard(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the operator ended");
            }
        }));
        let (send, body) = Channel::<Bytes, std::convert::Infallible>::new(64);
        let token = String::from_utf8_lossy(&token).trim().to_owned();
        let mut bearer =
            header::HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| Error::File {
                what: "the token",
                path: self.config.token_file.clone(),
                cause: io::Error::other("it is no header value"),
            })?;
        bearer.set_sensitive(true);
        let uri = format!(
            "https://{}{STREAM_PATH}",
            url.authority().map_or("", |a| a.as_str())
        );
        let mut req = Request::new(body);
        *req.method_mut() = http::Method::POST;
        *req.uri_mut() = uri.parse().map_err(|_| Error::Url { url: url.clone() })?;
        req.headers_mut().insert(header::AUTHORIZATION, bearer);
        Ok((send, sender.send_request(req), guard))
    }

    fn tls(&self) -> Result<ClientConfig, Error> {
        let path = &self.config.ca_file;
        let pem = read(path, "the operator's CA")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem).flatten() {
            // One that cannot be used is as good as none: the count below tells.
            let _ = roots.add(certificate);
        }
        if roots.is_empty() {
            return Err(Error::NoCertificate { path: path.clone() });
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Connect {
                url: self.config.url.clone(),
                cause: io::Error::other(error),
            })?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// Ends the connection's task with the stream.
pub(super) struct Guard(tokio::task::JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|cause| Error::File {
        what,
        path: path.to_owned(),
        cause,
    })
}
