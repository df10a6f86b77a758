//! A server that is about to take all rows of another database.

use crate::{
    config::DatabaseServer,
    metadata::{Lead, Metadata, MetadataError, MoveState, Moving},
};

/// A server cannot take rows. The text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It has rows of its own.
    #[error(
        "{0} is in use already: it holds pushes, tokens or pins. Name an empty database (createdb makes one), or empty this \
         one if it is to be replaced"
    )]
    InUse(String),
    /// A service runs on it.
    #[error("a larderd runs on {0}. Stop it first, with all of its replicas")]
    Served(String),
    /// Others are on their way.
    #[error(
        "the rows of {from} are on their way to {to}, by a `larderd migrate-store` that has not come to its end. Run that \
         again, or name another database"
    )]
    Arriving {
        /// From where.
        from: String,
        /// The server.
        to: String,
    },
    /// Somebody else may use it.
    #[error("{0} could not be reached for a while, and nothing was changed there. Try again")]
    Lost(String),
    /// It failed.
    #[error("{place}: {source}")]
    Metadata {
        /// The server.
        place: String,
        /// Why.
        source: MetadataError,
    },
}

/// A server that no service runs on. Where rows are on their way to it, it notes that first, so that none begins to.
pub(crate) struct Server {
    /// Its database.
    pub metadata: Metadata,
    lead: Lead,
    place: String,
}

impl Server {
    /// A server on which nobody has anything; or what an earlier attempt at this move left.
    pub(crate) async fn take(
        metadata: Metadata,
        server: &DatabaseServer,
        arriving: Option<&Moving>,
    ) -> Result<Self, ServerError> {
        let place = server.to_string();
        let failed = |source| ServerError::Metadata { place: place.clone(), source };
        match metadata.moving().await.map_err(failed)? {
            Some(Moving { id, state: MoveState::Arriving, .. })
                if arriving.is_some_and(|arriving| arriving.id == id) => {}
            Some(moving) => return Err(ServerError::Arriving { from: moving.place, to: place }),
            None if metadata.is_used().await.map_err(failed)? => return Err(ServerError::InUse(place)),
            None => {}
        }
        let Some(lead) = metadata.try_lead().await.map_err(failed)? else {
            return Err(ServerError::Served(place));
        };
        if let Some(arriving) = arriving {
            metadata.note_move(arriving).await.map_err(failed)?;
        }
        Ok(Self { metadata, lead, place })
    }

    /// Takes all rows of another database, in one transaction, and tells how many there are.
    pub(crate) async fn copy_from(
        &mut self,
        source: &Metadata,
        arriving: Option<&Moving>,
    ) -> Result<u64, ServerError> {
        let place = || self.place.clone();
        tokio::select! {
            copied = self.metadata.copy_from(source, arriving) => copied.map_err(|error| match error {
                MetadataError::InUse => ServerError::InUse(place()),
                source => ServerError::Metadata { place: place(), source },
            }),
            () = self.lead.lost() => Err(ServerError::Lost(place())),
        }
    }
}
