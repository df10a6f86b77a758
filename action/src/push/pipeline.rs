//! The threads that do the work: some read the store and cut it into chunks, others make frames. What they
//! make goes to the task that talks to the service.

use std::{
    io,
    num::NonZero,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use bytes::Bytes;
use larder_protocol::{
    ChunkId, StorePathHash,
    chunk::{CutChunk, Cutter, FrameEncoder},
    nar,
    upload::FrameEntry,
};
use tokio::{sync::mpsc::UnboundedSender, task::JoinSet};

use super::window::{Held, Window};

/// A NAR to read, by its number in the push.
pub(super) struct Reading {
    pub nar: usize,
    pub files: PathBuf,
    pub references: Vec<StorePathHash>,
}

/// A chunk to make a frame of.
pub(super) struct Encoding {
    pub nar: usize,
    /// Which of the NAR's chunks it is.
    pub number: usize,
    pub chunk: CutChunk,
    pub held: Held,
}

/// What the threads made.
pub(super) enum Made {
    /// The next chunk of a NAR.
    Chunk { nar: usize, chunk: CutChunk, held: Held },
    /// A NAR is read to its end, or cannot be.
    Read { nar: usize, result: Result<u64, String> },
    /// A frame.
    Frame { nar: usize, number: usize, entry: FrameEntry, frame: Bytes, held: Held },
    /// A frame that cannot be.
    NoFrame { id: ChunkId },
}

/// The threads and their work. Dropping it ends them.
pub(super) struct Pipeline {
    readings: mpsc::Sender<Reading>,
    encodings: mpsc::Sender<Encoding>,
    window: Arc<Window>,
    threads: JoinSet<()>,
}

/// The thread that took the work is gone, which only a panic does.
#[derive(Debug)]
pub(super) struct Gone;

impl Pipeline {
    pub(super) fn start(window: usize, level: i32, made: &UnboundedSender<Made>) -> Self {
        let window = Window::new(window);
        let (readings, reading) = mpsc::channel::<Reading>();
        let (encodings, encoding) = mpsc::channel::<Encoding>();
        let reading = Arc::new(Mutex::new(reading));
        let encoding = Arc::new(Mutex::new(encoding));
        let mut threads = JoinSet::new();
        // As many of each as there are cores: whichever the push needs more of gets them.
        for _ in 0..thread::available_parallelism().map_or(2, NonZero::get) {
            let (reading, window, out) = (Arc::clone(&reading), Arc::clone(&window), made.clone());
            threads.spawn_blocking(move || {
                while let Some(work) = next(&reading) {
                    read(&work, &window, &out);
                }
            });
            let (encoding, out) = (Arc::clone(&encoding), made.clone());
            threads.spawn_blocking(move || {
                let mut encoder = FrameEncoder::new(level);
                while let Some(work) = next(&encoding) {
                    // Fails when the push is over.
                    let _ = out.send(encode(&mut encoder, work));
                }
            });
        }
        Self { readings, encodings, window, threads }
    }

    pub(super) fn read(&self, work: Reading) -> Result<(), Gone> {
        self.readings.send(work).map_err(|_| Gone)
    }

    pub(super) fn encode(&self, work: Encoding) -> Result<(), Gone> {
        self.encodings.send(work).map_err(|_| Gone)
    }

    /// Returns only when a thread panics.
    pub(super) async fn broken(&mut self) -> String {
        loop {
            match self.threads.join_next().await {
                Some(Ok(())) => {}
                Some(Err(error)) => return error.to_string(),
                None => return "no thread is left".to_owned(),
            }
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.window.close();
    }
}

fn next<T>(work: &Mutex<mpsc::Receiver<T>>) -> Option<T> {
    work.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn read(work: &Reading, window: &Arc<Window>, out: &UnboundedSender<Made>) {
    let nar = work.nar;
    let mut hand_over = |chunk: CutChunk| {
        let over = || io::Error::other("the push is over");
        let held = window.take(chunk.content.len()).map_err(|_| over())?;
        out.send(Made::Chunk { nar, chunk, held }).map_err(|_| over())
    };
    let mut cutter = Cutter::new(work.references.iter().copied());
    let result = nar::dump(&work.files, |bytes| cutter.feed(bytes, &mut hand_over))
        .map_err(|error| error.to_string())
        .and_then(|size| cutter.finish(hand_over).map(|()| size).map_err(|error| error.to_string()));
    let _ = out.send(Made::Read { nar, result });
}

fn encode(encoder: &mut FrameEncoder, work: Encoding) -> Made {
    let Encoding { nar, number, chunk, mut held } = work;
    let mut frame = encoder.encode(&chunk.content, &chunk.holes);
    // The encoder reserves for the worst case.
    frame.bytes.shrink_to_fit();
    held.shrink(frame.bytes.len());
    match FrameEntry::of(chunk.id, chunk.content.len(), &frame) {
        Some(entry) => Made::Frame { nar, number, entry, frame: frame.bytes.into(), held },
        None => Made::NoFrame { id: chunk.id },
    }
}
