//! Cutting a NAR's bytes into chunks.

use std::mem;

use fastcdc::v2020::FastCDC;

use super::{
    ChunkId, HOLE, MAX_CUT, MEAN_CUT, MIN_CUT,
    holes::{KnownHashes, find_store_hashes},
    max_holes_cut,
};
use crate::StorePathHash;

/// A chunk as the cutter makes it.
#[derive(Debug, Clone)]
pub struct CutChunk {
    /// Its name.
    pub id: ChunkId,
    /// Its bytes, zero in the holes.
    pub content: Vec<u8>,
    /// Where its holes begin.
    pub holes: Vec<u32>,
    /// What stood in the holes.
    pub hashes: Vec<StorePathHash>,
}

/// How many bytes are gathered before a cut is sought. More means fewer copies of what is left over.
const GATHER: usize = 4 * MAX_CUT;

/// Cuts a stream into chunks: FastCDC over the bytes with their store hashes zeroed.
pub struct Cutter {
    known: KnownHashes,
    /// Bytes not yet cut. Up to `scanned`, store hashes are zeroed and stand in `found`.
    buffer: Vec<u8>,
    /// The last bytes that were cut off, so that a hash can be told by the `/nix/store/` before it.
    before: Vec<u8>,
    scanned: usize,
    found: Vec<(usize, StorePathHash)>,
}

impl Cutter {
    /// A cutter that leaves out the hashes of `references` (the path itself among them), and
    /// whatever store hash follows `/nix/store/`.
    pub fn new(references: impl IntoIterator<Item = StorePathHash>) -> Self {
        Self {
            known: KnownHashes::new(references),
            // It grows as bytes come: most NARs are short.
            buffer: Vec::new(),
            before: Vec::new(),
            scanned: 0,
            found: Vec::new(),
        }
    }

    /// Takes the next bytes and hands over the chunks that they complete.
    ///
    /// # Errors
    /// Whatever `chunk` returns.
    pub fn feed<E>(
        &mut self,
        bytes: &[u8],
        mut chunk: impl FnMut(CutChunk) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = GATHER.saturating_sub(self.buffer.len());
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.buffer.extend_from_slice(now);
            rest = later;
            if self.buffer.len() >= GATHER {
                self.cut(false, &mut chunk)?;
            }
        }
        Ok(())
    }

    /// Hands over the last chunks.
    ///
    /// # Errors
    /// Whatever `chunk` returns.
    pub fn finish<E>(mut self, mut chunk: impl FnMut(CutChunk) -> Result<(), E>) -> Result<(), E> {
        self.cut(true, &mut chunk)
    }

    /// Cuts what can be cut: until less than a largest chunk with a hole behind it is left, or, at
    /// the end, everything.
    fn cut<E>(&mut self, end: bool, chunk: &mut impl FnMut(CutChunk) -> Result<(), E>) -> Result<(), E> {
        self.scan();
        let mut start = 0;
        let mut holes = mem::take(&mut self.found).into_iter().peekable();
        while start < self.buffer.len() && (end || self.scanned - start >= MAX_CUT + HOLE) {
            let remaining = self.buffer.len() - start;
            let (_, mut stop) = FastCDC::new(&self.buffer, MIN_CUT, MEAN_CUT, MAX_CUT).cut(start, remaining);
            if stop <= start {
                stop = self.buffer.len();
            }
            let mut chunk_holes = Vec::new();
            let mut chunk_hashes = Vec::new();
            while let Some((offset, hash)) = holes.next_if(|(offset, _)| *offset < stop) {
                stop = stop.max(offset + HOLE);
                chunk_holes.push(offset - start);
                chunk_hashes.push(hash);
            }
            chunk(make_chunk(self.buffer[start..stop].to_vec(), chunk_holes, chunk_hashes))?;
            start = stop;
        }
        self.found = holes.map(|(offset, hash)| (offset - start, hash)).collect();
        self.before.clear();
        self.before.extend_from_slice(&self.buffer[start.saturating_sub(16)..start]);
        self.buffer.drain(..start);
        // At the end, less than a hash is left unscanned.
        self.scanned = self.scanned.saturating_sub(start);
        Ok(())
    }

    /// Finds and zeroes the store hashes in what was added.
    fn scan(&mut self) {
        let found = &mut self.found;
        self.scanned =
            find_store_hashes(&mut self.buffer, self.scanned, &self.before, &self.known, |offset, hash| {
                found.push((offset, hash));
            });
    }
}

fn make_chunk(mut content: Vec<u8>, holes: Vec<usize>, mut hashes: Vec<StorePathHash>) -> CutChunk {
    if holes.len() > max_holes_cut(content.len()) {
        for (offset, hash) in holes.iter().zip(&hashes) {
            content[*offset..offset + HOLE].copy_from_slice(&hash.digits());
        }
        hashes.clear();
        return CutChunk { id: ChunkId::of(&content, []), content, holes: Vec::new(), hashes };
    }
    // A chunk is far smaller than 4 GiB.
    let holes: Vec<u32> = holes.into_iter().filter_map(|offset| u32::try_from(offset).ok()).collect();
    CutChunk { id: ChunkId::of(&content, holes.iter().copied()), content, holes, hashes }
}
