//! Reading the frames of a recipe in order, their holes filled: what verification decodes and readers are sent.

use std::ops::Range;

use larder_protocol::{StorePathHash, chunk::fill_holes};

use super::{Kind, Run, Storage, StorageError, bucket};
use crate::metadata::StoredChunk;

/// A chunk of a recipe: where its frame lies, and what fills its holes.
pub type Ingredient = (StoredChunk, Box<[StorePathHash]>);

/// How many bytes of files are read at once: few enough that they are still in the processor's cache when they are sent or
/// decoded, and that memory stays small.
const PIECE: u64 = 512 << 10;

/// Parts of a recipe of so many bytes, or little more.
fn batches(recipe: &[Ingredient], piece: u64) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (position, (chunk, _)) in recipe.iter().enumerate() {
        bytes += u64::from(chunk.frame_len);
        if bytes >= piece {
            batches.push(start..position + 1);
            (start, bytes) = (position + 1, 0);
        }
    }
    if start < recipe.len() {
        batches.push(start..recipe.len());
    }
    batches
}

/// Whether these are the same frames, of which some lie elsewhere now.
pub fn have_moved(before: &[Ingredient], now: &[Ingredient]) -> bool {
    let pairs = || before.iter().zip(now).map(|((before, _), (now, _))| (before, now));
    before.len() == now.len()
        && pairs().all(|(before, now)| before.id == now.id && before.frame_len == now.frame_len)
        && pairs().any(|(before, now)| before.object != now.object || before.frame_offset != now.frame_offset)
}

impl Storage {
    /// Parts of a recipe to be read at once.
    pub fn batches(&self, recipe: &[Ingredient]) -> Vec<Range<usize>> {
        match self.kind {
            Kind::Files(_) => batches(recipe, PIECE),
            Kind::Bucket(_) => batches(recipe, bucket::PIECE),
        }
    }

    /// How many of them are read at once, each with the ones before it under way.
    pub fn read_ahead(&self) -> usize {
        match self.kind {
            // One is read while the one before is sent.
            Kind::Files(_) => 2,
            Kind::Bucket(_) => bucket::READ_AHEAD,
        }
    }

    /// Reads frames, one behind the other, with their holes filled.
    ///
    /// # Errors
    /// When an object is gone or too short, or the recipe does not fit its chunks.
    pub async fn read_frames(&self, recipe: &[Ingredient]) -> Result<Vec<u8>, StorageError> {
        let mut runs: Vec<Run> = Vec::new();
        for (chunk, _) in recipe {
            let end = chunk.frame_offset + u64::from(chunk.frame_len);
            match runs.last_mut() {
                Some(Run { object, range }) if *object == chunk.object && range.end == chunk.frame_offset => {
                    range.end = end;
                }
                _ => runs.push(Run { object: chunk.object.clone(), range: chunk.frame_offset..end }),
            }
        }
        let mut bytes = self.read(runs).await?;
        let mut rest = &mut bytes[..];
        for (chunk, hashes) in recipe {
            let (frame, later) = rest
                .split_at_mut_checked(chunk.frame_len as usize)
                .ok_or_else(|| StorageError::Short(chunk.object.to_string()))?;
            fill_holes(frame, chunk.holes.iter().map(|hole| hole.frame_offset), hashes)
                .map_err(|_| StorageError::Unfilled(chunk.object.to_string()))?;
            rest = later;
        }
        Ok(bytes)
    }
}
