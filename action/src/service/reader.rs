//! What a cache tells whoever may read it.

use std::time::Duration;

use http::Method;
use larder_protocol::{
    StorePathHash,
    api::{CacheName, Permission},
    envelope::Envelope,
    provenance::Provenance,
};
use serde::de::DeserializeOwned;
use url::Url;

use super::{
    base_url, endpoint,
    error::ServiceError,
    request::{Line, Outgoing, send_until_answered},
    session::Session,
};
use crate::{credentials::Credentials, progress::Progress};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// A cache, as somebody reads it who shows a token or none.
pub struct CacheReader<'a> {
    line: Line,
    base: Url,
    cache: CacheName,
    session: Option<Session<'a>>,
    progress: &'a dyn Progress,
}

impl<'a> CacheReader<'a> {
    /// The cache of the service at `url`. Asks nothing yet.
    ///
    /// # Errors
    /// When `url` is not one that a token may be sent to.
    pub fn new(
        url: &Url,
        cache: &CacheName,
        credentials: Option<&Credentials>,
        progress: &'a dyn Progress,
    ) -> Result<Self, ServiceError> {
        let (base, line) = (base_url(url)?, Line::new()?);
        let session = credentials.map(|credentials| {
            Session::new(credentials, line.clone(), &base, cache, progress).that_may(Some(Permission::Read))
        });
        Ok(Self { line, base, cache: cache.clone(), session, progress })
    }

    /// Who brought a path.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn provenance(&self, path: StorePathHash) -> Result<Provenance, ServiceError> {
        self.ask("asking who brought the path", path, "").await
    }

    /// The same, under the cache's signature.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn statement(&self, path: StorePathHash) -> Result<Envelope, ServiceError> {
        self.ask("asking for a statement about the path", path, "/statement").await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        what: &'static str,
        path: StorePathHash,
        page: &str,
    ) -> Result<T, ServiceError> {
        let url = endpoint(&self.base, &format!("api/v1/caches/{}/paths/{path}{page}", self.cache));
        let request = Outgoing::new(what, Method::GET, url, ANSWER);
        let answer = send_until_answered(&self.line, &request, self.session.as_ref(), self.progress).await?;
        serde_json::from_slice(&answer).map_err(|error| request.unreadable(&error.to_string()))
    }
}
