//! Cutting a NAR that comes from elsewhere into chunks: on the threads on which pushes are worked, so that no more memory
//! and no more cores are busy with it than there are of these.

use std::{
    io::{self, BufRead, ErrorKind, Read},
    mem,
    sync::mpsc as pieces,
};

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use larder_protocol::{
    StorePath, StorePathHash,
    api::PathInfo,
    chunk::{CutChunk, Cutter},
};
use tokio::sync::mpsc;

use super::{
    decompress::{Compression, Window, wants_larger_window},
    source::Coming,
};
use crate::{
    error::ApiError,
    push::{Cut, Workshop},
};

/// So many bytes of chunks are handed over at once.
const BATCH: usize = 1 << 20;
/// How many such batches wait.
pub(super) const QUEUED: usize = 1;
/// What is read at once.
const PIECE: usize = 128 << 10;

/// What a NAR takes in memory at most while it is cut and its chunks wait: what the cutter gathers, and the batches that
/// are gathered, that wait, and that frames are made of, with these.
const CUT: u64 = 8 << 20;
/// What a connection holds of what has come: as much as hyper reads at once, and what is read of it.
const COMING: u64 = 512 << 10;

/// What a NAR of so many bytes takes in memory, besides its decoder.
pub(super) fn memory(nar_size: u64) -> u64 {
    COMING + nar_size.saturating_mul(4).min(CUT)
}

/// A NAR that comes, and how it is compressed.
pub(super) struct Nar {
    pub coming: Coming,
    pub compression: Compression,
    pub window: Window,
}

/// Why a NAR could not be cut to its end.
#[derive(Debug, thiserror::Error)]
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
    /// The service's own fault.
    #[error("{}", .0.message())]
    Service(ApiError),
}

/// Cuts a NAR, and hands its chunks over as they come.
pub(super) async fn cut(
    workshop: &Workshop,
    info: &PathInfo,
    nar: Nar,
    chunks: mpsc::Sender<Cut>,
) -> Result<(), CutError> {
    let Nar { mut coming, compression, window } = nar;
    let (sender, pieces) = pieces::channel();
    let mut inlet = Some(sender);
    // How it begins tells how it is to be read.
    more(&mut coming, &mut inlet).await?;
    let compressed = Inlet { pieces, now: Bytes::new() };
    let decoder = compression.decoder(compressed, window).map_err(|error| unreadable(&error))?;
    let hashes = info.references.iter().chain([&info.path]).map(StorePath::hash);
    let mut cutting = Cutting::new(decoder, info.nar_size, hashes);
    loop {
        let step = workshop.work(move |_| {
            let step = cutting.go_on();
            (cutting, step)
        });
        let (back, step) = step.await.map_err(CutError::Service)?;
        cutting = back;
        let step = step?;
        if step == Step::Hungry {
            more(&mut coming, &mut inlet).await?;
            continue;
        }
        let batch = cutting.take_batch();
        chunks.send(Cut::Chunks(batch)).await.map_err(|_| CutError::Unwanted)?;
        if step == Step::End {
            return chunks.send(Cut::End).await.map_err(|_| CutError::Unwanted);
        }
    }
}

/// Waits for more of what comes, and puts it into the inlet.
async fn more(coming: &mut Coming, inlet: &mut Option<pieces::Sender<Bytes>>) -> Result<(), CutError> {
    loop {
        match coming.next().await {
            Some(Ok(piece)) if piece.is_empty() => {}
            Some(Ok(piece)) => {
                // Whoever reads it is gone only when nothing is read any more.
                let _ = inlet.as_ref().map(|inlet| inlet.send(piece));
                return Ok(());
            }
            Some(Err(error)) => return Err(unreadable(&error)),
            None => {
                *inlet = None;
                return Ok(());
            }
        }
    }
}

/// What has come and is not decompressed yet. Where more has yet to come, it says `WouldBlock`.
struct Inlet {
    pieces: pieces::Receiver<Bytes>,
    now: Bytes,
}

impl BufRead for Inlet {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.now.is_empty() {
            match self.pieces.try_recv() {
                Ok(piece) => self.now = piece,
                Err(pieces::TryRecvError::Empty) => return Err(ErrorKind::WouldBlock.into()),
                Err(pieces::TryRecvError::Disconnected) => {}
            }
        }
        Ok(&self.now)
    }

    fn consume(&mut self, bytes: usize) {
        self.now.advance(bytes);
    }
}

impl Read for Inlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// What a step ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There are chunks enough to be handed over.
    Full,
    /// More must come first.
    Hungry,
    /// These are the last chunks.
    End,
}

/// A NAR that is being cut.
struct Cutting {
    nar: Box<dyn Read + Send>,
    cutter: Option<Cutter>,
    piece: Vec<u8>,
    left: u64,
    batch: Batch,
}

#[derive(Default)]
struct Batch {
    chunks: Vec<CutChunk>,
    bytes: usize,
}

impl Cutting {
    fn new(nar: Box<dyn Read + Send>, size: u64, hashes: impl Iterator<Item = StorePathHash>) -> Self {
        let cutter = Some(Cutter::new(hashes));
        Self { nar, cutter, piece: vec![0; PIECE], left: size, batch: Batch::default() }
    }

    /// Cuts as much as is there, or until a batch is full.
    fn go_on(&mut self) -> Result<Step, CutError> {
        let batch = &mut self.batch;
        while batch.bytes < BATCH {
            let Some(cutter) = &mut self.cutter else { return Ok(Step::End) };
            match self.nar.read(&mut self.piece) {
                Ok(0) if self.left > 0 => return Err(CutError::Size("fewer")),
                Ok(0) => {
                    let cutter = self.cutter.take();
                    cutter.map_or(Ok(()), |cutter| cutter.finish(|chunk| batch.add(chunk)))?;
                    return Ok(Step::End);
                }
                Ok(read) => {
                    self.left = self.left.checked_sub(read as u64).ok_or(CutError::Size("more"))?;
                    cutter.feed(self.piece.get(..read).unwrap_or_default(), |chunk| batch.add(chunk))?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Hungry),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&error)),
            }
        }
        Ok(Step::Full)
    }

    fn take_batch(&mut self) -> Vec<CutChunk> {
        mem::take(&mut self.batch).chunks
    }
}

impl Batch {
    fn add(&mut self, chunk: CutChunk) -> Result<(), CutError> {
        self.bytes += chunk.content.len();
        self.chunks.push(chunk);
        Ok(())
    }
}

fn unreadable(error: &io::Error) -> CutError {
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
