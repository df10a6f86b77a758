//! Compaction: the live frames of objects that are mostly dead, and those of many small ones, are copied into new objects,
//! byte for byte, and the old ones are doomed. Small objects of recipes are merged likewise.
//!
//! In this order, so that whatever ends it leaves nothing lost, and nothing that a sweep does not find:
//!
//! 1. the new object's row is committed; killed from here on, it is a row in which nothing lies, and the next sweep dooms it
//! 2. its bytes are written and synced
//! 3. the rows of what lies in it follow, some at a time, where they still lie where they were copied from; killed between,
//!    both objects are in use, each for a part
//! 4. what nothing lies in any more is doomed: readers who know it have an hour, and then look its frames up again
//!
//! It is a part of each sweep, under the sweep's lock and at its pace.

mod choose;
mod frames;
mod recipes;

use super::{budget::room, pace::Pace, report::CompactionReport};
use crate::{
    Service,
    metadata::{Holding, Metadata, MetadataError, ObjectId, UsedObject},
    random::random_hex,
    storage::StorageError,
};
use choose::{FRAMES, Group, RECIPES, choose, is_worth_a_look};

/// A sweep copies at most this part of what is stored,
const PART: u64 = 16;
/// or so much,
const AT_LEAST: u64 = 256 << 20;
/// and never more than this part of what the disk has left: what is replaced takes its place for another hour.
const OF_FREE: u64 = 4;
/// It chooses among so many objects at most.
const OBJECTS: usize = 100_000;

/// Storage or the database failed.
#[derive(Debug, thiserror::Error)]
enum CompactionError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// What is there cannot be read: its object stays as it is.
    #[error(transparent)]
    Reading(StorageError),
    /// Nothing can be written now.
    #[error(transparent)]
    Writing(StorageError),
    #[error("the system gives no random numbers")]
    NoRandomNumbers,
}

/// Compacts what is worth it.
pub(super) async fn compact(service: &Service, pace: &mut Pace) -> Result<CompactionReport, MetadataError> {
    let mut report = CompactionReport::default();
    for holding in [Holding::Frames, Holding::Recipes] {
        let free = room(service).map(|room| room.available);
        for group in groups(&service.metadata, holding, free, pace).await? {
            let rewritten = match holding {
                Holding::Frames => frames::rewrite(service, &group, pace).await,
                Holding::Recipes => recipes::rewrite(service, &group, pace).await,
            };
            match rewritten {
                Ok(written) => report.add(written),
                Err(CompactionError::Metadata(error)) if !error.is_gone() => return Err(error),
                // Most likely the disk is full: what was doomed before gives space back within an hour.
                Err(error) => {
                    tracing::warn!(%error, "compaction stopped; the next sweep goes on");
                    return Ok(report);
                }
            }
            let objects: Vec<i64> = group.objects.iter().map(|object| object.0).collect();
            let doomed = service.metadata.doom_objects(&objects, service.clock.now()).await?;
            report.replaced += doomed.rows;
            report.replaced_bytes += doomed.bytes;
            pace.rest().await;
        }
    }
    Ok(report)
}

/// What the next compaction would copy. Changes nothing.
///
/// # Errors
/// When the database fails.
pub async fn plan_compaction(metadata: &Metadata) -> Result<CompactionReport, MetadataError> {
    let mut report = CompactionReport::default();
    for holding in [Holding::Frames, Holding::Recipes] {
        for group in groups(metadata, holding, None, &mut Pace::begin()).await? {
            report.replaced += group.objects.len() as u64;
            report.replaced_bytes += group.size;
            report.written += 1;
            report.written_bytes += group.live;
        }
    }
    Ok(report)
}

async fn groups(
    metadata: &Metadata,
    holding: Holding,
    free: Option<u64>,
    pace: &mut Pace,
) -> Result<Vec<Group>, MetadataError> {
    let sizes = match holding {
        Holding::Frames => FRAMES,
        Holding::Recipes => RECIPES,
    };
    let mut worth: Vec<UsedObject> = Vec::new();
    let mut after = ObjectId(0);
    while worth.len() < OBJECTS {
        let objects = metadata.used_objects(holding, after).await?;
        let Some(last) = objects.last() else { break };
        after = last.id;
        worth.extend(objects.into_iter().filter(|object| is_worth_a_look(object, sizes)));
        pace.rest().await;
    }
    let stored = metadata.object_bytes().await?;
    let most = (stored / PART).max(AT_LEAST);
    Ok(choose(&worth, sizes, free.map_or(most, |free| most.min(free / OF_FREE))))
}

/// A name for a new object.
fn new_key(folder: &str, group: &Group) -> Result<String, CompactionError> {
    let name = random_hex().map_err(|_| CompactionError::NoRandomNumbers)?;
    Ok(format!("{folder}/{}/{name}", group.namespace.folder()))
}
