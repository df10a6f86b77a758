//! The relay: a local substituter in front of a cache, which never fails.
//!
//! Nix fails a build when a substituter answers with an error, is gone, or stalls; and remembers an absent
//! path for an hour. The relay stands on loopback under a path that nobody can guess. What the cache cannot give
//! now, it says is absent: a narinfo is never an error, and a NAR is none before its first byte. (After it,
//! Nix resumes what was cut by asking for the rest.)

mod answer;
mod breaker;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};
use url::Url;

use crate::{random, service::Service};

/// Nix has 25 connections; several builds may run.
const MAX_CONNECTIONS: usize = 256;
/// No NAR is read faster than it is taken, so that these bound the memory.
const BUFFER: usize = 256 << 10;

/// How long the relay waits for the cache.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For a whole narinfo.
    pub narinfo: Duration,
    /// For the beginning of a NAR.
    pub nar: Duration,
    /// For its next bytes.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            narinfo: Duration::from_secs(6),
            nar: Duration::from_secs(15),
            stall: Duration::from_secs(30),
        }
    }
}

/// What lets a relay read a private cache: the job's session, which renews itself. The token stays in memory.
pub type Pass = Arc<Service<'static>>;

/// A relay that runs until it is dropped.
#[derive(Debug)]
pub struct Relay {
    url: Url,
    counts: Arc<Counts>,
    server: JoinHandle<()>,
}

/// What was read through a relay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayUse {
    /// NARs that were begun, ranges not counted.
    pub nars: u64,
    /// Bytes of NARs.
    pub bytes: u64,
    /// Questions that the cache could not answer.
    pub failures: u64,
}

#[derive(Debug, Default)]
struct Counts {
    nars: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
}

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// No port, or no random numbers.
    #[error("cannot listen on loopback: {0}")]
    Listen(#[from] io::Error),
    /// No HTTP client.
    #[error("cannot make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// It would have no URL.
    #[error("cannot make the relay's URL: {0}")]
    Url(#[from] url::ParseError),
}

impl Relay {
    /// Starts a relay in front of the cache at `upstream`, on a port of its own. Where the cache is private, `pass` lets
    /// it read there: whoever can name the relay's URL reads what the pass permits, and never sees the token.
    ///
    /// # Errors
    /// When the machine has no port or no random numbers left.
    pub async fn start(upstream: Url, pass: Option<Pass>, patience: Patience) -> Result<Self, RelayError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let secret = random::hex(16)?;
        let url = format!("http://{address}/{secret}").parse()?;
        let counts = Arc::new(Counts::default());
        let client = reqwest::Client::builder()
            .connect_timeout(patience.connect)
            // Where a token is sent, the service's URL alone decides.
            .redirect(match pass {
                Some(_) => reqwest::redirect::Policy::none(),
                None => reqwest::redirect::Policy::limited(3),
            })
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("larder-relay/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let cache = answer::Cache { client, upstream, pass };
        let answerer = Arc::new(answer::Answerer::new(cache, patience, address, secret, counts.clone()));
        let server = tokio::spawn(serve(listener, answerer));
        Ok(Self { url, counts, server })
    }

    /// The URL for `substituters`. Its path is a secret of the job.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What was read so far.
    pub fn usage(&self) -> RelayUse {
        RelayUse {
            nars: self.counts.nars.load(Ordering::Relaxed),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            failures: self.counts.failures.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, answerer: Arc<answer::Answerer>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let answerer = answerer.clone();
                tokio::spawn(async move {
                    connection(stream, peer, answerer).await;
                    drop(permit);
                });
            }
            // Out of file descriptors, or a connection that went as it came.
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, answerer: Arc<answer::Answerer>) {
    if !peer.ip().is_loopback() {
        return;
    }
    let service = hyper::service::service_fn(move |request| {
        let answerer = answerer.clone();
        async move { Ok::<_, Infallible>(answerer.answer(&request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(300))
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    // A reader that goes away, or a NAR that was cut: Nix sees it, and asks again.
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection ended early");
    }
}
