//! Opening a connection to an instance (name, TCP, TLS), and what its requests are addressed
//! with. Used by requests and probes alike, so that what a probe says holds for a request.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use dataplane_protocol::table::{Credential, Instance, Scheme};
use http::{HeaderName, HeaderValue};
use rustls::{ClientConfig, ConfigBuilder, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    backend::resolve::{self, Resolver},
    io::Io,
    socket,
};

/// A host that is gone without a word is noticed after this, whoever waits for it.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// Connects to an instance. The caller limits the time.
pub(crate) async fn open(instance: &Instance) -> io::Result<Io> {
    let stream = tcp(&resolve::BACKENDS, &instance.host, instance.port).await?;
    stream.set_nodelay(true)?;
    socket::watch(&stream, GONE_AFTER);
    match instance.scheme {
        Scheme::Http => Ok(Io::Plain(stream)),
        Scheme::Https => {
            let name = ServerName::try_from(instance.host.clone())
                .map_err(|_| io::Error::other("the host is no name a certificate could have"))?;
            let config = tls_config()?;
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok(Io::Tls(Box::new(stream.into())))
        }
    }
}

/// A connection to the first address of `host` that answers. The caller limits the time.
pub(crate) async fn tcp(resolver: &Resolver, host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = resolver.resolve(host, port).await?;
    resolve::race(&addresses, TcpStream::connect).await
}

/// `Host` of requests to an instance.
pub(crate) fn authority(instance: &Instance) -> String {
    let host = instance.host_in_url();
    match (instance.scheme, instance.port) {
        (Scheme::Http, 80) | (Scheme::Https, 443) => host.into_owned(),
        (_, port) => format!("{host}:{port}"),
    }
}

/// The header that lets an endpoint's requests in, if it has one.
pub(crate) fn credential(credential: &Credential) -> Option<(HeaderName, HeaderValue)> {
    let Credential::Header { name, value } = credential else {
        return None;
    };
    let mut value = HeaderValue::from_str(value.expose()).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::try_from(name.as_str()).ok()?, value))
}

/// The system's roots; read once, when the first https endpoint is used. Session resumption
/// lives in it.
fn tls_config() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .and_then(ConfigBuilder::with_platform_verifier)
                .map_err(|error| format!("read the system's root certificates: {error}"))?;
            Ok(Arc::new(config.with_no_client_auth()))
        })
        .clone()
        .map_err(io::Error::other)
}
