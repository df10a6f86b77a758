//! Writing: a client brings a closure into a cache. See `docs/architecture.md`, "How a push goes".

mod body;
mod bounds;
mod claims;
mod commit;
mod intake;
mod missing_chunks;
mod open;
mod plan;
mod recipes;
mod record;
mod room;
mod upload;
mod upstream;
pub(crate) mod verify;
mod workshop;

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use larder_protocol::{
    ChunkId,
    api::{CacheName, CommittedPush, OpenedPush, Permission, PushId, RecipesAnswer, UploadAnswer},
};

pub(crate) use body::BodyReader;
pub(crate) use bounds::MAX_SIGNATURES;
pub(crate) use intake::{Cut, Fate, Intake, IntakeError, Opened};
pub use record::{FOLDER as RECORDS, InvalidRecord, PushRecord, RecordedPath};
pub use upstream::UpstreamClient;
pub(crate) use upstream::{counts_since, digest, is_signed};
pub use workshop::Workshop;

use crate::{
    Service,
    audit::{Entry, Event, Who},
    caches::{self, Cache, no_such_cache},
    client::Client,
    config::ByteSize,
    error::ApiError,
    metadata::{FoundPush, StoredChunk},
    trust::{self, Grant},
};

/// The longest question which chunks are missing. The protocol's own bound, so no configuration changes it.
const MAX_QUESTION: ByteSize = ByteSize::bytes(32 * larder_protocol::api::MAX_CHUNKS_ASKED as u64);

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
    name: PushId,
    who: Who,
}

impl PushRequest {
    async fn authorize(
        service: Arc<Service>,
        client: Client,
        headers: &HeaderMap,
        (cache, push): (String, String),
    ) -> Result<Self, ApiError> {
        let name: CacheName = cache.parse().map_err(|_| no_such_cache())?;
        let (grant, who) = authorize(&service, client, headers, &name).await?;
        let unknown =
            || ApiError::not_found("there is no such push, or it is another identity's; open a new one");
        let push_name: PushId = push.parse().map_err(|_| unknown())?;
        let now = service.clock.now();
        let push = service.metadata.find_push(&name, &push_name, &grant.identity.owner(), now).await?;
        let cache = caches::find(&service, &name).await?.ok_or_else(no_such_cache)?;
        // What was opened under another grant of the same identity would tell this one too much.
        let push = push.filter(|push| push.is_blind() == is_blind(&cache, &grant));
        let Some(push) = push else {
            let refusal = unknown();
            let reason = refusal.message().to_owned();
            let event = Event::PushRefused { push: Some(push_name.to_string()), reason };
            service.audit.record(Entry::in_cache(cache.name(), who, event));
            return Err(refusal);
        };
        Ok(Self { push, cache, service, name: push_name, who })
    }

    /// Where those of `names` lie of which this push may know.
    async fn stored_chunks(&self, names: &[ChunkId]) -> Result<HashMap<ChunkId, StoredChunk>, ApiError> {
        let sent_by = self.push.is_blind().then_some(self.push.id);
        Ok(self
            .service
            .metadata
            .stored_chunks(self.push.id, &self.cache.namespaces(), names, sent_by)
            .await?)
    }

    /// Refuses what only an open push takes.
    fn open(self) -> Result<Self, ApiError> {
        if self.push.committed {
            return Err(ApiError::conflict("the push is committed already; open a new one for more"));
        }
        Ok(self)
    }
}

/// Whether whoever has this grant is told nothing of what the cache has: everything counts as missing, and what is
/// pushed must be whole in itself.
pub(crate) fn is_blind(cache: &Cache, grant: &Grant) -> bool {
    !cache.is_public() && !grant.permits(Permission::Read)
}

/// Who may push to the cache, by the request's token. A refusal goes on record.
pub(crate) async fn authorize(
    service: &Service,
    client: Client,
    headers: &HeaderMap,
    cache: &CacheName,
) -> Result<(Grant, Who), ApiError> {
    let now = service.clock.now();
    let record = |who: &Who, refusal: &ApiError| service.audit.refused(who, refusal);
    let mut who = Who::default().at(client);
    service.paces.push_from(client, now).inspect_err(|refusal| record(&who, refusal))?;
    let granted = trust::authorize(service, headers, cache, Permission::Push).await;
    let grant = granted.inspect_err(|refusal| record(&who, refusal))?;
    who = Who::of(&grant.identity).at(client);
    if let Some(token) = trust::token_of(headers) {
        who = who.with_token(token);
    }
    service.paces.push_by(&grant.identity.owner(), now).inspect_err(|refusal| record(&who, refusal))?;
    Ok((grant, who))
}

/// Puts the refusal of a push on record: what was sent is too much, or does not hold.
fn on_record<T>(
    service: &Service,
    cache: &Cache,
    who: &Who,
    push: Option<PushId>,
    result: Result<T, ApiError>,
) -> Result<T, ApiError> {
    result.inspect_err(|refusal| {
        let reason = refusal.message().to_owned();
        let event = match refusal.status() {
            StatusCode::TOO_MANY_REQUESTS => Event::Limited { reason },
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Event::PushRefused { push: push.map(|push| push.to_string()), reason }
            }
            _ => return,
        };
        service.audit.record(Entry::in_cache(cache.name(), who.clone(), event));
    })
}

async fn open(
    State(service): State<Arc<Service>>,
    Path(cache): Path<String>,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<OpenedPush>, ApiError> {
    let name: CacheName = cache.parse().map_err(|_| no_such_cache())?;
    let (grant, who) = authorize(&service, client, &headers, &name).await?;
    let cache = &caches::find(&service, &name).await?.ok_or_else(no_such_cache)?;
    let limits = &service.config.limits;
    let opened = async {
        let (body, _room) =
            service.workshop.hold(&headers, body, limits.max_open_body, "limits.max_open_body").await?;
        open::open_push(&service, cache, &grant, &who, body).await
    };
    on_record(&service, cache, &who, None, opened.await).map(Json)
}

async fn missing_chunks(
    State(service): State<Arc<Service>>,
    Path(path): Path<(String, String)>,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<Vec<u8>, ApiError> {
    let request = PushRequest::authorize(service, client, &headers, path).await?.open()?;
    let (body, _room) = request.service.workshop.hold(&headers, body, MAX_QUESTION, "65,536 chunks").await?;
    missing_chunks::missing_chunks(&request, &body).await
}

async fn frames(
    State(service): State<Arc<Service>>,
    Path(path): Path<(String, String)>,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UploadAnswer>, ApiError> {
    let request = PushRequest::authorize(service, client, &headers, path).await?.open()?;
    let held = request.service.storage.held();
    let room = request.service.workshop.upload(held).await?;
    let (service, cache) = (request.service.clone(), request.cache.clone());
    let (who, name) = (request.who.clone(), request.name);
    // A task of its own: when the client goes away, what has arrived is stored all the same.
    let stored = tokio::spawn(async move {
        let _room = room;
        upload::store_frames(request, body).await
    });
    let stored = stored.await.map_err(|_| ApiError::internal("an upload panicked"))?;
    on_record(&service, &cache, &who, Some(name), stored).map(Json)
}

async fn recipes(
    State(service): State<Arc<Service>>,
    Path(path): Path<(String, String)>,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RecipesAnswer>, ApiError> {
    let request = PushRequest::authorize(service, client, &headers, path).await?.open()?;
    let (service, cache) = (request.service.clone(), request.cache.clone());
    let (who, name) = (request.who.clone(), request.name);
    let limit = service.config.limits.max_recipes_body;
    let (body, room) = service.workshop.hold(&headers, body, limit, "limits.max_recipes_body").await?;
    // A task of its own: a large NAR may take longer than a proxy waits, and is verified when the client asks again.
    let verified = tokio::spawn(async move {
        let _room = room;
        recipes::take_recipes(&request, &body).await
    });
    let verified = verified.await.map_err(|_| ApiError::internal("a verification panicked"))?;
    let answer = on_record(&service, &cache, &who, Some(name), verified)?;
    // Where chunks are missing the client sends them, and asks again: nothing is wrong with that.
    if let Some(wrong) = answer.rejected.iter().find(|rejected| rejected.missing_chunks.is_empty()) {
        let reason = format!("NAR {}: {}", wrong.nar_hash, wrong.reason);
        let event = Event::PushRefused { push: Some(name.to_string()), reason };
        service.audit.record(Entry::in_cache(cache.name(), who, event));
    }
    Ok(Json(answer))
}

async fn commit(
    State(service): State<Arc<Service>>,
    Path(path): Path<(String, String)>,
    client: Client,
    headers: HeaderMap,
) -> Result<Json<CommittedPush>, ApiError> {
    let request = PushRequest::authorize(service, client, &headers, path).await?;
    let committed = commit::commit_push(&request).await;
    on_record(&request.service, &request.cache, &request.who, Some(request.name), committed).map(Json)
}
