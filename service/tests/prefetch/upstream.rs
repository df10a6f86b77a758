//! A binary cache that does what it is told to.

use std::{
    collections::HashMap,
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{Response, StatusCode, header},
    routing::get,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use larder_protocol::{SigningKey, api::Upstream, narinfo::NarInfo};
use larder_service::config::cache::CheckedUpstream;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};

use crate::nar::TestNar;

/// How a file is answered.
#[derive(Clone)]
pub enum Reply {
    Whole(Vec<u8>),
    Refused(u16),
    /// Half of it, then the connection ends.
    Cut(Vec<u8>),
    /// Half of it, then nothing more.
    Stalled(Vec<u8>),
    /// Once a permit is added.
    Gated(Arc<Semaphore>, Vec<u8>),
    /// A byte for each permit.
    Dripped(Arc<Semaphore>, Vec<u8>),
    /// Whole, to whoever comes there.
    Redirected(String),
}

#[derive(Default)]
struct Files {
    replies: Mutex<HashMap<String, Reply>>,
    asked: Mutex<Vec<String>>,
    /// NARs that are asked for and not answered yet, and the most that ever were.
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

pub struct UpstreamCache {
    pub key: SigningKey,
    pub url: String,
    files: Arc<Files>,
    served: JoinHandle<()>,
}

impl UpstreamCache {
    pub async fn start() -> Self {
        let files = Arc::new(Files::default());
        let router = Router::new().route("/{*file}", get(answer)).with_state(files.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { key: SigningKey::generate("upstream-1").unwrap(), url, files, served }
    }

    /// As a configuration has it.
    pub fn configured(&self) -> CheckedUpstream {
        let upstream = Upstream { url: self.url.clone(), public_keys: vec![self.key.public_key()] };
        CheckedUpstream::new(upstream)
    }

    pub fn says(&self, file: &str, reply: Reply) {
        self.files.replies.lock().unwrap().insert(file.to_owned(), reply);
    }

    /// Has a path, compressed in some way.
    pub fn has(&self, nar: &TestNar, compression: &str) {
        let bytes = compress(compression, &nar.bytes);
        let narinfo = self.narinfo(nar, compression, &bytes, &self.key);
        self.says(&format!("{}.narinfo", nar.info.path.hash()), Reply::Whole(narinfo.to_string().into()));
        self.says(&nar_file(nar), Reply::Whole(bytes));
    }

    pub fn narinfo(&self, nar: &TestNar, compression: &str, bytes: &[u8], key: &SigningKey) -> NarInfo {
        let mut narinfo = NarInfo {
            path: nar.info.path.clone(),
            url: nar_file(nar),
            compression: Some(compression.to_owned()),
            file_hash: None,
            file_size: Some(bytes.len() as u64),
            nar_hash: nar.info.nar_hash,
            nar_size: nar.info.nar_size,
            references: nar.info.references.clone(),
            deriver: None,
            signatures: Vec::new(),
            ca: nar.info.ca.clone(),
        };
        narinfo.signatures.push(key.sign(&narinfo.fingerprint()));
        narinfo
    }

    /// How its NAR is answered from now on, whatever its narinfo says.
    pub fn nar(&self, nar: &TestNar, reply: impl FnOnce(Vec<u8>) -> Reply) {
        let file = nar_file(nar);
        let bytes = match self.files.replies.lock().unwrap().get(&file) {
            Some(Reply::Whole(bytes)) => bytes.clone(),
            _ => panic!("it has no such NAR"),
        };
        self.says(&file, reply(bytes));
    }

    /// What it was asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.files.asked.lock().unwrap())
    }

    /// The most NARs that were asked for at once.
    pub fn most_under_way(&self) -> usize {
        self.files.most_under_way.load(Ordering::SeqCst)
    }

    pub fn stop(&self) {
        self.served.abort();
    }
}

impl Drop for UpstreamCache {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn nar_file(nar: &TestNar) -> String {
    format!("nar/{}.nar", nar.info.nar_hash.base32())
}

async fn answer(State(files): State<Arc<Files>>, Path(file): Path<String>) -> Response<Body> {
    files.asked.lock().unwrap().push(file.clone());
    let reply = files.replies.lock().unwrap().get(&file).cloned();
    let half = |bytes: &[u8]| Ok::<_, std::io::Error>(Bytes::copy_from_slice(&bytes[..bytes.len() / 2]));
    let response = Response::builder();
    match reply {
        None => response.status(StatusCode::NOT_FOUND).body(Body::empty()),
        Some(Reply::Whole(bytes)) => response.body(Body::from(bytes)),
        Some(Reply::Refused(status)) => response.status(status).body(Body::empty()),
        Some(Reply::Cut(bytes)) => {
            let end = stream::iter([half(&bytes), Err(std::io::Error::other("cut"))]);
            response.header(header::CONTENT_LENGTH, bytes.len()).body(Body::from_stream(end))
        }
        Some(Reply::Stalled(bytes)) => {
            let stalled = stream::iter([half(&bytes)]).chain(stream::pending());
            response.header(header::CONTENT_LENGTH, bytes.len()).body(Body::from_stream(stalled))
        }
        Some(Reply::Gated(gate, bytes)) => {
            let is_nar = file.starts_with("nar/");
            if is_nar {
                let under_way = files.under_way.fetch_add(1, Ordering::SeqCst) + 1;
                files.most_under_way.fetch_max(under_way, Ordering::SeqCst);
            }
            gate.acquire().await.unwrap().forget();
            if is_nar {
                files.under_way.fetch_sub(1, Ordering::SeqCst);
            }
            response.body(Body::from(bytes))
        }
        Some(Reply::Dripped(gate, bytes)) => {
            let length = bytes.len();
            let drops = stream::iter(bytes).then(move |byte| {
                let gate = gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok::<_, std::io::Error>(Bytes::from(vec![byte]))
                }
            });
            response.header(header::CONTENT_LENGTH, length).body(Body::from_stream(drops))
        }
        Some(Reply::Redirected(to)) => {
            response.status(StatusCode::FOUND).header(header::LOCATION, to).body(Body::empty())
        }
    }
    .unwrap()
}

pub fn compress(compression: &str, bytes: &[u8]) -> Vec<u8> {
    match compression {
        "none" => bytes.to_vec(),
        "xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "bzip2" => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(bytes, 3).unwrap(),
        other => panic!("{other}"),
    }
}
