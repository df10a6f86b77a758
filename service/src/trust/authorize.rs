//! What a request's token permits.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use data_encoding::BASE64;
use http::{HeaderMap, header, request::Parts};
use larder_protocol::{
    api::{CacheName, Permission},
    token::NotAToken,
};

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
    let token = match permission {
        Permission::Read => readers_token(headers)?,
        _ => bearer(headers)?,
    };
    let grant = grant_of(service, &token).await?;
    // A grant for the cache of a pull request is none for that cache's parent.
    if !grant.permits_in(cache, permission) {
        return Err(ApiError::denied(format!(
            "the token does not permit this in the cache {cache}; it is for the cache {}",
            grant.own_cache()
        )));
    }
    Ok(grant)
}

/// What the request's token grants, where what is asked for is not named by its cache.
///
/// # Errors
/// 401 without a token, or with one that is not valid (any more).
pub(crate) async fn grant_of_request(service: &Service, headers: &HeaderMap) -> Result<Grant, ApiError> {
    Ok(authenticate(service, headers).await?.1)
}

/// The request's token and what it grants.
pub(super) async fn authenticate(
    service: &Service,
    headers: &HeaderMap,
) -> Result<(SecretToken, Grant), ApiError> {
    let token = bearer(headers)?;
    let grant = grant_of(service, &token).await?;
    Ok((token, grant))
}

/// What a token grants.
async fn grant_of(service: &Service, token: &SecretToken) -> Result<Grant, ApiError> {
    let Some(grant) = service.metadata.grant_of(token.hash(), service.clock.now()).await? else {
        return Err(ApiError::unauthorized(
            "the token is not known, or has ended. Sessions last 15 minutes: exchange a new ID token. A person's \
             token is made by `larderd token create`",
        ));
    };
    Ok(grant)
}

/// The grant of the request's token to read its cache, where what is asked for is not named by its cache.
pub(crate) async fn grant_to_read(service: &Service, headers: &HeaderMap) -> Result<Grant, ApiError> {
    let (_, grant) = authenticate(service, headers).await?;
    if grant.isolated.is_some() || !grant.permits(Permission::Read) {
        return Err(ApiError::denied("the token does not permit this"));
    }
    Ok(grant)
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
    let value = value.to_str().ok().and_then(|value| value.split_once(' '));
    let token = value.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    read_token(token.map_or("", |(_, token)| token.trim()))
}

fn read_token(text: &str) -> Result<SecretToken, ApiError> {
    SecretToken::read(text).map_err(|error| match error {
        NotAToken::Damaged => ApiError::unauthorized(format!("{error}. Copy it again, whole")),
        NotAToken::Other => ApiError::unauthorized(
            "that is not a token of this service: it takes `Authorization: Bearer larder_…`. An ID token is \
             exchanged at /api/v1/token first",
        ),
    })
}

/// The token that a reader brought: as others do, or as Nix does by its netrc, as the password of whatever user.
fn readers_token(headers: &HeaderMap) -> Result<SecretToken, ApiError> {
    let basic = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
    let Some((_, value)) = basic.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic")) else {
        return bearer(headers);
    };
    let decoded = BASE64.decode(value.trim().as_bytes()).unwrap_or_default();
    let password = std::str::from_utf8(&decoded).ok().and_then(|text| text.split_once(':'));
    read_token(password.map_or("", |(_, password)| password))
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
