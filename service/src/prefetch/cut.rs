//! Cutting a NAR that comes from elsewhere into chunks, on a thread of its own.

use std::{io::Read, thread};

use larder_protocol::{
    StorePathHash,
    api::PathInfo,
    chunk::{CutChunk, Cutter},
};
use tokio::sync::{mpsc, oneshot};

use super::decompress::wants_larger_window;
use crate::push::Cut;

/// So many bytes of chunks are handed over at once.
const BATCH: usize = 1 << 20;
/// How many such batches wait.
const QUEUED: usize = 1;
/// What is read at once.
const PIECE: usize = 128 << 10;
/// How far the thread steps back behind those that answer readers.
const NICE: i32 = 10;

/// What a NAR takes in memory while it is cut and its chunks wait: what the cutter gathers, and the batches.
pub(super) const MEMORY: u64 = 6 << 20;

/// Why a NAR could not be cut to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CutError {
    /// It refers further back than was allowed.
    #[error("it is compressed with too large a window")]
    Window,
    /// It has another length than was said.
    #[error("it has {0} bytes than its narinfo says")]
    Size(&'static str),
    /// It cannot be read, or not be decompressed.
    #[error("{0}")]
    Unreadable(String),
    /// Nobody wants it any more.
    #[error("nobody wants it any more")]
    Unwanted,
}

/// The chunks, and how it ended.
pub(super) type Cutting = (mpsc::Receiver<Cut>, oneshot::Receiver<Result<(), CutError>>);

/// Begins to cut a NAR: `open` is called on the thread, and may block.
pub(super) fn cut<R: Read>(
    info: &PathInfo,
    open: impl FnOnce() -> std::io::Result<R> + Send + 'static,
) -> std::io::Result<Cutting> {
    let (chunks, cut) = mpsc::channel(QUEUED);
    let (end, ended) = oneshot::channel();
    let size = info.nar_size;
    let hashes: Vec<StorePathHash> =
        info.references.iter().chain([&info.path]).map(larder_protocol::StorePath::hash).collect();
    thread::Builder::new().name("prefetch".to_owned()).spawn(move || {
        // Of this thread alone, as Linux has it. Where it may not be, readers wait a little longer.
        let _ = rustix::process::setpriority_process(None, NICE);
        let result = match open() {
            Ok(nar) => run(nar, size, hashes, &chunks),
            Err(error) => Err(unreadable(&error)),
        };
        // The end is known before the chunks are seen to have ended. Whoever waited may be gone.
        let _ = end.send(result);
        drop(chunks);
    })?;
    Ok((cut, ended))
}

fn run(
    mut nar: impl Read,
    size: u64,
    hashes: Vec<StorePathHash>,
    chunks: &mpsc::Sender<Cut>,
) -> Result<(), CutError> {
    let mut cutter = Cutter::new(hashes);
    let mut gathered = Gathered { chunks, batch: Vec::new(), bytes: 0 };
    let mut piece = vec![0; PIECE];
    let mut left = size;
    loop {
        let read = match nar.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(&error)),
        };
        left = left.checked_sub(read as u64).ok_or(CutError::Size("more"))?;
        cutter.feed(piece.get(..read).unwrap_or_default(), |chunk| gathered.add(chunk))?;
    }
    if left > 0 {
        return Err(CutError::Size("fewer"));
    }
    cutter.finish(|chunk| gathered.add(chunk))?;
    gathered.send()?;
    chunks.blocking_send(Cut::End).map_err(|_| CutError::Unwanted)
}

fn unreadable(error: &std::io::Error) -> CutError {
    if wants_larger_window(error) {
        return CutError::Window;
    }
    // What failed below says more than "error decoding response body".
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    CutError::Unreadable(text)
}

struct Gathered<'a> {
    chunks: &'a mpsc::Sender<Cut>,
    batch: Vec<CutChunk>,
    bytes: usize,
}

impl Gathered<'_> {
    fn add(&mut self, chunk: CutChunk) -> Result<(), CutError> {
        self.bytes += chunk.content.len();
        self.batch.push(chunk);
        if self.bytes >= BATCH { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), CutError> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.chunks.blocking_send(Cut::Chunks(batch)).map_err(|_| CutError::Unwanted)
    }
}
