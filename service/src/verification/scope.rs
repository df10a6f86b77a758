//! What is to be verified.

use larder_protocol::StorePathHash;
use serde::{Deserialize, Serialize};

/// What is to be verified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Everything.
    All,
    /// So many percent of the objects and NARs, chosen at random, and all rows.
    Sample(f64),
    /// One path, in all caches that have it.
    Path(StorePathHash),
    /// One object, by its key.
    Object(String),
}

impl Scope {
    /// Whether this object or NAR is looked at, by a number that is as good as random.
    pub(super) fn takes(&self, random: [u8; 8]) -> bool {
        match self {
            Self::All => true,
            Self::Path(_) | Self::Object(_) => false,
            #[expect(clippy::cast_precision_loss, reason = "a part in 2^52 does not matter")]
            Self::Sample(percent) => {
                (u64::from_le_bytes(random) >> 12) as f64 / 2f64.powi(52) * 100.0 < *percent
            }
        }
    }
}
