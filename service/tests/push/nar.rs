//! NARs to push.
use std::{io::Read as _, path::Path};

use larder_protocol::{
    NarHash, StorePath, StorePathHash,
    api::PathInfo,
    chunk::{CutChunk, Cutter},
    recipe::{Recipe, RecipeChunk},
};
use sha2::{Digest as _, Sha256};

/// A path with one file.
pub struct TestNar {
    pub info: PathInfo,
    pub bytes: Vec<u8>,
    pub chunks: Vec<CutChunk>,
}

pub fn path(seed: u8, name: &str) -> StorePath {
    StorePath::new(StorePathHash([seed; 20]), name).unwrap()
}

impl TestNar {
    pub fn new(path: StorePath, contents: &[u8], references: &[&StorePath]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, contents).unwrap();
        Self::dump(path, &file, references)
    }

    pub fn dump(path: StorePath, file: &Path, references: &[&StorePath]) -> Self {
        let mut bytes = Vec::new();
        let write = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        larder_protocol::nar::dump(file, write).unwrap();
        let mut references: Vec<StorePath> = references.iter().copied().cloned().collect();
        references.sort();
        let mut chunks = Vec::new();
        let mut cutter = Cutter::new(references.iter().map(StorePath::hash));
        let mut take = |chunk| {
            chunks.push(chunk);
            Ok::<_, ()>(())
        };
        cutter.feed(&bytes, &mut take).unwrap();
        cutter.finish(&mut take).unwrap();
        let info = PathInfo {
            path,
            nar_hash: NarHash(Sha256::digest(&bytes).into()),
            nar_size: bytes.len() as u64,
            references,
            deriver: None,
            ca: None,
            signatures: Vec::new(),
        };
        Self { info, bytes, chunks }
    }

    pub fn recipe(&self) -> Recipe {
        let chunk = |chunk: &CutChunk| RecipeChunk { id: chunk.id, hashes: chunk.hashes.clone() };
        Recipe {
            nar_hash: self.info.nar_hash,
            nar_size: self.info.nar_size,
            chunks: self.chunks.iter().map(chunk).collect(),
        }
    }
}

/// Bytes that do not compress, with store paths among them.
pub fn contents(seed: u64, length: usize, mentions: &[&StorePath]) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes: Vec<u8> = Vec::with_capacity(length + 100);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
        if bytes.len() % 40_000 < 8 {
            for mention in mentions {
                bytes.extend(mention.absolute().bytes());
            }
        }
    }
    bytes
}

pub fn decompress(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    zstd::Decoder::new(bytes).unwrap().read_to_end(&mut out).unwrap();
    out
}
