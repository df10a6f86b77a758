//! Deleting, in transactions of at most a thousand rows. Each does a whole step: killed between any two, the service
//! leaves what is consistent and what the next sweep finds.
//!
//! | what goes | when | what decides against whoever wants it |
//! |---|---|---|
//! | a path | dead, and no claim is open | the lock: see `claims`; `leases` and `claimed_paths` are foreign keys |
//! | a NAR | no path names it; first it is incomplete, so that nobody finds it | `paths.nar`; it is looked for where the path is written |
//! | a chunk | no recipe names it; first it is condemned | `nar_chunks.chunk`; and pushes open when it was condemned have ended |
//! | an object | nothing lies in it; first it is doomed, then its file goes, then its row | `chunks.object`, `nars.recipe_object`, which nobody adds to a doomed one |
//! | a push | silent for too long; then it is none that rows can be added to | its row, which each transaction of a push looks at |

mod chunks;
mod nars;
mod objects;
mod paths;
mod pushes;

use larder_protocol::StorePathHash;

use super::MetadataError;
use super::sql::{QueryBuilder, Transaction};

/// How many rows one transaction may delete.
const ROWS: i64 = 1000;

/// A push that rows can be added to.
pub(super) const OPEN: &str = "state = 'open' AND abandoned_at IS NULL";

/// What came of deleting paths.
#[derive(Debug)]
pub enum Deleted {
    /// They are gone but those that something leases: their hashes, and the rows that stay.
    Gone(Vec<StorePathHash>, Vec<i64>),
    /// Nothing was deleted: these were claimed meanwhile.
    Claimed(Vec<i64>),
}

/// How many rows went, and what they stood for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Rows.
    pub rows: u64,
    /// Bytes in storage.
    pub bytes: u64,
}

/// Makes sure that rows may be added to a push.
pub(super) async fn hold_open(transaction: &mut Transaction, push: i64) -> Result<(), MetadataError> {
    let mut query = QueryBuilder::new("SELECT 1 FROM pushes WHERE id = ");
    query.push_bind(push).push(" AND ").push(OPEN);
    let open: Option<i64> = query.build_query_scalar().fetch_optional(&mut *transaction).await?;
    open.map(drop).ok_or(MetadataError::Gone)
}
