//! An ID token for a session token, and the session's end.

use std::{sync::Arc, time::Duration};

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use larder_protocol::api::{CacheName, TokenAnswer, TokenRequest};

use super::{
    BoundName, Decision, Denial, GrantedTo, SecretToken, Suspension, TrustedName, authorize::authenticate,
    secret::SESSION_PREFIX,
};
use crate::{
    Service,
    audit::{Entry, Event, Who},
    client::Client,
    error::{ApiError, JsonBody},
    identity::{IdToken, IssuersError},
    isolated,
    metadata::{
        MetadataError, NamesOf,
        tokens::{NewSession, OpenedSession, UsedIdToken},
    },
};

/// How long a session lives, in seconds.
pub const SESSION_LIVES: u32 = 15 * 60;

/// `POST /api/v1/token`
///
/// # Errors
/// 401 if the ID token is not believed, 403 if no rule fits, 503 if its issuer cannot be asked.
pub async fn exchange_token(
    State(service): State<Arc<Service>>,
    client: Client,
    JsonBody(request): JsonBody<TokenRequest>,
) -> Result<Json<TokenAnswer>, ApiError> {
    let Some(public_url) = &service.config.public_url else {
        return Err(ApiError::denied(
            "this service has no public_url and no trust rule yet, so no job can push. Whoever runs it can add both \
             to larder.toml",
        ));
    };
    let now = service.clock.now();
    service
        .paces
        .exchange_from(client, now)
        .inspect_err(|refusal| on_record(&service, None, Who::default().at(client), refusal))?;
    let verified = service.issuers.verify(&request.id_token, public_url.origin(), now).await;
    let token = verified
        .map_err(ApiError::from)
        .inspect_err(|refusal| on_record(&service, None, Who::default().at(client), refusal))?;
    let claims = &token.claims;
    let who = Who::of(&claims.bearer.clone().into()).at(client);
    let number = claims.job().map(|job| job.repository_id.to_string());
    let one = number.as_deref().or(claims.text("sub")).unwrap_or_default();
    service
        .paces
        .exchange_by(claims.issuer(), one, now)
        .inspect_err(|refusal| on_record(&service, None, who.clone(), refusal))?;

    let cache = service.caches.get(&request.cache);
    let used = UsedIdToken {
        issuer: claims.issuer(),
        id: &token.id,
        issued_at: token.issued_at,
        expires_at: token.ends_at,
    };
    // Before anything is made of what it says: it may be of one who had the name before.
    if service.metadata.was_exchanged(&used).await? {
        let refusal = used_before();
        on_record(&service, cache.map(|cache| cache.name()), who, &refusal);
        return Err(refusal);
    }
    // Looked up for a cache that does not exist, too: nobody learns by time which ones do.
    let bound = bound_names(&service, &request.cache, &token, now).await?;
    let decided = match cache {
        Some(cache) => cache.config.trust.evaluate(claims, &bound).map(|decision| (cache, decision)),
        None => Err(Denial::no_rule(&request.cache, claims)),
    };
    let (cache, Decision { grant, new_names }) = decided
        .map_err(ApiError::from)
        .inspect_err(|refusal| on_record(&service, cache.map(|cache| cache.name()), who.clone(), refusal))?;

    let session = SecretToken::generate(SESSION_PREFIX)?;
    let expires_at = now.saturating_add(SESSION_LIVES.into());
    let granted = Event::Granted { permissions: grant.permissions.clone(), until: expires_at };
    let entry = Entry::in_cache(&grant.own_cache(), who.clone().with_token(session.hash()), granted);
    let new = NewSession { hash: session.hash(), grant: &grant, new_names: &new_names, expires_at };
    let refusal = match service.metadata.open_session(new, used, now, &entry).await? {
        OpenedSession::Opened => None,
        OpenedSession::Replayed => Some(used_before()),
        OpenedSession::NameTaken => Some(ApiError::denied(format!(
            "at this very moment the name of {} was bound to another repository or owner, or unbound. `larderd rules` \
             shows it to whoever runs the service",
            claims.bearer
        ))),
    };
    if let Some(refusal) = refusal {
        on_record(&service, Some(cache.name()), who, &refusal);
        return Err(refusal);
    }
    let cache = match grant.isolated {
        Some(pull_request) => isolated::open(&service, cache, claims.issuer(), pull_request, &who)
            .await
            .inspect_err(|refusal| on_record(&service, Some(&grant.own_cache()), who, refusal))?,
        None => cache.clone(),
    };
    Ok(Json(TokenAnswer {
        token: session.expose().to_owned(),
        expires_in: SESSION_LIVES.into(),
        cache: cache.info(Some(&grant)),
        permissions: grant.permissions,
    }))
}

fn used_before() -> ApiError {
    ApiError::unauthorized("the ID token was exchanged before, and each can be used once. Ask for a new one")
}

/// What is known of the token's names in that cache. One that stands for something else now is suspended: whoever has
/// the name is not whom the rules were written for. What a token says that is older than what is known is no news: it
/// is granted nothing, and suspends and binds nothing, or whoever had the name before could undo what was confirmed.
async fn bound_names(
    service: &Service,
    cache: &CacheName,
    token: &IdToken,
    now: i64,
) -> Result<Vec<BoundName>, MetadataError> {
    let Some(job) = token.claims.job() else { return Ok(Vec::new()) };
    let of = NamesOf { cache, issuer: token.claims.issuer() };
    let mut bound = service.metadata.bound_names(of, &TrustedName::of(&job.repository)).await?;
    // Of what was unbound before the token was issued nothing is known to it: it may bind the name.
    bound.retain(|known| known.unbound_at.is_none_or(|unbound_at| token.issued_at < unbound_at));
    for known in bound.iter_mut().filter(|known| known.unbound_at.is_none()) {
        if let Some(found) = known.name.numbers_in(job)
            && found != known.numbers
            && known.suspended.is_none()
            && token.issued_at >= known.bound_at
        {
            tracing::warn!(
                %cache, issuer = of.issuer, name = %known.name, was = %known.numbers, %found,
                "a name stands for something else now and is trusted no longer: see `larderd rules`"
            );
            service.metadata.suspend_name(of, &known.name, found, now).await?;
            known.suspended = Some(Suspension { at: now, found });
        }
    }
    Ok(bound)
}

/// Records a refusal. That an issuer does not answer is none.
fn on_record(service: &Service, cache: Option<&CacheName>, who: Who, refusal: &ApiError) {
    if let Some(event) = Event::of_refusal(refusal) {
        service.audit.record(Entry { cache: cache.cloned(), who, event });
    }
}

/// `DELETE /api/v1/token`
///
/// # Errors
/// 401 without a session, 403 if it is a person's token.
pub async fn revoke_session(
    State(service): State<Arc<Service>>,
    client: Client,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let record = |refusal: &ApiError| on_record(&service, None, Who::default().at(client), refusal);
    service.paces.push_from(client, service.clock.now()).inspect_err(record)?;
    let (token, grant) = authenticate(&service, &headers).await.inspect_err(record)?;
    if let GrantedTo::Person { name, .. } = grant.identity {
        return Err(ApiError::denied(format!(
            "{name:?} is a person's token. Whoever runs the service ends it by `larderd token revoke {name}`"
        )));
    }
    service.metadata.end_session(token.hash()).await?;
    Ok(StatusCode::NO_CONTENT)
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
