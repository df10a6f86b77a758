//! Reading the frames of a recipe in order, their holes filled: what verification decodes and readers are sent.

use std::{ops::Range, sync::Arc};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use larder_protocol::{StorePathHash, chunk::fill_holes};

use super::{Kind, Run, Storage, StorageError};
use crate::metadata::StoredChunk;

/// A chunk of a recipe: where its frame lies, and what fills its holes.
pub type Ingredient = (StoredChunk, Box<[StorePathHash]>);

/// How many bytes of files are read at once: few enough that they are still in the processor's cache when they are sent or
/// decoded, and that memory stays small.
const PIECE: u64 = 512 << 10;

/// Parts of a recipe of so many bytes, or little more, for which no more than so many objects are opened one after the other.
pub(super) fn batches(recipe: &[Ingredient], piece: u64, objects: usize) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let (mut bytes, mut opened, mut last) = (0, 0, None);
    for (position, (chunk, _)) in recipe.iter().enumerate() {
        let another = last != Some(&chunk.object);
        match batches.last_mut() {
            Some(batch) if bytes < piece && opened + usize::from(another) <= objects => {
                batch.end = position + 1
            }
            _ => {
                batches.push(position..position + 1);
                (bytes, opened) = (0, 0);
            }
        }
        bytes += u64::from(chunk.frame_len);
        opened += usize::from(another);
        last = Some(&chunk.object);
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

/// Frames of a recipe, one behind the other.
pub struct Piece {
    /// Which of the recipe's they are.
    pub frames: Range<usize>,
    /// Their bytes, with the holes filled.
    pub bytes: Result<Vec<u8>, StorageError>,
}

/// Where frames lie, those as one that lie one behind the other.
pub(super) fn runs(recipe: &[Ingredient]) -> Vec<Run> {
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
    runs
}

/// Fills the holes of frames.
pub(super) fn fill(recipe: &[Ingredient], bytes: &mut [u8]) -> Result<(), StorageError> {
    let mut rest = bytes;
    for (chunk, hashes) in recipe {
        let (frame, later) = rest
            .split_at_mut_checked(chunk.frame_len as usize)
            .ok_or_else(|| StorageError::Short(chunk.object.to_string()))?;
        fill_holes(frame, chunk.holes.iter().map(|hole| hole.frame_offset), hashes)
            .map_err(|_| StorageError::Unfilled(chunk.object.to_string()))?;
        rest = later;
    }
    Ok(())
}

impl Storage {
    /// Reads all frames of a recipe, a piece after the other, the next ones while the last is used. Where a piece cannot be
    /// read, those behind it perhaps can.
    pub fn stream(&self, recipe: Arc<[Ingredient]>) -> BoxStream<'static, Piece> {
        let storage = self.clone();
        match &self.kind {
            // One is read while the one before is used.
            Kind::Files(_) => stream::iter(batches(&recipe, PIECE, usize::MAX))
                .map(move |frames| storage.clone().piece(recipe.clone(), frames))
                .buffered(2)
                .boxed(),
            Kind::Bucket(bucket) => bucket.clone().stream(storage, recipe),
        }
    }

    pub(super) async fn piece(self, recipe: Arc<[Ingredient]>, frames: Range<usize>) -> Piece {
        let bytes = self.read_frames(&recipe[frames.clone()]).await;
        Piece { frames, bytes }
    }

    /// Reads frames at once, one behind the other, with their holes filled.
    ///
    /// # Errors
    /// When an object is gone or too short, or the recipe does not fit its chunks.
    pub async fn read_frames(&self, recipe: &[Ingredient]) -> Result<Vec<u8>, StorageError> {
        let mut bytes = self.read(runs(recipe)).await?;
        fill(recipe, &mut bytes)?;
        Ok(bytes)
    }
}
