//! Many data planes at the operator at the cost of a connection each: they take every table and
//! say so, and note when it came and how many bytes it took. For measurements of the operator;
//! what a data plane does with a table is not in it.

use std::net::ToSocketAddrs as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dataplane_protocol::frame::{Decoder, encode};
use dataplane_protocol::sync::{
    AUDIENCE, FORMATS, Hello, MAX_REPORT_LINE, MAX_TABLE_LINE, STREAM_PATH, ToDataPlane, ToOperator,
};
use e2e::{Tenant, names::operator_url, wait};
use http_body_util::{BodyExt as _, Channel};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// For a first table of some megabytes on a busy machine.
const LONG: Duration = Duration::from_mins(2);

#[derive(Debug)]
pub(crate) struct Readers {
    runtime: Runtime,
    token: String,
    config: Arc<rustls::ClientConfig>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// What one has taken so far.
#[derive(Clone, Copy, Debug)]
struct Seen {
    tables: u64,
    last: Instant,
    bytes: u64,
}

impl Readers {
    /// None yet, for the tenant's namespace.
    pub(crate) fn new(tenant: &Tenant) -> Result<Self> {
        let ca = tenant.operator_ca()?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let cluster = tenant.cluster();
        Ok(Self {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?,
            token: cluster.token(tenant.namespace(), "default", AUDIENCE)?,
            config: Arc::new(config),
            seen: Arc::default(),
        })
    }

    /// That many more, each with its first table; the bytes that this took each.
    pub(crate) fn join(&self, count: usize) -> Result<u64> {
        let before = self.seen().len();
        for number in before..before + count {
            self.seen().push(Seen {
                tables: 0,
                last: Instant::now(),
                bytes: 0,
            });
            let (token, config, seen) =
                (self.token.clone(), self.config.clone(), self.seen.clone());
            self.runtime.spawn(async move {
                if let Err(error) = read(number, &token, config, &seen).await {
                    eprintln!("reader {number}: {error:#}");
                }
            });
        }
        wait("the new readers have a table", LONG, || {
            let seen = self.seen();
            let all = seen.iter().skip(before).all(|reader| reader.tables > 0);
            Ok(all.then_some(()))
        })?;
        let bytes: u64 = self.seen().iter().skip(before).map(|it| it.bytes).sum();
        Ok(bytes / count as u64)
    }

    /// How long after the change's start the last of them had a further table.
    pub(crate) fn measure(&self, change: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let before: Vec<u64> = self.seen().iter().map(|reader| reader.tables).collect();
        let start = Instant::now();
        change()?;
        let end = start + LONG;
        loop {
            let seen = self.seen();
            let all = seen.iter().zip(&before);
            if all.clone().all(|(now, before)| now.tables > *before) {
                let last = seen.iter().map(|reader| reader.last).max();
                return Ok(last.unwrap_or(start).saturating_duration_since(start));
            }
            drop(seen);
            ensure!(Instant::now() < end, "a change did not come to all readers");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Bytes that all of them have taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.seen().iter().map(|reader| reader.bytes).sum()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        lock(&self.seen)
    }
}

/// Until the stream ends.
async fn read(
    number: usize,
    token: &str,
    config: Arc<rustls::ClientConfig>,
    seen: &Mutex<Vec<Seen>>,
) -> Result<()> {
    let url: http::Uri = operator_url().parse()?;
    let (host, port) = (
        url.host().unwrap_or_default(),
        url.port_u16().unwrap_or(443),
    );
    let address = (host, port)
        .to_socket_addrs()?
        .next()
        .context("an address")?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host.to_owned())?;
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (mut tx, body) = Channel::<Bytes>::new(4);
    let request = Request::post(format!("https://{host}{STREAM_PATH}"))
        .header("authorization", format!("Bearer {token}"))
        .body(body)?;
    let hello = ToOperator::Hello(Hello {
        formats: FORMATS.to_vec(),
        data_plane: format!("reader-{number}"),
        version: "0".into(),
        revision: None,
    });
    let answer = tokio::spawn(sender.send_request(request));
    tx.send_data(encode(&hello, MAX_REPORT_LINE)?).await?;
    let response = answer.await??;
    ensure!(response.status() == 200, "{}", response.status());
    let (mut body, mut lines) = (response.into_body(), Decoder::new(MAX_TABLE_LINE));
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        lines.push(data);
        let size = data.len() as u64;
        if let Some(reader) = lock(seen).get_mut(number) {
            reader.bytes += size;
        }
        while let Some(line) = lines.next::<ToDataPlane>()? {
            if let ToDataPlane::Commit { revision } = line {
                if let Some(reader) = lock(seen).get_mut(number) {
                    reader.tables += 1;
                    reader.last = Instant::now();
                }
                let ack = ToOperator::Ack { revision };
                tx.send_data(encode(&ack, MAX_REPORT_LINE)?).await?;
            }
        }
    }
    Ok(())
}

fn lock(seen: &Mutex<Vec<Seen>>) -> std::sync::MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
