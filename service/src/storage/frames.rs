//! Reading the frames of a recipe in order, their holes filled: what verification decodes and readers are sent.

use std::ops::Range;

use bytes::BytesMut;
use larder_protocol::{StorePathHash, chunk::fill_holes};

use super::{Storage, StorageError};
use crate::metadata::StoredChunk;

/// A chunk of a recipe: where its frame lies, and what fills its holes.
pub type Ingredient = (StoredChunk, Box<[StorePathHash]>);

/// How many bytes are read at once, so that storage is asked seldom and memory stays small.
const READ_AHEAD: u64 = 1 << 20;

/// Parts of a recipe to be read at once.
pub fn batches(recipe: &[Ingredient]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (position, (chunk, _)) in recipe.iter().enumerate() {
        bytes += u64::from(chunk.frame_len);
        if bytes >= READ_AHEAD {
            batches.push(start..position + 1);
            (start, bytes) = (position + 1, 0);
        }
    }
    if start < recipe.len() {
        batches.push(start..recipe.len());
    }
    batches
}

impl Storage {
    /// Reads frames, one behind the other, with their holes filled.
    ///
    /// # Errors
    /// When an object is gone or too short, or the recipe does not fit its chunks.
    pub async fn read_frames(&self, recipe: &[Ingredient]) -> Result<BytesMut, StorageError> {
        let mut bytes = BytesMut::new();
        let mut rest = recipe;
        while let [(first, _), ..] = rest {
            let same = rest.iter().take_while(|(chunk, _)| chunk.object == first.object).count();
            let (here, later) = rest.split_at(same);
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for (chunk, _) in here {
                let end = chunk.frame_offset + u64::from(chunk.frame_len);
                match ranges.last_mut() {
                    Some(last) if last.end == chunk.frame_offset => last.end = end,
                    _ => ranges.push(chunk.frame_offset..end),
                }
            }
            for part in self.read(&first.object, &ranges).await? {
                if bytes.is_empty() {
                    bytes = part.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                } else {
                    bytes.extend_from_slice(&part);
                }
            }
            rest = later;
        }
        let mut at = 0;
        for (chunk, hashes) in recipe {
            let end = at + chunk.frame_len as usize;
            let frame =
                bytes.get_mut(at..end).ok_or_else(|| StorageError::Short(chunk.object.to_string()))?;
            fill_holes(frame, chunk.holes.iter().map(|hole| hole.frame_offset), hashes)
                .map_err(|_| StorageError::Unfilled(chunk.object.to_string()))?;
            at = end;
        }
        Ok(bytes)
    }
}
