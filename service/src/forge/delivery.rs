//! A delivery: one webhook, as received.

use bytes::Bytes;
use serde::Serialize;

use crate::queue::NewJob;

/// A delivery that is to be stored.
#[derive(Debug)]
pub(crate) struct NewDelivery {
    /// The name that the forge gave it.
    pub guid: String,
    /// `owner/name`, an owner, or nothing; in lower case.
    pub about: String,
    /// The event.
    pub event: String,
    /// What happened, where the event says so.
    pub action: Option<String>,
    /// What becomes of it.
    pub outcome: DeliveryOutcome,
    /// The headers that matter, as JSON.
    pub headers: String,
    /// The body, unless it is ignored.
    pub payload: Option<Bytes>,
    /// What follows from it.
    pub jobs: Vec<NewJob>,
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryOutcome {
    /// The event is one from which something may follow.
    Taken,
    /// It is not. Of such a delivery there is no payload.
    Ignored,
    /// It is, but what matters of its payload is not there.
    Unreadable,
}

impl DeliveryOutcome {
    /// As the database has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Ignored => "ignored",
            Self::Unreadable => "unreadable",
        }
    }

    pub(crate) fn of(text: &str) -> Option<Self> {
        [Self::Taken, Self::Ignored, Self::Unreadable].into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// A delivery as a list shows it.
#[derive(Debug, Clone, Serialize)]
pub struct DeliveryRow {
    /// The name that the forge gave it.
    pub guid: String,
    /// `owner/name`, an owner, or nothing; in lower case.
    pub about: String,
    /// The event.
    pub event: String,
    /// What happened, where the event says so.
    pub action: Option<String>,
    /// What became of it.
    pub outcome: DeliveryOutcome,
    /// When it was received, in seconds since 1970.
    pub received_at: i64,
    /// When somebody had it acted on again.
    pub replayed_at: Option<i64>,
    /// The length of its payload.
    pub bytes: u64,
}

/// All that is kept of a delivery.
#[derive(Debug, Clone)]
pub struct StoredDelivery {
    /// As a list shows it.
    pub row: DeliveryRow,
    /// The headers that matter, as JSON.
    pub headers: String,
    /// The body, unless it was ignored.
    pub payload: Option<Vec<u8>>,
}

/// How many deliveries there are of one event.
#[derive(Debug, Clone, Serialize)]
pub struct DeliveryCount {
    /// The event.
    pub event: String,
    /// What became of them.
    pub outcome: DeliveryOutcome,
    /// How many.
    pub count: u64,
}
