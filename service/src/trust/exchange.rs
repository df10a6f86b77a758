//! An ID token for a session token, and the session's end.

use std::{sync::Arc, time::Duration};

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use larder_protocol::api::{TokenAnswer, TokenRequest};

use super::{Denial, GrantedTo, PullRequest, SecretToken, authorize::authenticate, secret::SESSION_PREFIX};
use crate::{
    Service,
    error::{ApiError, JsonBody},
    identity::IssuersError,
    metadata::tokens::UsedIdToken,
};

/// How long a session lives, in seconds.
pub const SESSION_LIVES: u32 = 15 * 60;

/// `POST /api/v1/token`
///
/// # Errors
/// 401 if the ID token is not believed, 403 if no rule fits, 503 if its issuer cannot be asked.
pub async fn exchange_token(
    State(service): State<Arc<Service>>,
    JsonBody(request): JsonBody<TokenRequest>,
) -> Result<Json<TokenAnswer>, ApiError> {
    let Some(public_url) = &service.config.public_url else {
        return Err(ApiError::denied(
            "this service has no public_url and no trust rule yet, so no job can push. Whoever runs it can add both \
             to larder.toml",
        ));
    };
    let now = service.clock.now();
    let token = service.issuers.verify(&request.id_token, public_url.origin(), now).await?;
    let claims = &token.claims;

    let cache = service.caches.get(&request.cache);
    let decided = match cache {
        Some(cache) => cache.config.trust.evaluate(claims).map(|grant| (cache, grant)),
        None => Err(Denial::no_rule(&request.cache, claims)),
    };
    let (cache, grant) = decided.inspect_err(|denial| {
        tracing::info!(
            cache = %request.cache, repository = %claims.repository, git_ref = ?claims.git_ref,
            event = %claims.event_name, run = claims.run_id, reason = ?denial.to_string(), "denied a job"
        );
    })?;

    if let Some(pull_request) = grant.isolated {
        return Err(isolated_not_served(pull_request));
    }
    let session = SecretToken::generate(SESSION_PREFIX)?;
    let used = UsedIdToken { issuer: &claims.issuer, id: &token.id, expires_at: token.ends_at };
    let expires_at = now.saturating_add(SESSION_LIVES.into());
    if !service.metadata.open_session(session.hash(), &grant, used, now, expires_at).await? {
        return Err(ApiError::unauthorized(
            "the ID token was exchanged before, and each can be used once. Ask for a new one",
        ));
    }
    tracing::info!(
        cache = %request.cache, repository = %claims.repository, git_ref = ?claims.git_ref,
        event = %claims.event_name, run = claims.run_id, session = %session.hash().short(), "granted a job a session"
    );
    Ok(Json(TokenAnswer {
        token: session.expose().to_owned(),
        expires_in: SESSION_LIVES.into(),
        permissions: grant.permissions,
        cache: cache.info(),
    }))
}

/// `DELETE /api/v1/token`
///
/// # Errors
/// 401 without a session, 403 if it is a person's token.
pub async fn revoke_session(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let (token, grant) = authenticate(&service, &headers).await?;
    if let GrantedTo::Person { name, .. } = grant.identity {
        return Err(ApiError::denied(format!(
            "{name:?} is a person's token. Whoever runs the service ends it by `larderd token revoke {name}`"
        )));
    }
    service.metadata.end_session(token.hash()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The place for opening the pull request's own cache.
fn isolated_not_served(pull_request: PullRequest) -> ApiError {
    ApiError::denied(format!(
        "a trust rule gives {pull_request} a cache of its own, and this version of the service does not serve such \
         caches yet. The job can go on without pushing"
    ))
}

impl From<Denial> for ApiError {
    fn from(denial: Denial) -> Self {
        Self::denied(denial.to_string())
    }
}

impl From<IssuersError> for ApiError {
    fn from(error: IssuersError) -> Self {
        match error {
            IssuersError::Invalid(invalid) => Self::unauthorized(invalid.to_string()),
            // The cause was logged where it arose, and may name what is behind the service's firewall.
            IssuersError::Unreachable { issuer, retry_after, .. } => Self::unavailable(
                format!(
                    "the ID token's issuer {issuer} does not answer, so nobody can tell whether it holds. Try again"
                ),
                Duration::from_secs(retry_after),
            ),
        }
    }
}
