//! Leading: what one of all replicas does, and no other meanwhile.

use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::{
    Metadata, MetadataError,
    database::{Apart, CONNECT_WITHIN},
    sql::within,
};

/// How often a replica that leads makes sure that it still does.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After so long without a word from it, the server takes a replica that leads for one that stands still.
const SILENT_FOR: &str = "60s";

/// A process that leads, as long as it holds this.
pub(crate) struct Lead(Option<PgConnection>);

impl Metadata {
    /// Begins to lead, unless another process does. With a file for a database there is no other.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn try_lead(&self) -> Result<Option<Lead>, MetadataError> {
        let Apart::Postgres(options) = &self.apart else { return Ok(Some(Lead(None))) };
        let options = options.clone().options([("idle_session_timeout", SILENT_FOR)]);
        let mut connection = within(Some(CONNECT_WITHIN), options.connect()).await?;
        // The lock ends with the connection. The number is Larder's own, beside that of whoever writes.
        let lock = sqlx::query_scalar("SELECT pg_try_advisory_lock(781076, hashtext(current_schema()))");
        let leads: bool = within(Some(CONNECT_WITHIN), lock.fetch_one(&mut connection)).await?;
        Ok(leads.then_some(Lead(Some(connection))))
    }
}

impl Lead {
    /// Waits until another process may lead, since the database is not to be reached any more.
    pub(crate) async fn lost(&mut self) {
        let Self(Some(connection)) = self else { return std::future::pending().await };
        while let Ok(Ok(())) = tokio::time::timeout(LOOK_EVERY, connection.ping()).await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
