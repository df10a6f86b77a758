//! Copying frames.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    super::{pace::Pace, report::CompactionReport},
    CompactionError,
    choose::{self, Group},
    new_key,
};
use crate::{
    Service,
    metadata::{MovedFrame, ObjectId, PlacedFrame},
    storage::{ObjectWriter, Run},
};

/// So many bytes are read and written at once.
const PIECE: u64 = 512 << 10;
/// What an entry of the index takes, and each hole in it.
const ENTRY: u64 = 42;
const HOLE: u64 = 8;
/// An index may name so many frames; `larder_protocol::upload` reads no longer one.
const FRAMES: usize = 60_000;

/// Copies the frames of a group's objects into new ones.
pub(super) async fn rewrite(
    service: &Service,
    group: &Group,
    pace: &mut Pace,
) -> Result<CompactionReport, CompactionError> {
    let mut copying = Copying { service, group, pace, new: None, done: CompactionReport::default() };
    let copied = copying.all().await;
    // What was given up in its middle is a row in which nothing lies: the next sweep finds it.
    if let Some(New { writer, .. }) = copying.new.take() {
        writer.abort().await;
    }
    copied.map(|()| copying.done)
}

struct Copying<'a> {
    service: &'a Service,
    group: &'a Group,
    pace: &'a mut Pace,
    new: Option<New>,
    done: CompactionReport,
}

/// An object that is being written.
struct New {
    row: ObjectId,
    writer: ObjectWriter,
    frames: Vec<MovedFrame>,
    /// How long it is, its index too.
    len: u64,
}

impl Copying<'_> {
    async fn all(&mut self) -> Result<(), CompactionError> {
        for object in &self.group.objects {
            match self.object(*object).await {
                Err(CompactionError::Reading(error)) => tracing::error!(
                    %error, "what cannot be read is not compacted; `larderd verify` says which paths need it"
                ),
                copied => copied?,
            }
        }
        self.end().await
    }

    async fn object(&mut self, source: ObjectId) -> Result<(), CompactionError> {
        // Doomed meanwhile: nothing lies there.
        let Some((key, _)) = self.service.metadata.object_key(source).await? else { return Ok(()) };
        let key: Arc<str> = key.into();
        let mut from = 0;
        loop {
            let frames = self.service.metadata.frames_in(source, from).await?;
            let Some(last) = frames.last() else { return Ok(()) };
            from = last.offset + 1;
            for piece in pieces(&frames) {
                self.piece(source, &key, &frames[piece]).await?;
                self.pace.rest().await;
            }
        }
    }

    async fn piece(
        &mut self,
        source: ObjectId,
        key: &Arc<str>,
        frames: &[PlacedFrame],
    ) -> Result<(), CompactionError> {
        let run = |frame: &PlacedFrame| Run {
            object: key.clone(),
            range: frame.offset..frame.offset + u64::from(frame.entry.frame_len),
        };
        let read = self.service.storage.read(frames.iter().map(run).collect()).await;
        let bytes = Bytes::from(read.map_err(CompactionError::Reading)?);
        let length = bytes.len() as u64 + frames.iter().map(entry_len).sum::<u64>();
        if self.new.as_ref().is_some_and(|new| {
            new.len + length > choose::FRAMES.full + PIECE || new.frames.len() + frames.len() > FRAMES
        }) {
            self.end().await?;
        }
        let new = match &mut self.new {
            Some(new) => new,
            none => none.insert(begin(self.service, self.group).await?),
        };
        let entries = frames.iter().map(|frame| frame.entry.clone());
        let mut becomes = new.writer.write(entries, bytes.into()).await.map_err(CompactionError::Writing)?;
        for frame in frames {
            new.frames.push(MovedFrame { chunk: frame.chunk, source, was: frame.offset, becomes });
            becomes += u64::from(frame.entry.frame_len);
        }
        new.len += length;
        Ok(())
    }

    /// Waits until the object is on disk, then has its frames lie there.
    async fn end(&mut self) -> Result<(), CompactionError> {
        let Some(New { row, writer, frames, .. }) = self.new.take() else { return Ok(()) };
        let size = writer.finish().await.map_err(CompactionError::Writing)?;
        let moved = self.service.metadata.move_frames(row, size, &frames).await?;
        tracing::debug!(object = row.0, size, frames = frames.len(), moved, "frames were moved");
        self.done.written += 1;
        self.done.written_bytes += size;
        self.pace.rest().await;
        Ok(())
    }
}

async fn begin(service: &Service, group: &Group) -> Result<New, CompactionError> {
    let key = new_key("frames", group)?;
    let row = service.metadata.begin_compacted(&key, service.clock.now()).await?;
    let writer = service.storage.write(&key).await.map_err(CompactionError::Writing)?;
    Ok(New { row, writer, frames: Vec::new(), len: 0 })
}

fn entry_len(frame: &PlacedFrame) -> u64 {
    ENTRY + HOLE * frame.entry.holes.len() as u64
}

/// Frames to be read at once.
fn pieces(frames: &[PlacedFrame]) -> Vec<Range<usize>> {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    let mut bytes = PIECE;
    for (position, frame) in frames.iter().enumerate() {
        let len = u64::from(frame.entry.frame_len) + entry_len(frame);
        match pieces.last_mut() {
            Some(piece) if bytes + len <= PIECE => {
                piece.end = position + 1;
                bytes += len;
            }
            _ => {
                pieces.push(position..position + 1);
                bytes = len;
            }
        }
    }
    pieces
}
