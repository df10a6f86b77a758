//! Pins: store paths that somebody named to be kept, and that a host can ask for by that name.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use larder_protocol::api::{CacheName, Permission, Pin, PinName, PinRequest, Pins};

use crate::{
    Service,
    audit::Who,
    caches::Cache,
    client::Client,
    error::{ApiError, JsonBody},
    metadata::NewPin,
    trust::{self, Grant},
};

/// How many paths one name may keep.
const MOST_KEPT: u32 = 1000;
/// A century, in seconds.
const LONGEST: u64 = 100 * 366 * 24 * 60 * 60;

/// The cache of a request, if its token permits pinning there. A refusal goes on record.
async fn authorize(
    service: &Service,
    client: Client,
    headers: &HeaderMap,
    cache: &str,
) -> Result<(Arc<Cache>, Grant, Who), ApiError> {
    let unknown = || ApiError::not_found("there is no such cache");
    let name: CacheName = cache.parse().map_err(|_| unknown())?;
    let mut who = Who::default().at(client);
    let granted = trust::authorize(service, headers, &name, Permission::Pin).await;
    let grant = granted.inspect_err(|refusal| service.audit.refused(&who, refusal))?;
    who = Who::of(&grant.identity).at(client);
    let cache = service.caches.get(&name).ok_or_else(unknown)?.clone();
    if !cache.is_public() && !grant.permits(Permission::Read) {
        let refusal = ApiError::denied(format!(
            "pinning tells what the private cache {name} has, so that the token must permit read, too"
        ));
        service.audit.refused(&who, &refusal);
        return Err(refusal);
    }
    Ok((cache, grant, who))
}

fn pin_name(name: &str) -> Result<PinName, ApiError> {
    name.parse().map_err(|error| ApiError::bad_request(format!("{error}")))
}

/// `PUT /api/v1/caches/{cache}/pins/{name}`
pub(crate) async fn pin(
    State(service): State<Arc<Service>>,
    Path((cache, name)): Path<(String, String)>,
    client: Client,
    headers: HeaderMap,
    JsonBody(request): JsonBody<PinRequest>,
) -> Result<StatusCode, ApiError> {
    let (cache, grant, who) = authorize(&service, client, &headers, &cache).await?;
    let name = pin_name(&name)?;
    if !(1..=MOST_KEPT).contains(&request.keep) {
        return Err(ApiError::invalid(format!(
            "a pin keeps from 1 to {MOST_KEPT} paths, not {}",
            request.keep
        )));
    }
    let lifetime = match request.lifetime {
        Some(lifetime) if !(1..=LONGEST).contains(&lifetime) => {
            return Err(ApiError::invalid(
                "a pin lives from a second to a century; leave the lifetime out for ever",
            ));
        }
        lifetime => lifetime.and_then(|lifetime| i64::try_from(lifetime).ok()),
    };
    let now = service.clock.now();
    let pin = NewPin {
        cache: cache.name(),
        name: &name,
        path: &request.path,
        expires_at: lifetime.map(|lifetime| now + lifetime),
        keep: request.keep,
        pinned_by: &grant.identity.provenance(),
        who: &who,
    };
    if !service.metadata.pin(&pin, now).await? {
        return Err(ApiError::invalid(format!(
            "{} is not in the cache {}; push it first",
            request.path,
            cache.name()
        )));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /api/v1/caches/{cache}/pins/{name}`
pub(crate) async fn unpin(
    State(service): State<Arc<Service>>,
    Path((cache, name)): Path<(String, String)>,
    client: Client,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let (cache, _, who) = authorize(&service, client, &headers, &cache).await?;
    if !service.metadata.unpin(cache.name(), &pin_name(&name)?, &who, service.clock.now()).await? {
        return Err(ApiError::not_found("there is no pin of that name"));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/v1/caches/{cache}/pins`
pub(crate) async fn pins(
    State(service): State<Arc<Service>>,
    Path(cache): Path<String>,
    client: Client,
    headers: HeaderMap,
) -> Result<Json<Pins>, ApiError> {
    let (cache, ..) = authorize(&service, client, &headers, &cache).await?;
    let pins = service.metadata.pins(cache.name(), service.clock.now()).await?;
    let pins = pins.into_iter().map(|pin| Pin {
        name: pin.name,
        path: pin.path,
        pinned_at: pin.pinned_at,
        expires_at: pin.expires_at,
    });
    Ok(Json(Pins { pins: pins.collect() }))
}

/// What a host reads of a pin: the path, absolute, and nothing else.
pub(crate) async fn read(service: &Service, cache: &Cache, name: &str) -> Option<String> {
    let name: PinName = name.parse().ok()?;
    let pinned = service.metadata.pinned(cache.name(), &name, service.clock.now()).await;
    let path = pinned.inspect_err(|error| tracing::error!(%error, "a pin could not be looked up")).ok()??;
    Some(format!("{}\n", path.absolute()))
}
