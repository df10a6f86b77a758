//! Prefetches that somebody asks for by hand.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    middleware,
    routing::{get, post},
};
use larder_protocol::{
    StorePath,
    api::{CacheName, Permission},
    prefetch::{AskPrefetch, MAX_PREFETCHED_PATHS, Prefetch},
};

use crate::{
    Service,
    audit::Who,
    caches::no_such_cache,
    client::Client,
    config::ByteSize,
    error::ApiError,
    metadata::AskedPrefetch,
    push,
    queue::Work,
    random::random_bytes,
    router,
    trust::{self, Grant},
};

/// The longest request: room for all the paths that one may name, at two hundred bytes.
const MAX_BODY: ByteSize = ByteSize::mebibytes(2);
/// How many prefetches of one job or token may be under way, and how many in all.
const MAX_OF_OWNER: u32 = 100;
const MAX_IN_ALL: u32 = 1000;
const COME_AGAIN: std::time::Duration = std::time::Duration::from_secs(30);

/// The routes of prefetches.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/api/v1/prefetches", post(ask))
        .route("/api/v1/prefetches/{id}", get(tell))
        .layer(middleware::from_fn(router::within_time))
}

/// `POST /api/v1/prefetches`
async fn ask(
    State(service): State<Arc<Service>>,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Prefetch>), ApiError> {
    // The body names the cache. Before a token was looked at, no body is read.
    let token = trust::grant_of_request(&service, &headers).await;
    let granted =
        token.inspect_err(|refusal| service.audit.refused(&Who::default().at(client), refusal))?.own_cache();
    let (grant, who) = push::authorize(&service, client, &headers, &granted).await?;
    let (body, _room) = service.workshop.hold(&headers, body, MAX_BODY, "2 MiB, for prefetches").await?;
    let AskPrefetch { cache, paths } = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(format!("the request cannot be read: {error}")))?;
    let asked = accept(&service, &grant, &who, granted, cache, paths).await;
    let prefetch = asked.inspect_err(|refusal| {
        if matches!(refusal.status(), StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
            service.audit.refused(&who, refusal);
        }
    })?;
    Ok((StatusCode::ACCEPTED, Json(prefetch)))
}

/// Accepts a prefetch into a cache by whoever has a grant for the cache `granted`.
async fn accept(
    service: &Service,
    grant: &Grant,
    who: &Who,
    granted: CacheName,
    cache: CacheName,
    mut paths: Vec<StorePath>,
) -> Result<Prefetch, ApiError> {
    if cache != granted {
        return Err(ApiError::denied(format!(
            "the token does not permit this in the cache {cache}; it is for the cache {granted}"
        )));
    }
    if cache.isolation().is_some() {
        return Err(ApiError::denied(
            "nothing is prefetched into a pull request's own cache: it reads through to its parent, and its jobs ask \
             upstreams themselves",
        ));
    }
    let found = service.caches.get(&cache).ok_or_else(no_such_cache)?;
    if !found.is_public() && !grant.permits(Permission::Read) {
        return Err(ApiError::denied(
            "what is missing from a private cache is told to those alone who may read it: the token needs the \
             permission read as well",
        ));
    }
    paths.sort_unstable();
    paths.dedup();
    if !(1..=MAX_PREFETCHED_PATHS).contains(&paths.len()) {
        return Err(ApiError::invalid(format!(
            "{} paths are named, and 1 to {MAX_PREFETCHED_PATHS} can be",
            paths.len()
        )));
    }
    let id = data_encoding::HEXLOWER.encode(&random_bytes::<16>()?);
    let asked =
        AskedPrefetch { name: &id, cache: &cache, owner: &grant.identity.owner(), paths: &paths, who };
    let now = service.clock.now();
    let job = Work::Prefetch { prefetch: id.clone() }.job(now);
    if !service.metadata.ask_prefetch(&asked, &job, (MAX_OF_OWNER, MAX_IN_ALL), now).await? {
        return Err(ApiError::too_many(
            format!(
                "{MAX_OF_OWNER} prefetches of this job or token are under way, or {MAX_IN_ALL} in all, and no more may \
                 be. Name all paths in one, or try again when some have ended"
            ),
            COME_AGAIN,
        ));
    }
    service.queue.wake();
    tracing::info!(prefetch = id, cache = %cache, paths = paths.len(), "prefetch asked for");
    service.metadata.prefetch(&id).await?.ok_or_else(unknown)
}

/// `GET /api/v1/prefetches/{id}`
async fn tell(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    client: Client,
    headers: HeaderMap,
) -> Result<Json<Prefetch>, ApiError> {
    let token = trust::grant_of_request(&service, &headers).await;
    let grant = token.inspect_err(|refusal| service.audit.refused(&Who::default().at(client), refusal))?;
    let prefetch = service.metadata.prefetch(&id).await?.ok_or_else(unknown)?;
    let reads = grant.permits_in(&prefetch.cache, Permission::Read);
    let public = service.caches.get(&prefetch.cache).is_some_and(|cache| cache.is_public());
    match reads || public && grant.permits_in(&prefetch.cache, Permission::Push) {
        true => Ok(Json(prefetch)),
        false => Err(unknown()),
    }
}

fn unknown() -> ApiError {
    ApiError::not_found("there is no such prefetch, or it is in a cache that the token is not for")
}
