//! Chunks: runs of a NAR's bytes, cut by content, store hashes left out, stored once as one
//! standalone zstd frame.

mod cut;
mod frame;
mod holes;

use std::{fmt, str::FromStr};

pub use cut::{CutChunk, Cutter};
pub use frame::{EncodedFrame, FrameDecoder, FrameEncoder, FrameError, fill_holes, max_frame};

/// The smallest chunk that is cut, but for a NAR's last.
pub const MIN_CUT: usize = 32 << 10;
/// The mean that the cutter aims at.
pub const MEAN_CUT: usize = 128 << 10;
/// The largest chunk that is cut, but for a hole at its end.
pub const MAX_CUT: usize = 512 << 10;

/// The largest chunk that a service takes, in bytes of content.
pub const MAX_CHUNK: usize = 1 << 20;

/// The most holes that a chunk may have.
pub const MAX_HOLES: usize = 1024;

/// A hole's length: the digits of a store path's hash.
pub const HOLE: usize = crate::StorePathHash::DIGITS;

/// The zstd level unless told otherwise.
pub const DEFAULT_LEVEL: i32 = 3;

/// The most holes that the cutter leaves in a chunk of `len` bytes. A chunk with more, such as a farm
/// of symlinks, compresses better than it would be shared: it is cut without holes.
pub const fn max_holes_cut(len: usize) -> usize {
    16 + len / 1024
}

/// A chunk's name: the BLAKE3 of its content with zeroed holes, then each hole's offset and the
/// number of holes as little-endian `u32`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// The name of a chunk. `content` must be zero in its holes, which begin at `holes`.
    pub fn of(content: &[u8], holes: impl IntoIterator<Item = u32>) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(content);
        let mut count = 0u32;
        for offset in holes {
            hasher.update(&offset.to_le_bytes());
            count += 1;
        }
        hasher.update(&count.to_le_bytes());
        Self(hasher.finalize().into())
    }
}

/// Where a hole lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHole {
    /// Its first byte's offset in the chunk's content.
    pub content_offset: u32,
    /// The offset in the frame of the 32 bytes that stand for it.
    pub frame_offset: u32,
}

/// What is no chunk's name.
#[derive(Debug, thiserror::Error)]
#[error("not a chunk's name (64 hexadecimal digits)")]
pub struct InvalidChunkId;

impl FromStr for ChunkId {
    type Err = InvalidChunkId;

    fn from_str(text: &str) -> Result<Self, InvalidChunkId> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| InvalidChunkId)?;
        bytes.try_into().map(Self).map_err(|_| InvalidChunkId)
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

crate::serde_as_text!(ChunkId);
