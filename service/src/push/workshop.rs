//! Where pushes are worked on: a bound on what they hold in memory, and threads that give way to readers.

use std::{cell::RefCell, sync::Arc, time::Duration};

use axum::{body::Body, http::HeaderMap};
use larder_protocol::chunk::{FrameDecoder, FrameEncoder};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{MAX_QUESTION, body};
use crate::{
    config::{ByteSize, Limits},
    error::ApiError,
};

/// How far the threads step back behind those that answer readers, who wait for a few microseconds of a core.
const NICE: i32 = 10;
/// What one upload has in memory, in KiB: a batch of frames, and what has come of the next.
const UPLOAD_KIB: u32 = 2 << 10;
/// How many pushes are committed at once. The paths of each are in memory meanwhile.
const COMMITS: usize = 2;
/// How long a request waits for its turn, before its client is told to come again.
const PATIENCE: Duration = Duration::from_secs(30);
const COME_AGAIN: Duration = Duration::from_secs(5);
/// How long an upload may take, however slowly it comes.
pub(super) const UPLOAD_WITHIN: Duration = Duration::from_secs(60 * 60);
/// A body that is held whole must come faster than so many bytes in a second: it keeps others waiting.
const SLOWEST: u64 = 64 << 10;

thread_local! {
    static DECODER: RefCell<FrameDecoder> = RefCell::default();
    static ENCODER: RefCell<FrameEncoder> = RefCell::default();
}

/// What all pushes share: the cores, and a bound on what is held in memory.
pub struct Workshop {
    threads: ThreadPool,
    /// One permit for each KiB of bodies that must be held whole.
    bodies: Arc<Semaphore>,
    /// One permit for each KiB of frames under way.
    window: Arc<Semaphore>,
    window_kib: u32,
    commits: Arc<Semaphore>,
}

impl Workshop {
    /// Starts its threads, one for each core.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub(crate) fn new(limits: &Limits) -> Result<Self, ThreadPoolBuildError> {
        let threads = ThreadPoolBuilder::new()
            .thread_name(|number| format!("workshop-{number}"))
            .start_handler(|_| {
                // Of this thread alone, as Linux has it. Where it may not be, readers wait a little longer.
                let _ = rustix::process::setpriority_process(None, NICE);
            })
            // The panic was printed; whoever waits for the work is told.
            .panic_handler(|_| {})
            .build()?;
        // Room for the largest of them.
        let bodies = limits.max_open_body.max(limits.max_recipes_body).max(MAX_QUESTION).as_usize() >> 10;
        let window = (limits.upload_window.as_usize() >> 10).min(Semaphore::MAX_PERMITS);
        Ok(Self {
            threads,
            bodies: Arc::new(Semaphore::new(bodies.min(Semaphore::MAX_PERMITS))),
            window: Arc::new(Semaphore::new(window)),
            window_kib: u32::try_from(window).unwrap_or(u32::MAX),
            commits: Arc::new(Semaphore::new(COMMITS)),
        })
    }

    /// Waits for a turn. `bound` says what there is no more of.
    async fn turn(
        semaphore: &Arc<Semaphore>,
        permits: u32,
        bound: &str,
    ) -> Result<OwnedSemaphorePermit, ApiError> {
        match tokio::time::timeout(PATIENCE, semaphore.clone().acquire_many_owned(permits)).await {
            Ok(turn) => turn.map_err(|_| ApiError::internal("no turn")),
            Err(_) => {
                let message = format!("more is being pushed than there is room for ({bound}). Try again");
                Err(ApiError::unavailable(message, COME_AGAIN))
            }
        }
    }

    /// Waits until there is room for one more upload, whose object takes so many bytes of memory.
    pub(super) async fn upload(&self, held: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let kib = (UPLOAD_KIB + u32::try_from(held >> 10).unwrap_or(u32::MAX >> 1)).min(self.window_kib);
        Self::turn(&self.window, kib, "limits.upload_window").await
    }

    /// Waits until one more push can be committed.
    pub(super) async fn commit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Self::turn(&self.commits, 1, "two pushes are committed at a time").await
    }

    /// Does work that keeps a core busy, off the async threads, when a core is free for it.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut FrameDecoder) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (done, result) = oneshot::channel();
        self.threads.spawn(move || {
            // Nobody waits any more where the client has gone.
            let _ = done.send(DECODER.with_borrow_mut(work));
        });
        result.await.map_err(|_| ApiError::internal("a worker panicked"))
    }

    /// Makes frames, as a client does.
    pub(super) async fn encode<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut FrameEncoder) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.work(|_| ENCODER.with_borrow_mut(work)).await
    }

    /// Reads a body that must be held whole, when there is room for it.
    pub(crate) async fn hold(
        &self,
        headers: &HeaderMap,
        body: Body,
        limit: ByteSize,
        key: &str,
    ) -> Result<(bytes::Bytes, OwnedSemaphorePermit), ApiError> {
        let announced = headers
            .get(axum::http::header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok())
            .ok_or_else(|| ApiError::bad_request("the request has no Content-Length"))?;
        if announced > limit.as_usize() {
            body::BodyReader::new(body, 0, Duration::ZERO).drain().await;
            return Err(ApiError::body_over(limit, key));
        }
        let kib = u32::try_from(announced.div_ceil(1024).max(1)).unwrap_or(u32::MAX);
        let room = Self::turn(&self.bodies, kib, "limits.max_open_body").await?;
        let announced = announced as u64;
        let within = Duration::from_secs(60 + announced / SLOWEST);
        let bytes = body::BodyReader::new(body, announced, within).rest().await?;
        Ok((bytes, room))
    }
}
