//! Objects of frames: each frame by itself, and the index that tells where they are.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use larder_protocol::{ChunkId, upload::FrameEntry};
use object_store::PutPayload;

use super::{Counts, Outcome, VerifyError, withdraw::Verifier};
use crate::{
    metadata::{FrameRow, MovedFrame, ObjectRow},
    random::random_hex,
    storage::{IndexedFrame, Run},
};

/// How many bytes of frames are read and checked at once.
const PIECE: u64 = 1 << 20;
/// More than a frame ever has.
const LONGEST: u64 = 4 << 20;
/// So many pieces at a time: as many as most machines that run a cache have cores.
const PARALLEL: usize = 2;
/// How often a frame is looked for again that was moved while it was read.
const TRIES: usize = 5;

impl Verifier<'_> {
    /// Verifies an object of frames.
    pub async fn object(&self, object: &ObjectRow) -> Result<(), VerifyError> {
        let frames = self.service.metadata.frames_of(object.id).await?;
        if frames.is_empty() {
            // Nothing in it is needed: sweeps take it.
            return Ok(());
        }
        let size = self.storage.size(&object.key).await?;
        let index = match size {
            Some(size) => match self.storage.index(&object.key, size).await {
                Err(error) if !error.is_lost() => return Err(error.into()),
                Err(error) => Err(error.to_string()),
                Ok(index) => index.map_err(str::to_owned),
            },
            None => Err("it is not there".to_owned()),
        };
        self.frames(&frames).await?;
        self.report().objects += 1;
        let Some(size) = size else { return Ok(()) };
        self.index(object, &index).await?;
        if size != object.size && index.is_ok() {
            self.service.metadata.correct_object(object.id, size).await?;
            let problem = format!("its row says {} bytes, it has {size}", object.size);
            self.find("object", &object.key, problem, Outcome::Mended);
        }
        Ok(())
    }

    /// Checks frames where their rows say that they lie, and withdraws or corrects what is wrong. Tells how many chunks
    /// were withdrawn.
    pub async fn frames(&self, frames: &[FrameRow]) -> Result<u64, VerifyError> {
        let checks: Vec<_> = pieces(frames).into_iter().map(|piece| self.check(piece).boxed()).collect();
        let mut checks = stream::iter(checks).buffer_unordered(PARALLEL);
        let mut withdrawn = 0;
        while let Some(bad) = checks.try_next().await? {
            for (frame, problem) in bad {
                withdrawn += u64::from(self.mend(frame, problem).await?);
            }
        }
        Ok(withdrawn)
    }

    /// Those of some frames, which lie close together, that are not what they should be.
    async fn check(&self, frames: &[FrameRow]) -> Result<Vec<(FrameRow, String)>, VerifyError> {
        let Some(first) = frames.first() else { return Ok(Vec::new()) };
        let start = first.chunk.frame_offset;
        let end = frames.iter().map(end_of).max().unwrap_or(start);
        if end.saturating_sub(start) > LONGEST {
            return Ok(vec![(first.clone(), "its row says a length that no frame has".to_owned())]);
        }
        let whole = self.storage.read(vec![Run { object: first.chunk.object.clone(), range: start..end }]);
        let bytes = match whole.await {
            Ok(bytes) => bytes,
            Err(error) if !error.is_lost() => return Err(error.into()),
            Err(_) if frames.len() > 1 => {
                // Some of them may be readable.
                let mut bad = Vec::new();
                for frame in frames {
                    bad.extend(Box::pin(self.check(std::slice::from_ref(frame))).await?);
                }
                return Ok(bad);
            }
            Err(error) => {
                self.hold_storage().await?;
                return Ok(vec![(first.clone(), error.to_string())]);
            }
        };
        self.read(bytes.len() as u64);
        self.report().frames += frames.len() as u64;
        Counts::add(&self.service.verification.counts.frames, frames.len() as u64);
        let entries: Vec<(FrameEntry, usize)> = frames
            .iter()
            .map(|frame| {
                (frame.entry(), usize::try_from(frame.chunk.frame_offset - start).unwrap_or(usize::MAX))
            })
            .collect();
        let checked = self.service.workshop.work(move |decoder| {
            let check = |(entry, at): &(FrameEntry, usize)| {
                let frame = bytes.get(*at..at.saturating_add(entry.frame_len as usize));
                let frame = frame.ok_or_else(|| "it lies outside its object".to_owned())?;
                decoder.check(entry, frame).map_err(|error| error.to_string())
            };
            entries.iter().map(check).collect::<Vec<Result<(), String>>>()
        });
        let checked = checked.await.map_err(|_| VerifyError::Panicked)?;
        let bad =
            frames.iter().zip(checked).filter_map(|(frame, result)| Some((frame.clone(), result.err()?)));
        Ok(bad.collect())
    }

    /// What becomes of a frame that is not what it should be. Tells whether its chunk was withdrawn.
    async fn mend(&self, mut frame: FrameRow, mut problem: String) -> Result<bool, VerifyError> {
        for _ in 0..TRIES {
            // What was moved while it was read is where its row says now.
            let now = self.service.metadata.frames_by_row(&[frame.chunk.id]).await?;
            let Some(now) = now.into_iter().next() else { return Ok(false) };
            if !now.is_at(&frame) {
                match self.check(std::slice::from_ref(&now)).await?.pop() {
                    None => return Ok(false),
                    Some((row, why)) => (frame, problem) = (row, why),
                }
                continue;
            }
            for (entry, offset) in &self.index_of(&frame).await {
                if entry.id != frame.name && *offset != frame.chunk.frame_offset {
                    continue;
                }
                let mut as_indexed = frame.clone();
                as_indexed.name = entry.id;
                as_indexed.chunk.frame_offset = *offset;
                as_indexed.chunk.frame_len = entry.frame_len;
                as_indexed.chunk.content_len = entry.content_len;
                as_indexed.chunk.holes = entry.holes.clone().into();
                if as_indexed.is_at(&frame) || !self.check(&[as_indexed]).await?.is_empty() {
                    continue;
                }
                if self.service.metadata.correct_frame(&frame, entry, *offset).await? {
                    let name = format!("{} in {}", entry.id, frame.chunk.object);
                    self.find("chunk", name, "its row was not what its object's index says", Outcome::Mended);
                    return Ok(false);
                }
            }
            self.withdraw_chunk(&frame, &problem).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// The index of the object that a frame lies in, if that can be read.
    async fn index_of(&self, frame: &FrameRow) -> Vec<IndexedFrame> {
        let (storage, key) = (&self.storage, &frame.chunk.object);
        let Ok(Some(size)) = storage.size(key).await else { return Vec::new() };
        storage.index(key, size).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Compares an object's index with the rows, and writes the object anew where they differ.
    async fn index(
        &self,
        object: &ObjectRow,
        index: &Result<Vec<IndexedFrame>, String>,
    ) -> Result<(), VerifyError> {
        // As they are by now: some may have been corrected, withdrawn or moved.
        let frames = self.service.metadata.frames_of(object.id).await?;
        if frames.is_empty() {
            return Ok(());
        }
        let problem = match index {
            Ok(index) => {
                let places: HashMap<ChunkId, &IndexedFrame> =
                    index.iter().map(|indexed| (indexed.0.id, indexed)).collect();
                let told = |frame: &FrameRow| {
                    places.get(&frame.name).is_some_and(|(entry, offset)| {
                        *offset == frame.chunk.frame_offset && *entry == frame.entry()
                    })
                };
                match frames.iter().filter(|frame| !told(frame)).count() {
                    0 => return Ok(()),
                    count => format!("its index does not tell where {count} of its frames lie"),
                }
            }
            Err(problem) => problem.clone(),
        };
        match self.rewrite(object, &frames).await {
            Ok(()) => self.find("index", &object.key, problem, Outcome::Mended),
            Err(VerifyError::Metadata(error)) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Writes the frames of an object, byte for byte, into a new one.
    async fn rewrite(&self, object: &ObjectRow, frames: &[FrameRow]) -> Result<(), VerifyError> {
        let (service, now) = (self.service, self.service.clock.now());
        let folder = object.key.rsplit_once('/').map_or("frames/0", |(folder, _)| folder);
        let key = format!("{folder}/{}", random_hex().map_err(|_| VerifyError::Random)?);
        let new = service.metadata.begin_compacted(&key, now).await?;
        let mut writer = service.storage.write(&key).await?;
        let mut moved = Vec::with_capacity(frames.len());
        for piece in pieces(frames) {
            let runs = piece.iter().map(|frame| Run {
                object: Arc::from(object.key.as_str()),
                range: frame.chunk.frame_offset..frame.chunk.frame_offset + u64::from(frame.chunk.frame_len),
            });
            let bytes = self.storage.read(runs.collect()).await?;
            let payload = PutPayload::from(Bytes::from(bytes));
            let mut after = writer.write(piece.iter().map(FrameRow::entry), payload).await?;
            for frame in piece {
                moved.push(MovedFrame {
                    chunk: frame.chunk.id,
                    source: object.id,
                    was: frame.chunk.frame_offset,
                    becomes: after,
                });
                after += u64::from(frame.chunk.frame_len);
            }
        }
        let size = writer.finish().await?;
        service.metadata.move_frames(new, size, &moved).await?;
        Ok(())
    }
}

fn end_of(frame: &FrameRow) -> u64 {
    frame.chunk.frame_offset.saturating_add(frame.chunk.frame_len.into())
}

/// Frames that are read at once: of one object, close together.
fn pieces(frames: &[FrameRow]) -> Vec<&[FrameRow]> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (position, frame) in frames.iter().enumerate() {
        let first = &frames[start];
        let fits = frame.object == first.object
            && position
                .checked_sub(1)
                .is_none_or(|before| frames[before].chunk.frame_offset <= frame.chunk.frame_offset)
            && end_of(frame).saturating_sub(first.chunk.frame_offset) <= PIECE;
        if !fits && position > start {
            pieces.push(&frames[start..position]);
            start = position;
        }
    }
    if start < frames.len() {
        pieces.push(&frames[start..]);
    }
    pieces
}
