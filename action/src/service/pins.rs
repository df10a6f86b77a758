//! Pins, as their owner sees them.

use http::Method;
use larder_protocol::api::{PinName, PinRequest, Pins};

use super::{
    ANSWER, Service,
    body::Parts,
    error::ServiceError,
    request::{Content, Outgoing},
};

impl Service<'_> {
    /// Has a path kept under a name.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn pin(&self, name: &PinName, pin: &PinRequest) -> Result<(), ServiceError> {
        let json = serde_json::to_vec(pin).map_err(|error| ServiceError::Internal(error.to_string()))?;
        let mut request = self.about_pins("pinning the path", Method::PUT, &format!("/{name}")).await?;
        request.content = Some(Content::Json);
        request.body = Parts::of(vec![json.into()]);
        self.send(&request).await.map(drop)
    }

    /// What is pinned.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn pins(&self) -> Result<Pins, ServiceError> {
        self.ask(self.about_pins("listing the pins", Method::GET, "").await?).await
    }

    /// Removes all pins of a name.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn unpin(&self, name: &PinName) -> Result<(), ServiceError> {
        let request = self.about_pins("removing the pin", Method::DELETE, &format!("/{name}")).await?;
        self.send(&request).await.map(drop)
    }

    async fn about_pins(
        &self,
        what: &'static str,
        method: Method,
        rest: &str,
    ) -> Result<Outgoing, ServiceError> {
        // The exchange tells which cache it is.
        self.session.granted().await?;
        Ok(Outgoing::new(what, method, self.url(&format!("/pins{rest}")), ANSWER))
    }
}
