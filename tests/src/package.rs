//! Store paths made by hand, with NARs as good or bad as a test wants them.

use std::{
    convert::Infallible,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    path::Path,
};

use larder_protocol::{
    ChunkId, NarHash, SigningKey, StorePath, StorePathHash,
    api::PathInfo,
    chunk::{Cutter, FrameEncoder},
    narinfo::NarInfo,
    recipe::{Recipe, RecipeChunk},
    upload::{FrameEntry, encode_index},
};
use sha2::{Digest, Sha256};

/// What stands in a NAR.
#[derive(Debug, Clone)]
pub enum Node {
    /// A file.
    File(Vec<u8>),
    /// A file that can be executed.
    Program(Vec<u8>),
    /// A symbolic link and its target.
    Link(Vec<u8>),
    /// A directory, its entries in the order in which they shall stand.
    Directory(Vec<(Vec<u8>, Node)>),
}

impl Node {
    /// A directory, its entries sorted.
    pub fn directory(entries: impl IntoIterator<Item = (impl Into<Vec<u8>>, Self)>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().map(|(name, node)| (name.into(), node)).collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Self::Directory(entries)
    }

    /// The NAR.
    pub fn nar(&self) -> Vec<u8> {
        let mut out = Vec::new();
        text(&mut out, b"nix-archive-1");
        self.write(&mut out);
        out
    }

    /// Makes the files.
    pub fn create(&self, at: &Path) {
        match self {
            Self::File(contents) => fs::write(at, contents).unwrap(),
            Self::Program(contents) => {
                fs::write(at, contents).unwrap();
                fs::set_permissions(at, fs::Permissions::from_mode(0o555)).unwrap();
            }
            Self::Link(target) => symlink(OsStr::from_bytes(target), at).unwrap(),
            Self::Directory(entries) => {
                fs::create_dir(at).unwrap();
                entries.iter().for_each(|(name, node)| node.create(&at.join(OsStr::from_bytes(name))));
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let texts = |out: &mut Vec<u8>, all: &[&[u8]]| all.iter().for_each(|one| text(out, one));
        texts(out, &[b"(", b"type"]);
        match self {
            Self::File(contents) => texts(out, &[b"regular", b"contents", contents]),
            Self::Program(contents) => texts(out, &[b"regular", b"executable", b"", b"contents", contents]),
            Self::Link(target) => texts(out, &[b"symlink", b"target", target]),
            Self::Directory(entries) => {
                text(out, b"directory");
                for (name, node) in entries {
                    texts(out, &[b"entry", b"(", b"name", name, b"node"]);
                    node.write(out);
                    text(out, b")");
                }
            }
        }
        text(out, b")");
    }
}

/// A text as NARs write it: its length, itself, zeros up to a multiple of eight.
pub fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Bytes that no compression shortens and no other call gives.
pub fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// A store path with a hash that nobody else has.
pub fn store_path(name: &str) -> StorePath {
    let mut hash = [0; 20];
    getrandom::fill(&mut hash).unwrap();
    StorePath::new(StorePathHash(hash), name).unwrap()
}

/// A path and its NAR.
#[derive(Debug, Clone)]
pub struct Package {
    /// What a push says of it.
    pub info: PathInfo,
    /// Its NAR.
    pub nar: Vec<u8>,
}

/// A chunk as it is sent.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its entry in the index.
    pub entry: FrameEntry,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Package {
    /// A path with these contents, described truly.
    pub fn new(name: &str, node: &Node) -> Self {
        Self::with_nar(store_path(name), node.nar())
    }

    /// A path with these bytes for a NAR.
    pub fn with_nar(path: StorePath, nar: Vec<u8>) -> Self {
        let info = PathInfo {
            path,
            nar_hash: NarHash(Sha256::digest(&nar).into()),
            nar_size: nar.len() as u64,
            references: Vec::new(),
            deriver: None,
            ca: None,
            signatures: Vec::new(),
        };
        Self { info, nar }
    }

    /// A file of noise: like nothing else.
    pub fn noise(name: &str, len: usize) -> Self {
        Self::new(name, &Node::File(noise(len)))
    }

    /// The same, referring to these.
    pub fn referring_to<'a>(mut self, others: impl IntoIterator<Item = &'a Self>) -> Self {
        self.info.references.extend(others.into_iter().map(|other| other.info.path.clone()));
        self.info.references.sort();
        self
    }

    /// What an upstream says of it that gives its NAR as it is, by this URL, and signs with this key.
    pub fn narinfo(&self, url: &str, key: &SigningKey) -> NarInfo {
        let PathInfo { path, nar_hash, nar_size, references, .. } = &self.info;
        let mut narinfo = NarInfo {
            path: path.clone(),
            url: url.to_owned(),
            compression: Some("none".to_owned()),
            file_hash: None,
            file_size: Some(*nar_size),
            nar_hash: *nar_hash,
            nar_size: *nar_size,
            references: references.clone(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
        };
        narinfo.signatures.push(key.sign(&narinfo.fingerprint()));
        narinfo
    }

    /// The recipe, and the chunks in its order.
    pub fn cut(&self) -> (Recipe, Vec<Frame>) {
        let mut cutter = Cutter::new(self.info.references.iter().map(StorePath::hash));
        let mut encoder = FrameEncoder::default();
        let (mut chunks, mut frames) = (Vec::new(), Vec::new());
        let mut take = |chunk: larder_protocol::chunk::CutChunk| {
            let encoded = encoder.encode(&chunk.content, &chunk.holes);
            let entry = FrameEntry::of(chunk.id, chunk.content.len(), &encoded).unwrap();
            frames.push(Frame { entry, bytes: encoded.bytes });
            chunks.push(RecipeChunk { id: chunk.id, hashes: chunk.hashes });
            Ok::<(), Infallible>(())
        };
        let Ok(()) = cutter.feed(&self.nar, &mut take);
        let Ok(()) = cutter.finish(&mut take);
        (Recipe { nar_hash: self.info.nar_hash, nar_size: self.info.nar_size, chunks }, frames)
    }
}

impl Frame {
    /// A chunk without holes whose frame a test made itself.
    pub fn of_content(content: &[u8], bytes: Vec<u8>) -> Self {
        let entry = FrameEntry {
            id: ChunkId::of(content, []),
            frame_len: u32::try_from(bytes.len()).unwrap(),
            content_len: u32::try_from(content.len()).unwrap(),
            holes: Vec::new(),
        };
        Self { entry, bytes }
    }
}

/// The body of an upload.
pub fn upload_body<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Vec<u8> {
    let frames: Vec<&Frame> = frames.into_iter().collect();
    let mut body = encode_index(&frames.iter().map(|frame| frame.entry.clone()).collect::<Vec<_>>());
    frames.iter().for_each(|frame| body.extend_from_slice(&frame.bytes));
    body
}

#[cfg(test)]
mod tests {
    use larder_protocol::nar::NarChecker;

    use super::*;

    #[test]
    fn what_is_made_is_a_nar() {
        let node = Node::directory([
            ("b", Node::File(Vec::new())),
            ("a", Node::directory([("x", Node::Program(b"#!/bin/sh".to_vec()))])),
            ("l", Node::Link(b"/nix/store".to_vec())),
        ]);
        let mut checker = NarChecker::default();
        checker.feed(&node.nar()).unwrap();
        checker.finish().unwrap();
    }

    #[test]
    fn a_recipe_gives_the_nar_back() {
        let package = Package::noise("noise", 300_000);
        let (recipe, frames) = package.cut();
        assert_eq!(recipe.chunks.len(), frames.len());
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes.clone()).collect();
        assert_eq!(zstd::decode_all(&bytes[..]).unwrap(), package.nar);
    }
}
