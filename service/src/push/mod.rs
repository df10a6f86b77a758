//! Writing: a client brings a closure into a cache. See `docs/architecture.md`, "A push".

mod body;
mod commit;
mod missing_chunks;
mod open;
mod recipes;
mod upload;
mod upstream;
mod verify;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::HeaderMap,
    routing::post,
};
use larder_protocol::{
    api::{CacheName, CommittedPush, OpenedPush, Permission, PushId, RecipesAnswer, UploadAnswer},
    chunk::FrameDecoder,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use upstream::UpstreamClient;

use crate::{Service, caches::Cache, config::limits::Limits, error::ApiError, metadata::FoundPush, trust};

/// The longest opening body that is read, in bytes: some 50,000 paths.
const MAX_OPEN_BODY: usize = 48 << 20;
/// The longest question which chunks are missing.
const MAX_QUESTION: usize = 32 * larder_protocol::api::MAX_CHUNKS_ASKED;
/// The longest body of recipes.
const MAX_RECIPES: usize = 32 << 20;
/// What one upload has in memory, in KiB: a batch of frames, and what has come of the next.
const UPLOAD_KIB: u32 = 2 << 10;
/// How many pushes are committed at once. The paths of each are in memory meanwhile.
const COMMITS: usize = 2;
/// How long a request waits for its turn, before its client is told to come again.
const PATIENCE: Duration = Duration::from_secs(30);
const COME_AGAIN: Duration = Duration::from_secs(5);
/// How long an upload may take, however slowly it comes.
const UPLOAD_WITHIN: Duration = Duration::from_secs(60 * 60);
/// A body that is held whole must come faster than so many bytes in a second: it keeps others waiting.
const SLOWEST: u64 = 64 << 10;

/// What all pushes share: the cores, and a bound on what is held in memory.
pub struct Workshop {
    /// As many permits as cores: who decodes, hashes or compresses holds one.
    cores: Arc<Semaphore>,
    /// One permit for each KiB of bodies that must be held whole.
    bodies: Arc<Semaphore>,
    /// One permit for each KiB of frames under way.
    window: Arc<Semaphore>,
    commits: Arc<Semaphore>,
    decoders: Mutex<Vec<FrameDecoder>>,
}

impl Workshop {
    pub(crate) fn new(limits: &Limits) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let window = (limits.upload_window.as_usize() >> 10).min(Semaphore::MAX_PERMITS);
        Self {
            cores: Arc::new(Semaphore::new(cores)),
            bodies: Arc::new(Semaphore::new(MAX_OPEN_BODY >> 10)),
            window: Arc::new(Semaphore::new(window)),
            commits: Arc::new(Semaphore::new(COMMITS)),
            decoders: Mutex::default(),
        }
    }

    /// Waits for a turn.
    async fn turn(semaphore: &Arc<Semaphore>, permits: u32) -> Result<OwnedSemaphorePermit, ApiError> {
        match tokio::time::timeout(PATIENCE, semaphore.clone().acquire_many_owned(permits)).await {
            Ok(turn) => turn.map_err(|_| ApiError::internal("no turn")),
            Err(_) => Err(ApiError::unavailable(
                "more is being pushed than there is room for. Try again",
                COME_AGAIN,
            )),
        }
    }

    /// Waits until there is room for one more upload.
    async fn upload(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Self::turn(&self.window, UPLOAD_KIB).await
    }

    /// Waits until one more push can be committed.
    async fn commit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Self::turn(&self.commits, 1).await
    }

    /// Does work that keeps a core busy, off the async threads, when a core is free for it.
    async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut FrameDecoder) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let core = self.cores.clone().acquire_owned().await.map_err(|_| ApiError::internal("no core"))?;
        let shop = self.clone();
        tokio::task::spawn_blocking(move || {
            let _core = core;
            let mut decoder =
                shop.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
            let done = work(&mut decoder);
            shop.decoders.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
            done
        })
        .await
        .map_err(|_| ApiError::internal("a worker panicked"))
    }

    /// Reads a body that must be held whole, when there is room for it.
    async fn hold(
        &self,
        headers: &HeaderMap,
        body: Body,
        limit: usize,
    ) -> Result<(bytes::Bytes, OwnedSemaphorePermit), ApiError> {
        let announced = headers
            .get(axum::http::header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok())
            .ok_or_else(|| ApiError::bad_request("the request has no Content-Length"))?;
        if announced > limit {
            body::BodyReader::new(body, 0, Duration::ZERO).drain().await;
            return Err(ApiError::too_large(format!("the body is larger than {limit} bytes")));
        }
        let kib = u32::try_from(announced.div_ceil(1024).max(1)).unwrap_or(u32::MAX);
        let room = Self::turn(&self.bodies, kib).await?;
        let announced = announced as u64;
        let within = Duration::from_secs(60 + announced / SLOWEST);
        let bytes = body::BodyReader::new(body, announced, within).rest().await?;
        Ok((bytes, room))
    }
}

/// The routes of pushes.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/api/v1/caches/{cache}/pushes", post(open))
        .route("/api/v1/caches/{cache}/pushes/{push}/missing-chunks", post(missing_chunks))
        .route("/api/v1/caches/{cache}/pushes/{push}/frames", post(frames))
        .route("/api/v1/caches/{cache}/pushes/{push}/recipes", post(recipes))
        .route("/api/v1/caches/{cache}/pushes/{push}/commit", post(commit))
}

/// A request to an open or committed push, by the identity that it belongs to.
struct PushRequest {
    service: Arc<Service>,
    cache: Arc<Cache>,
    push: FoundPush,
}

impl PushRequest {
    async fn authorize(
        service: Arc<Service>,
        headers: &HeaderMap,
        (cache, push): (String, String),
    ) -> Result<Self, ApiError> {
        let name: CacheName = cache.parse().map_err(|_| ApiError::not_found("there is no such cache"))?;
        let grant = trust::authorize(&service, headers, &name, Permission::Push).await?;
        let unknown =
            || ApiError::not_found("there is no such push, or it is another identity's; open a new one");
        let push: PushId = push.parse().map_err(|_| unknown())?;
        let now = service.clock.now();
        let push = service.metadata.find_push(&name, &push, &grant.identity.owner(), now).await?;
        let cache = service.caches.get(&name).ok_or_else(unknown)?.clone();
        Ok(Self { push: push.ok_or_else(unknown)?, cache, service })
    }

    /// Refuses what only an open push takes.
    fn open(self) -> Result<Self, ApiError> {
        if self.push.committed {
            return Err(ApiError::conflict("the push is committed already; open a new one for more"));
        }
        Ok(self)
    }
}

async fn open(
    State(service): State<Arc<Service>>,
    Path(cache): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<OpenedPush>, ApiError> {
    let name: CacheName = cache.parse().map_err(|_| ApiError::not_found("there is no such cache"))?;
    let grant = trust::authorize(&service, &headers, &name, Permission::Push).await?;
    let cache = service.caches.get(&name).ok_or_else(|| ApiError::not_found("there is no such cache"))?;
    let (body, _room) = service.workshop.hold(&headers, body, MAX_OPEN_BODY).await?;
    Ok(Json(open::open_push(&service, cache, &grant, body).await?))
}

async fn missing_chunks(
    State(service): State<Arc<Service>>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Vec<u8>, ApiError> {
    let request = PushRequest::authorize(service, &headers, path).await?.open()?;
    let (body, _room) = request.service.workshop.hold(&headers, body, MAX_QUESTION).await?;
    missing_chunks::missing_chunks(&request, &body).await
}

async fn frames(
    State(service): State<Arc<Service>>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UploadAnswer>, ApiError> {
    let request = PushRequest::authorize(service, &headers, path).await?.open()?;
    let room = request.service.workshop.upload().await?;
    // A task of its own: when the client goes away, what has arrived is stored all the same.
    let stored = tokio::spawn(async move {
        let _room = room;
        upload::store_frames(request, body).await
    });
    let stored = stored.await;
    Ok(Json(stored.map_err(|_| ApiError::internal("an upload panicked"))??))
}

async fn recipes(
    State(service): State<Arc<Service>>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RecipesAnswer>, ApiError> {
    let request = PushRequest::authorize(service, &headers, path).await?.open()?;
    let (body, room) = request.service.workshop.hold(&headers, body, MAX_RECIPES).await?;
    // A task of its own: a large NAR may take longer than a proxy waits, and is verified when the client asks again.
    let verified = tokio::spawn(async move {
        let _room = room;
        recipes::take_recipes(&request, &body).await
    });
    Ok(Json(verified.await.map_err(|_| ApiError::internal("a verification panicked"))??))
}

async fn commit(
    State(service): State<Arc<Service>>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<CommittedPush>, ApiError> {
    let request = PushRequest::authorize(service, &headers, path).await?;
    Ok(Json(commit::commit_push(&request).await?))
}
