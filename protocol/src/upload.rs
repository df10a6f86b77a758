//! The body of an upload: an index of frames, then the frames.
//!
//! ```text
//! "LARDERF1"  count: u32
//! count × { name: [u8; 32], frame length: u32, content length: u32,
//!           holes: u16, holes × { offset in the content: u32, offset in the frame: u32 } }
//! the frames, in the index's order, with nothing between or after them
//! ```
//!
//! Numbers are little-endian. The index comes first, so that the service knows what it has already
//! before it reads a frame.

use crate::{
    ChunkId,
    api::MAX_CHUNKS_ASKED,
    chunk::{FrameHole, MAX_CHUNK, MAX_HOLES},
    recipe::Fields,
};

const MAGIC: &[u8; 8] = b"LARDERF1";

/// The longest index that a service reads, in bytes.
pub const MAX_INDEX: usize = 8 << 20;

/// A frame as the index announces it. Nothing of it is checked but its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameEntry {
    /// The chunk's name.
    pub id: ChunkId,
    /// The frame's length in bytes.
    pub frame_len: u32,
    /// The chunk's length in bytes.
    pub content_len: u32,
    /// Where the holes are, in ascending order.
    pub holes: Vec<FrameHole>,
}

/// An index that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the upload's index is malformed: {0}")]
pub struct InvalidIndex(pub(crate) &'static str);

const TOO_LONG: InvalidIndex = InvalidIndex("it is longer than 8 MiB");

/// Writes an index; the frames follow it.
pub fn encode_index(entries: &[FrameEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + entries.len() * 64);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&u32::try_from(entries.len()).unwrap_or(u32::MAX).to_le_bytes());
    for entry in entries {
        out.extend_from_slice(&entry.id.0);
        out.extend_from_slice(&entry.frame_len.to_le_bytes());
        out.extend_from_slice(&entry.content_len.to_le_bytes());
        out.extend_from_slice(&u16::try_from(entry.holes.len()).unwrap_or(u16::MAX).to_le_bytes());
        for hole in &entry.holes {
            out.extend_from_slice(&hole.content_offset.to_le_bytes());
            out.extend_from_slice(&hole.frame_offset.to_le_bytes());
        }
    }
    out
}

/// Reads an index from the beginning of `bytes` and tells its length; `None` while bytes are wanting.
///
/// # Errors
/// When no further byte could make it an index within bounds.
pub fn decode_index(bytes: &[u8]) -> Result<Option<(Vec<FrameEntry>, usize)>, InvalidIndex> {
    let mut fields = Fields::new(bytes);
    let Some(magic) = fields.array::<8>() else { return Ok(None) };
    if magic != *MAGIC {
        return Err(InvalidIndex("it does not begin with LARDERF1"));
    }
    let Some(count) = fields.u32() else { return Ok(None) };
    if count as usize > MAX_CHUNKS_ASKED {
        return Err(InvalidIndex("it names more than 65,536 frames"));
    }
    let mut entries = Vec::with_capacity((count as usize).min(4096));
    for _ in 0..count {
        match entry(&mut fields)? {
            Some(entry) => entries.push(entry),
            None if bytes.len() >= MAX_INDEX => return Err(TOO_LONG),
            None => return Ok(None),
        }
    }
    let end = bytes.len() - fields.rest().len();
    if end > MAX_INDEX {
        return Err(TOO_LONG);
    }
    Ok(Some((entries, end)))
}

fn entry(fields: &mut Fields<'_>) -> Result<Option<FrameEntry>, InvalidIndex> {
    let (Some(id), Some(frame_len), Some(content_len), Some(count)) =
        (fields.array(), fields.u32(), fields.u32(), fields.u16())
    else {
        return Ok(None);
    };
    if content_len as usize > MAX_CHUNK || content_len == 0 {
        return Err(InvalidIndex("a chunk is empty or larger than 1 MiB"));
    }
    if usize::from(count) > MAX_HOLES {
        return Err(InvalidIndex("a chunk has too many holes"));
    }
    if frame_len as usize > crate::chunk::max_frame(content_len as usize, usize::from(count)) {
        return Err(InvalidIndex("a frame is longer than zstd makes one of its content"));
    }
    let mut holes = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let (Some(content_offset), Some(frame_offset)) = (fields.u32(), fields.u32()) else {
            return Ok(None);
        };
        holes.push(FrameHole { content_offset, frame_offset });
    }
    Ok(Some(FrameEntry { id: ChunkId(id), frame_len, content_len, holes }))
}
