//! Prefetches, as whoever asked for them sees them.

use http::Method;
use larder_protocol::{
    StorePath,
    prefetch::{AskPrefetch, Prefetch},
};

use super::{
    ANSWER, Service,
    body::Parts,
    endpoint,
    error::ServiceError,
    request::{Content, Outgoing},
};

impl Service<'_> {
    /// Asks for a prefetch. Nobody waits for it here.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn prefetch(&self, paths: Vec<StorePath>) -> Result<Prefetch, ServiceError> {
        // The exchange tells which cache it is.
        self.session.granted().await?;
        let ask = AskPrefetch { cache: self.cache().clone(), paths };
        let json = serde_json::to_vec(&ask).map_err(|error| ServiceError::Internal(error.to_string()))?;
        let url = endpoint(&self.base, "api/v1/prefetches");
        let mut request = Outgoing::new("asking for the prefetch", Method::POST, url, ANSWER);
        request.content = Some(Content::Json);
        request.body = Parts::of(vec![json.into()]);
        self.ask(request).await
    }

    /// How a prefetch stands.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn prefetch_stands(&self, id: &str) -> Result<Prefetch, ServiceError> {
        let url = endpoint(&self.base, &format!("api/v1/prefetches/{id}"));
        self.ask(Outgoing::new("asking how the prefetch stands", Method::GET, url, ANSWER)).await
    }
}
