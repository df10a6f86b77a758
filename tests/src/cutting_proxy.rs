//! A proxy between Nix and a cache that cuts connections in the middle of a NAR.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::AbortHandle,
};

/// The proxy, until it is dropped.
pub struct CuttingProxy {
    address: SocketAddr,
    state: Arc<State>,
    server: AbortHandle,
}

struct State {
    target: SocketAddr,
    /// After how many bytes of an answer the connection that carries it is cut; one entry for each NAR that
    /// is asked for.
    cuts: Mutex<VecDeque<u64>>,
    requests: Mutex<Vec<String>>,
}

impl CuttingProxy {
    /// Forwards to `target`, and cuts the next answers to requests for NARs after so many bytes (their heads
    /// among them), one after another.
    pub async fn start(target: SocketAddr, cuts: impl IntoIterator<Item = u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            target,
            cuts: Mutex::new(cuts.into_iter().collect()),
            requests: Mutex::default(),
        });
        let shared = state.clone();
        let server = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, shared.clone()));
            }
        });
        Self { address, state, server: server.abort_handle() }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of the requests for NARs that came.
    pub fn nar_requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    /// How many cuts are still to be made.
    pub fn cuts_left(&self) -> usize {
        self.state.cuts.lock().unwrap().len()
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn forward(client: TcpStream, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(state.target).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // How many more bytes of answers go through.
    let (limit, limited) = watch::channel(u64::MAX);
    let up = tokio::spawn(requests(from_client, to_server, state, limit));
    answers(from_server, to_client, limited).await;
    up.abort();
}

/// Passes requests on, one head at a time (readers send no bodies), and looks what they ask for.
async fn requests(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    state: Arc<State>,
    limit: watch::Sender<u64>,
) {
    let (mut pending, mut piece) = (Vec::new(), [0; 8192]);
    while let Ok(read @ 1..) = client.read(&mut piece).await {
        pending.extend_from_slice(&piece[..read]);
        while let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = pending.drain(..end + 4).collect();
            let text = String::from_utf8_lossy(&head).into_owned();
            if text.lines().next().is_some_and(|line| line.contains("/nar/")) {
                state.requests.lock().unwrap().push(text);
                if let Some(cut) = state.cuts.lock().unwrap().pop_front() {
                    let _ = limit.send(cut);
                }
            }
            if server.write_all(&head).await.is_err() {
                return;
            }
        }
    }
}

/// Passes answers on until the limit.
async fn answers(mut server: OwnedReadHalf, mut client: OwnedWriteHalf, mut limit: watch::Receiver<u64>) {
    let (mut left, mut piece) = (u64::MAX, vec![0; 64 << 10]);
    while let Ok(read @ 1..) = server.read(&mut piece).await {
        if limit.has_changed().unwrap_or(false) {
            left = *limit.borrow_and_update();
        }
        let passed = usize::try_from(left).unwrap_or(usize::MAX).min(read);
        left -= passed as u64;
        if client.write_all(&piece[..passed]).await.is_err() || passed < read {
            return;
        }
    }
}
