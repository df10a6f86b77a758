//! Acting on a delivery once more, because a person says so.

use super::{
    DeliveryOutcome, StoredDelivery, events,
    payload::{About, Envelope},
};
use crate::{
    config::WebhookRule,
    metadata::{Metadata, MetadataError},
    queue::Enqueued,
};

/// Why a delivery cannot be acted on again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Nothing is kept of it.
    #[error("{guid} was ignored: nothing follows from the event {event:?}")]
    Ignored {
        /// Its name.
        guid: String,
        /// Its event.
        event: String,
    },
    /// What is kept cannot be read.
    #[error("what is kept of {0} cannot be read")]
    Unreadable(String),
    /// The configuration does not take such deliveries any more.
    #[error("no [[webhook]] rule in larder.toml names what {0} is about. Add it to one")]
    NoRule(String),
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Stores the jobs that follow from a delivery, as if it had just come. What became of each. Its signature was verified
/// when it came.
///
/// # Errors
/// When nothing can follow, or the database fails.
pub async fn replay(
    metadata: &Metadata,
    rules: &[WebhookRule],
    delivery: &StoredDelivery,
    now: i64,
) -> Result<Vec<Enqueued>, ReplayError> {
    let row = &delivery.row;
    let Some(payload) = &delivery.payload else {
        return Err(ReplayError::Ignored { guid: row.guid.clone(), event: row.event.clone() });
    };
    let unreadable = || ReplayError::Unreadable(row.guid.clone());
    let envelope: Envelope = serde_json::from_slice(payload).map_err(|_| unreadable())?;
    let mut about: About = envelope.about();
    // A repository that is called otherwise now: it was taken for what it was called.
    if about.key() != row.about
        && let Some(former) = events::former_name(payload).map(About::Repository)
    {
        about = former;
    }
    let rule = rules.iter().find(|rule| rule.speaks_for(&about));
    let rule = rule.ok_or_else(|| ReplayError::NoRule(row.guid.clone()))?;
    let (outcome, jobs) = events::decide(&row.event, &envelope, &about, rule, payload, row.received_at);
    if outcome == DeliveryOutcome::Unreadable {
        return Err(unreadable());
    }
    Ok(metadata.replay_delivery(&row.guid, &row.about, &jobs, now).await?)
}
