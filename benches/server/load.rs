//! A closed loop of requests: so many connections, so many requests in flight on each, the next one as soon as one is answered.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

const CHECK: &str = "http://bench/envoy.service.auth.v3.Authorization/Check";
/// How a framed `CheckResponse` with an OK goes on after its length: an empty `status`.
const OK: [u8; 2] = [0x0a, 0x00];

/// Where a server listens.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(String),
}

/// How much is in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) streams: usize,
}

/// What a load did.
pub(crate) struct Served {
    /// How long each request took, in no particular order.
    pub(crate) latencies: Vec<Duration>,
    /// How many answers were no OK.
    pub(crate) refused: usize,
    pub(crate) took: Duration,
}

type Connection = SendRequest<Full<Bytes>>;

/// Sends requests in turn, from wherever the last load stopped.
pub(crate) struct Requests {
    pool: Vec<Bytes>,
    next: AtomicUsize,
}

impl Requests {
    pub(crate) fn new(pool: Vec<Bytes>) -> Arc<Self> {
        Arc::new(Self { pool, next: AtomicUsize::new(0) })
    }

    fn next(&self) -> Bytes {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.pool.len();
        self.pool[at].clone()
    }
}

impl Load {
    /// Opens the connections.
    pub(crate) async fn connect(self, address: &Address) -> Result<Vec<Connection>> {
        let mut connections = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            connections.push(connect(address).await?);
        }
        Ok(connections)
    }

    /// Keeps the server busy for this long.
    pub(crate) async fn run(
        self,
        connections: &[Connection],
        requests: &Arc<Requests>,
        time: Duration,
    ) -> Result<Served> {
        let began = Instant::now();
        let until = began + time;
        let mut streams = JoinSet::new();
        for connection in connections {
            for _ in 0..self.streams {
                streams.spawn(stream(connection.clone(), Arc::clone(requests), until));
            }
        }
        let mut served = Served { latencies: Vec::new(), refused: 0, took: Duration::ZERO };
        while let Some(ended) = streams.join_next().await {
            let (latencies, refused) = ended??;
            served.latencies.extend(latencies);
            served.refused += refused;
        }
        Ok(Served { took: began.elapsed(), ..served })
    }
}

async fn connect(address: &Address) -> Result<Connection> {
    match address {
        Address::Unix(path) => handshake(UnixStream::connect(path).await?).await,
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            handshake(stream).await
        }
    }
}

async fn handshake<IO>(io: IO) -> Result<Connection>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn stream(
    mut connection: Connection,
    requests: Arc<Requests>,
    until: Instant,
) -> Result<(Vec<Duration>, usize)> {
    let (mut latencies, mut refused) = (Vec::new(), 0);
    let mut now = Instant::now();
    while now < until {
        refused += usize::from(!check(&mut connection, requests.next()).await?);
        let answered = Instant::now();
        latencies.push(answered - now);
        now = answered;
    }
    Ok((latencies, refused))
}

/// Whether the answer was an OK.
async fn check(connection: &mut Connection, message: Bytes) -> Result<bool> {
    let request = Request::post(CHECK)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(message))?;
    let answer = connection.send_request(request).await?.into_body().collect().await?;
    let body = answer.to_bytes();
    let message = body.get(5..).context("an answer without a message")?;
    Ok(message.starts_with(&OK))
}
