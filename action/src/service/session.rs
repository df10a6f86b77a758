//! The session with a service: which token a request carries, and getting a new one before it ends.

use std::{sync::OnceLock, time::Duration};

use http::Method;
use larder_protocol::api::{CacheInfo, CacheName, Permission, TokenAnswer, TokenRequest};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};
use url::Url;

use super::{
    body::Parts,
    endpoint,
    error::{ServiceError, check_description, check_version},
    request::{Content, Failure, Line, Outgoing, Retries, send_once},
};
use crate::{credentials::Credentials, progress::Progress, secret::Secret};

/// How long an answer of the issuer or of the exchange may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long giving a token back may take.
const FAREWELL: Duration = Duration::from_secs(5);

pub(super) struct Session<'a> {
    credentials: Credentials,
    line: Line,
    issuer: Line,
    token_url: Url,
    description_url: Url,
    /// The origin of the URL that the user named: never what a server says.
    audience: String,
    cache: CacheName,
    progress: &'a dyn Progress,
    active: Mutex<Option<Active>>,
    granted: OnceLock<Granted>,
    /// What the grant must permit, if it must permit anything.
    needs: Option<Permission>,
}

/// What an exchange gave beside the token.
#[derive(Debug, Clone)]
pub struct Granted {
    /// The cache that the token is for: the one that was asked for, or a pull request's own beside it.
    pub cache: CacheInfo,
    /// What it permits there.
    pub permissions: Vec<Permission>,
}

/// A token and when to get another.
struct Active {
    token: Secret,
    renew: Instant,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        credentials: &Credentials,
        line: Line,
        base: &Url,
        cache: &CacheName,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            credentials: credentials.clone(),
            issuer: line.to_another(),
            line,
            token_url: endpoint(base, "api/v1/token"),
            description_url: endpoint(base, &format!("api/v1/caches/{cache}")),
            audience: base.origin().ascii_serialization(),
            cache: cache.clone(),
            progress,
            active: Mutex::new(None),
            granted: OnceLock::new(),
            needs: Some(Permission::Push),
        }
    }

    /// The same, of which something else than pushing must be permitted, or nothing in particular.
    pub(super) fn that_may(self, needs: Option<Permission>) -> Self {
        Self { needs, ..self }
    }

    /// The cache that requests are for.
    pub(super) fn cache(&self) -> &CacheName {
        self.granted.get().map_or(&self.cache, |granted| &granted.cache.name)
    }

    /// What the exchange gave; none for a token that needs no exchange.
    pub(super) async fn granted(&self) -> Result<Option<&Granted>, ServiceError> {
        self.token().await?;
        Ok(self.granted.get())
    }

    /// The token for the next request.
    pub(super) async fn token(&self) -> Result<Secret, ServiceError> {
        let (request_url, request_token) = match &self.credentials {
            Credentials::Static(token) => return Ok(token.clone()),
            Credentials::Job { request_url, request_token } => (request_url, request_token),
        };
        // Whoever comes meanwhile waits for the same token.
        let mut active = self.active.lock().await;
        if let Some(active) = active.as_ref().filter(|active| Instant::now() < active.renew) {
            return Ok(active.token.clone());
        }
        let mut retries = Retries::new("exchanging the job's ID token", &self.token_url, self.progress);
        loop {
            // An ID token is good for one exchange, so each try gets its own.
            match self.exchange(request_url, request_token).await {
                Ok(new) => return Ok(active.insert(new).token.clone()),
                Err(Failure::Passing { reason, after, .. }) => {
                    retries.wait(self.line.patience(), reason, after).await?
                }
                // What a page of this version answers is of this version.
                Err(Failure::Final(error @ ServiceError::Unreadable { .. })) => return Err(error),
                Err(Failure::Final(error) | Failure::Unauthorized(error)) => {
                    return Err(self.explain_to(None, error).await);
                }
            }
        }
    }

    /// Why a request failed that each version of the API has: the service may speak another one, of which every description
    /// of a cache tells.
    pub(super) async fn explain(&self, error: ServiceError) -> ServiceError {
        let token = match &self.credentials {
            Credentials::Static(token) => Some(token.clone()),
            Credentials::Job { .. } => self.active.lock().await.as_ref().map(|active| active.token.clone()),
        };
        self.explain_to(token.as_ref(), error).await
    }

    async fn explain_to(&self, token: Option<&Secret>, error: ServiceError) -> ServiceError {
        if !error.may_be_of_a_version() {
            return error;
        }
        let url = self.description_url.clone();
        let request = Outgoing::new("asking for the service's version", Method::GET, url, ANSWER);
        match send_once(&self.line, &request, token).await {
            Ok(description) => check_description(&description).err().unwrap_or(error),
            Err(_) => error,
        }
    }

    /// Whether another token can be had.
    pub(super) fn can_renew(&self) -> bool {
        matches!(self.credentials, Credentials::Job { .. })
    }

    /// Does not use `token` again.
    pub(super) async fn forget(&self, token: &Secret) {
        let mut active = self.active.lock().await;
        if active.as_ref().is_some_and(|active| active.token == *token) {
            *active = None;
        }
    }

    /// Gives the session token back.
    pub(super) async fn end(&self) {
        if let Some(active) = self.active.lock().await.take() {
            self.give_back(&active.token).await;
        }
    }

    async fn give_back(&self, token: &Secret) {
        let request = Outgoing::new("ending the session", Method::DELETE, self.token_url.clone(), FAREWELL);
        if send_once(&self.line, &request, Some(token)).await.is_err() {
            tracing::debug!("the session token could not be given back; it ends by itself");
        }
    }

    async fn exchange(&self, request_url: &Url, request_token: &Secret) -> Result<Active, Failure> {
        let id_token = self.id_token(request_url, request_token).await?;
        let asked = TokenRequest { id_token: id_token.expose().to_owned(), cache: self.cache.clone() };
        let json = serde_json::to_vec(&asked)
            .map_err(|error| Failure::Final(ServiceError::Internal(error.to_string())))?;
        let mut request =
            Outgoing::new("exchanging the job's ID token", Method::POST, self.token_url.clone(), ANSWER);
        request.content = Some(Content::Json);
        request.body = Parts::of(vec![json.into()]);
        let answer = send_once(&self.line, &request, None).await?;
        let answer: TokenAnswer = serde_json::from_slice(&answer).map_err(|error| {
            // serde_json's own words may quote the answer, and with it the token.
            Failure::Final(request.unreadable(&format!("at column {}", error.column())))
        })?;
        check_version(answer.cache.api).map_err(Failure::Final)?;
        let name = &answer.cache.name;
        let beside = name.isolation().is_some_and(|(parent, _)| parent == self.cache.as_str());
        if *name != self.cache && !beside {
            let reason = format!("it was asked for the cache {} and grants {name}", self.cache);
            return Err(Failure::Final(request.unreadable(&reason)));
        }
        let token = Secret::new(&answer.token);
        if let Some(needs) = self.needs.filter(|needs| !answer.permissions.contains(needs)) {
            self.give_back(&token).await;
            let cache = self.cache.to_string();
            return Err(Failure::Final(ServiceError::NotPermitted { needs, cache }));
        }
        // Whoever came first: it does not change within a job.
        let _ = self.granted.set(Granted { cache: answer.cache, permissions: answer.permissions });
        let lifetime = Duration::from_secs(answer.expires_in);
        Ok(Active { token, renew: Instant::now() + lifetime.mul_f64(0.8) })
    }

    async fn id_token(&self, request_url: &Url, request_token: &Secret) -> Result<Secret, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            value: Secret,
        }
        let mut url = request_url.clone();
        url.query_pairs_mut().append_pair("audience", &self.audience);
        let request = Outgoing::new("asking for an ID token", Method::GET, url, ANSWER);
        let answer =
            send_once(&self.issuer, &request, Some(request_token)).await.map_err(
                |failure| match failure {
                    Failure::Final(error) | Failure::Unauthorized(error) => {
                        let reason = match error {
                            ServiceError::Foreign { status, .. } | ServiceError::Refused { status, .. } => {
                                format!("the issuer answered {status}")
                            }
                            other => other.to_string(),
                        };
                        Failure::Final(ServiceError::IdToken(reason))
                    }
                    passing => passing,
                },
            )?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|_| {
            Failure::Final(ServiceError::IdToken("the issuer's answer has no `value`".to_owned()))
        })?;
        Ok(answer.value)
    }
}
