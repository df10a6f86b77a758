//! What a request's token permits.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::{HeaderMap, header, request::Parts};
use larder_protocol::api::{CacheName, Permission};

use super::{Grant, SecretToken, TokenHash};
use crate::{Service, caches::name_in_path, error::ApiError};

/// The grant of the request's token, if it permits `permission` in `cache`.
///
/// To be asked before anything is looked up, so that a stranger learns nothing, not even by time.
///
/// # Errors
/// 401 without a token, or with one that is not valid (any more); 403 if it does not permit this.
pub async fn authorize(
    service: &Service,
    headers: &HeaderMap,
    cache: &CacheName,
    permission: Permission,
) -> Result<Grant, ApiError> {
    let (_, grant) = authenticate(service, headers).await?;
    // A grant for the cache of a pull request is none for that cache's parent.
    if !grant.permits_in(cache, permission) {
        return Err(ApiError::denied(format!(
            "the token does not permit this in the cache {cache}; it is for the cache {}",
            grant.own_cache()
        )));
    }
    Ok(grant)
}

/// The request's token and what it grants.
pub(super) async fn authenticate(
    service: &Service,
    headers: &HeaderMap,
) -> Result<(SecretToken, Grant), ApiError> {
    let token = bearer(headers)?;
    let Some(grant) = service.metadata.grant_of(token.hash(), service.clock.now()).await? else {
        return Err(ApiError::unauthorized(
            "the token is not known, or has ended. Sessions last 15 minutes: exchange a new ID token. A person's \
             token is made by `larderd token create`",
        ));
    };
    Ok((token, grant))
}

/// The cache that the request's token lets its bearer read, where what is asked for is not named by its cache.
pub(crate) async fn cache_of_token(service: &Service, headers: &HeaderMap) -> Result<CacheName, ApiError> {
    let (_, grant) = authenticate(service, headers).await?;
    if grant.isolated.is_some() || !grant.permits(Permission::Read) {
        return Err(ApiError::denied("the token does not permit this"));
    }
    Ok(grant.cache)
}

/// What is stored of the token that a request brought, whether or not it is good.
pub(crate) fn token_of(headers: &HeaderMap) -> Option<TokenHash> {
    bearer(headers).ok().map(|token| token.hash())
}

fn bearer(headers: &HeaderMap) -> Result<SecretToken, ApiError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(ApiError::unauthorized(
            "this needs a token, as `Authorization: Bearer …`. A job gets one at /api/v1/token, a person by `larderd \
             token create`",
        ));
    };
    value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .and_then(|(_, token)| SecretToken::read(token.trim()))
        .ok_or_else(|| {
            ApiError::unauthorized(
                "that is not a token of this service: it takes `Authorization: Bearer larder_…`. An ID token is \
                 exchanged at /api/v1/token first",
            )
        })
}

/// The grant to push to the `{cache}` of the route, as an argument of a handler.
pub struct PushGrant(pub Grant);

impl FromRequestParts<Arc<Service>> for PushGrant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, ApiError> {
        let cache = name_in_path(parts, service).await?;
        authorize(service, &parts.headers, &cache, Permission::Push).await.map(Self)
    }
}
