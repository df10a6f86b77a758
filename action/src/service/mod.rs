//! The service, as its client sees it: the requests of `larder_protocol::api`, each made again until it
//! succeeds, is refused, or patience ends.

mod body;
mod error;
mod pins;
mod prefetches;
mod reader;
mod request;
mod session;

use std::time::Duration;

pub use body::Parts;
use bytes::Bytes;
pub use error::ServiceError;
pub(crate) use error::check_description;
use http::Method;
use larder_protocol::{
    ChunkId,
    api::{
        self, CacheInfo, CacheName, CommittedPush, OpenPush, OpenedPush, Permission, PushId, RecipesAnswer,
        UploadAnswer,
    },
    manifest::ReportManifest,
    recipe::{self, Recipe},
};
pub use reader::CacheReader;
use request::{Content, Line, Outgoing};
use serde::de::DeserializeOwned;
pub use session::Granted;
use session::Session;
use url::{Host, Url};

use crate::{credentials::Credentials, progress::Progress, secret::Secret};

/// How long a service may think about a request, beside what grows with it.
const ANSWER: Duration = Duration::from_secs(60);
/// How many bytes of NARs a service verifies in a second, at the very least.
const VERIFIED_PER_SECOND: u64 = 10 << 20;
/// How many paths a service takes in or publishes in a second, at the very least.
const PATHS_PER_SECOND: u64 = 500;

/// A service's cache, and the session with it.
pub struct Service<'a> {
    line: Line,
    base: Url,
    session: Session<'a>,
    progress: &'a dyn Progress,
}

impl<'a> Service<'a> {
    /// The cache of the service at `url`. Asks nothing yet.
    ///
    /// # Errors
    /// When `url` is not one that a token may be sent to.
    pub fn new(
        url: &Url,
        cache: &CacheName,
        credentials: &Credentials,
        progress: &'a dyn Progress,
    ) -> Result<Self, ServiceError> {
        let base = base_url(url)?;
        let line = Line::new()?;
        let session = Session::new(credentials, line.clone(), &base, cache, progress);
        Ok(Self { line, base, session, progress })
    }

    /// The same, for whoever has to be permitted something else than to push.
    #[must_use]
    pub fn that_may(mut self, permission: Permission) -> Self {
        self.session = self.session.that_may(Some(permission));
        self
    }

    /// The same, for whoever takes what is granted.
    #[must_use]
    pub fn with_any_grant(mut self) -> Self {
        self.session = self.session.that_may(None);
        self
    }

    /// What the exchange gave; none for a token that needs no exchange.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn granted(&self) -> Result<Option<&Granted>, ServiceError> {
        self.session.granted().await
    }

    /// The token that the next request is to carry, for whoever makes requests of their own. A job's is another before
    /// it ends.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn token(&self) -> Result<Secret, ServiceError> {
        self.session.token().await
    }

    /// What readers and clients must know of the cache.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn cache_info(&self) -> Result<CacheInfo, ServiceError> {
        if let Some(granted) = self.session.granted().await? {
            return Ok(granted.cache.clone());
        }
        self.ask(Outgoing::new("asking what the cache is", Method::GET, self.url(""), ANSWER)).await
    }

    /// The cache that is pushed to. Where a pull request has one of its own, that is known once the push is opened.
    pub fn cache(&self) -> &CacheName {
        self.session.cache()
    }

    /// Opens a push.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn open_push(&self, open: OpenPush) -> Result<OpenedPush, ServiceError> {
        let paths = open.paths.len() as u64;
        // Megabytes for a large closure.
        let json = tokio::task::spawn_blocking(move || serde_json::to_vec(&open)).await;
        let json =
            json.map_err(|error| error.to_string()).and_then(|json| json.map_err(|error| error.to_string()));
        let json = json.map_err(ServiceError::Internal)?;
        // The exchange tells which cache it is.
        self.session.granted().await?;
        let mut request = Outgoing::new(
            "opening the push",
            Method::POST,
            self.url("/pushes"),
            ANSWER + Duration::from_secs(paths / PATHS_PER_SECOND),
        );
        request.content = Some(Content::Json);
        request.body = Parts::of(vec![json.into()]);
        match self.ask(request).await {
            Err(error) => Err(self.session.explain(error).await),
            opened => opened,
        }
    }

    /// Which of these chunks the service lacks, in their order.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn missing_chunks(&self, push: PushId, chunks: &[ChunkId]) -> Result<Vec<bool>, ServiceError> {
        let mut names = Vec::with_capacity(chunks.len() * 32);
        for chunk in chunks {
            names.extend_from_slice(&chunk.0);
        }
        let mut request = Outgoing::new(
            "asking which chunks are missing",
            Method::POST,
            self.push_url(push, "missing-chunks"),
            ANSWER,
        );
        request.content = Some(Content::Bytes);
        request.body = Parts::of(vec![names.into()]);
        let bits = self.send(&request).await?;
        (0..chunks.len())
            .map(|position| api::is_missing(&bits, position))
            .collect::<Option<Vec<bool>>>()
            .ok_or_else(|| request.unreadable("it is too short"))
    }

    /// Sends frames; when it returns, they are durable.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn upload(&self, push: PushId, body: Parts) -> Result<UploadAnswer, ServiceError> {
        let mut request =
            Outgoing::new("uploading chunks", Method::POST, self.push_url(push, "frames"), ANSWER);
        request.content = Some(Content::Bytes);
        // The index, and a frame or more.
        request.divisible = body.parts().len() > 2;
        request.body = body;
        self.ask(request).await
    }

    /// Sends recipes, and has the service verify their NARs.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn send_recipes(
        &self,
        push: PushId,
        recipes: Vec<Recipe>,
    ) -> Result<RecipesAnswer, ServiceError> {
        let bytes: u64 = recipes.iter().map(|recipe| recipe.nar_size).sum();
        let encoded = tokio::task::spawn_blocking(move || recipe::encode(&recipes)).await;
        let encoded = encoded.map_err(|error| ServiceError::Internal(error.to_string()))?;
        let mut request = Outgoing::new(
            "verifying what was sent",
            Method::POST,
            self.push_url(push, "recipes"),
            ANSWER + Duration::from_secs(bytes / VERIFIED_PER_SECOND),
        );
        request.content = Some(Content::Bytes);
        request.body = Parts::of(vec![encoded.into()]);
        self.ask(request).await
    }

    /// Publishes the push.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn commit(&self, push: PushId, paths: usize) -> Result<CommittedPush, ServiceError> {
        let limit = ANSWER + Duration::from_secs(paths as u64 / PATHS_PER_SECOND);
        self.ask(Outgoing::new("publishing the push", Method::POST, self.push_url(push, "commit"), limit))
            .await
    }

    /// Says what the job wanted.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn report_manifest(&self, manifest: &ReportManifest) -> Result<(), ServiceError> {
        let json = serde_json::to_vec(manifest).map_err(|error| ServiceError::Internal(error.to_string()))?;
        let url = self.url("/manifests");
        let mut request = Outgoing::new("reporting what the job wanted", Method::POST, url, ANSWER);
        request.content = Some(Content::Json);
        request.body = Parts::of(vec![json.into()]);
        self.send(&request).await.map(drop)
    }

    /// Gives the session token back, if there is one: nobody needs it any more. Failing is no matter, since
    /// it ends by itself.
    pub async fn end_session(&self) {
        self.session.end().await;
    }

    async fn ask<T: DeserializeOwned>(&self, request: Outgoing) -> Result<T, ServiceError> {
        let answer = self.send(&request).await?;
        serde_json::from_slice(&answer).map_err(|error| request.unreadable(&error.to_string()))
    }

    async fn send(&self, request: &Outgoing) -> Result<Bytes, ServiceError> {
        request::send_until_answered(&self.line, request, Some(&self.session), self.progress).await
    }

    fn url(&self, rest: &str) -> Url {
        endpoint(&self.base, &format!("api/v1/caches/{}{rest}", self.cache()))
    }

    fn push_url(&self, push: PushId, step: &str) -> Url {
        self.url(&format!("/pushes/{push}/{step}"))
    }
}

/// Checks that a token may go to `url`, and makes it one to which more can be joined.
fn base_url(url: &Url) -> Result<Url, ServiceError> {
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if !(url.scheme() == "https" || url.scheme() == "http" && loopback) {
        return Err(ServiceError::Insecure(shown(url)));
    }
    let mut base = url.clone();
    base.set_query(None);
    base.set_fragment(None);
    // Userinfo would end in logs; a token goes by LARDER_TOKEN.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ServiceError::UserInfo);
    }
    if !base.path().ends_with('/') {
        let path = format!("{}/", base.path());
        base.set_path(&path);
    }
    Ok(base)
}

/// What of a URL may be shown: no user, no password, no query.
fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

fn endpoint(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path()));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(url: &str) -> Result<String, ServiceError> {
        base_url(&url.parse().unwrap()).map(String::from)
    }

    #[test]
    fn sends_tokens_by_https_or_loopback_alone() {
        for url in
            ["https://cache.example.org", "http://127.0.0.1:8080", "http://localhost", "http://[::1]:1"]
        {
            assert!(base(url).is_ok(), "{url}");
        }
        for url in
            ["http://cache.example.org", "http://10.0.0.1", "ftp://localhost", "http://localhost.example"]
        {
            assert!(matches!(base(url), Err(ServiceError::Insecure(_))), "{url}");
        }
        assert!(matches!(base("https://me:secret@cache.example.org"), Err(ServiceError::UserInfo)));
    }

    #[test]
    fn keeps_a_path_prefix() {
        let base = base_url(&"https://example.org/larder?x=1".parse().unwrap()).unwrap();
        assert_eq!(endpoint(&base, "api/v1/token").as_str(), "https://example.org/larder/api/v1/token");
    }
}
