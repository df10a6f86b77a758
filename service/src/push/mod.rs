//! Writing: a client brings a closure into a cache. See `docs/architecture.md`, "A push".

mod body;
mod commit;
mod missing_chunks;
mod open;
mod recipes;
mod upload;
mod upstream;
mod verify;
mod workshop;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::HeaderMap,
    routing::post,
};
use larder_protocol::api::{
    CacheName, CommittedPush, OpenedPush, Permission, PushId, RecipesAnswer, UploadAnswer,
};

pub use upstream::UpstreamClient;
pub use workshop::Workshop;

use crate::{Service, caches::Cache, error::ApiError, metadata::FoundPush, trust};

/// The longest opening body that is read, in bytes: some 50,000 paths.
const MAX_OPEN_BODY: usize = 48 << 20;
/// The longest question which chunks are missing.
const MAX_QUESTION: usize = 32 * larder_protocol::api::MAX_CHUNKS_ASKED;
/// The longest body of recipes.
const MAX_RECIPES: usize = 32 << 20;
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
