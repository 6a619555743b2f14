//! `started`: may what waits for the data plane of this machine start?

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::StartedArgs;
use crate::terminal::say;

const PATH: &str = "/internal/started";
/// The kubelet gives a probe about as long.
const LIMIT: Duration = Duration::from_secs(4);
/// Longest answer that is read, bytes.
const MAX_ANSWER: usize = 4096;

pub(super) fn started(args: &StartedArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let addr = args.listen.addr;
    let answer = runtime.block_on(async {
        let answer = timeout(LIMIT, ask(addr)).await;
        answer.unwrap_or_else(|_| Err(anyhow!("no answer within {} s", LIMIT.as_secs())))
    });
    let (status, text) = answer.with_context(|| format!("ask {addr} for {PATH}"))?;
    say(text.trim_end());
    Ok(match status {
        StatusCode::OK => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

async fn ask(addr: SocketAddr) -> Result<(StatusCode, String)> {
    let stream = TcpStream::connect(addr).await?;
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(PATH)
        .header(HOST, addr.to_string())
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let rsp = send.send_request(request).await?;
        let status = rsp.status();
        let body = Limited::new(rsp.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow!(error))?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::select! {
        answer = answer => answer,
        closed = connection => {
            closed?;
            Err(anyhow!("the connection was closed"))
        }
    }
}
