//! The files of an archive: their names in memory, their contents in a file of its own.

use std::{
    collections::{BTreeMap, btree_map},
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
};

use larder_protocol::nar::{ContentsError, NarWriter};

use super::{bounds::Bounds, unpack::UnpackError};

/// The most files, directories and symlinks: more than nixpkgs has. A directory with one entry takes about 600 bytes of
/// memory, so that the worst archive takes some 90 MB.
const MAX_ENTRIES: usize = 150_000;
/// How deep directories may be nested. Nothing that people write is half as deep.
const MAX_DEPTH: usize = 128;
/// The longest name, and the longest target of a symlink, that Linux takes.
const MAX_NAME: usize = 255;
const MAX_TARGET: usize = 4095;
/// What all names and targets may have together.
const MAX_NAMES: usize = 32 << 20;
/// What a NAR has beside names and contents for each entry, and for all of it: it is 222 bytes at most.
const NAR_ENTRY: u64 = 256;

/// A directory's entries, in the order of a NAR.
type Directory = BTreeMap<Box<[u8]>, Node>;

/// A file, a directory or a symlink.
pub(super) enum Node {
    Directory(Directory),
    File { offset: u64, len: u64, executable: bool },
    Symlink(Box<[u8]>),
}

/// What is wrong with an archive's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadEntry {
    #[error("it has a name that leads out of it")]
    Outside,
    #[error("it has a name that is too long or too deep")]
    Name,
    #[error("it has more than {MAX_ENTRIES} files")]
    Entries,
    #[error("its names are too long together")]
    Names,
    #[error("it unpacks to more than {0} bytes ([prefetch] max_unpacked)")]
    Contents(u64),
    #[error("it has a file below what is no directory")]
    NoDirectory,
    #[error("it has a link to a file that it has not")]
    Link,
}

/// All of an archive.
pub(super) struct Tree {
    root: Directory,
    entries: usize,
    names: usize,
    /// What its files have together, each hard link counted as a file: so often a NAR has the contents.
    len: u64,
    max_len: u64,
}

impl Tree {
    /// A tree whose files may have so many bytes together.
    pub(super) fn new(max_len: u64) -> Self {
        Self { root: Directory::new(), entries: 0, names: 0, len: 0, max_len }
    }

    /// Puts something where an archive says. What was there before is replaced, as unpacking would; a directory stays.
    pub(super) fn put(&mut self, path: &[u8], node: Node) -> Result<(), BadEntry> {
        if let Node::Symlink(target) = &node {
            if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
                return Err(BadEntry::Name);
            }
            self.names += target.len();
        }
        if let Node::File { len, .. } = &node {
            self.len = self.len.saturating_add(*len);
            if self.len > self.max_len {
                return Err(BadEntry::Contents(self.max_len));
            }
        }
        let parts = parts(path)?;
        let Some((name, parents)) = parts.split_last() else {
            // The archive's own root.
            return if matches!(node, Node::Directory(_)) { Ok(()) } else { Err(BadEntry::Name) };
        };
        let Self { root, entries, names, .. } = self;
        let mut directory = root;
        for parent in parents {
            directory = match entry(directory, parent, entries, names) {
                btree_map::Entry::Vacant(vacant) => match vacant.insert(Node::Directory(Directory::new())) {
                    Node::Directory(made) => made,
                    _ => return Err(BadEntry::NoDirectory),
                },
                btree_map::Entry::Occupied(there) => match there.into_mut() {
                    Node::Directory(there) => there,
                    // Never through a symlink.
                    _ => return Err(BadEntry::NoDirectory),
                },
            };
        }
        match entry(directory, name, entries, names) {
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(node);
            }
            btree_map::Entry::Occupied(mut there) => match (there.get(), &node) {
                (Node::Directory(_), Node::Directory(_)) => {}
                (Node::Directory(_), _) | (_, Node::Directory(_)) => return Err(BadEntry::NoDirectory),
                _ => {
                    there.insert(node);
                }
            },
        }
        if self.entries > MAX_ENTRIES {
            return Err(BadEntry::Entries);
        }
        if self.names > MAX_NAMES {
            return Err(BadEntry::Names);
        }
        Ok(())
    }

    /// Gives a file a second name.
    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), BadEntry> {
        let parts = parts(target)?;
        let (name, parents) = parts.split_last().ok_or(BadEntry::Link)?;
        let mut directory = &self.root;
        for parent in parents {
            let Some(Node::Directory(inner)) = directory.get(*parent) else { return Err(BadEntry::Link) };
            directory = inner;
        }
        let copy = match directory.get(*name) {
            Some(Node::File { offset, len, executable }) => {
                Node::File { offset: *offset, len: *len, executable: *executable }
            }
            Some(Node::Symlink(target)) => Node::Symlink(target.clone()),
            _ => return Err(BadEntry::Link),
        };
        self.put(path, copy)
    }

    /// Writes the NAR of what Nix makes of such an archive: of its one directory, where it has no other entry, else of
    /// all. The files' contents lie in `contents`.
    ///
    /// # Errors
    /// When it is out of bounds, or cannot be read or written here.
    pub(super) fn write_nar(
        &self,
        contents: &File,
        bounds: &Bounds,
        mut out: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<u64, UnpackError> {
        let mut left = bounds
            .unpacked
            .saturating_add(self.names as u64)
            .saturating_add(NAR_ENTRY.saturating_mul(self.entries as u64 + 1));
        let mut bad = None;
        let written = self.write_pieces(contents, |bytes| {
            let within = bounds.check().and_then(|()| {
                left = left.checked_sub(bytes.len() as u64).ok_or_else(|| bounds.too_much())?;
                Ok(())
            });
            match within {
                Ok(()) => out(bytes),
                Err(error) => {
                    bad = Some(error);
                    Err(io::Error::other("out of bounds"))
                }
            }
        });
        match bad {
            Some(error) => Err(UnpackError::Archive(error)),
            None => written.map_err(UnpackError::Here),
        }
    }

    fn write_pieces(&self, contents: &File, out: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
        let mut only = self.root.values();
        let root = match (only.next(), only.next()) {
            (Some(Node::Directory(directory)), None) => directory,
            _ => &self.root,
        };
        let mut nar = NarWriter::new(out)?;
        nar.begin_directory()?;
        let mut open = vec![root.iter()];
        while let Some(entries) = open.last_mut() {
            let Some((name, node)) = entries.next() else {
                nar.end()?;
                open.pop();
                if !open.is_empty() {
                    nar.end()?;
                }
                continue;
            };
            nar.begin_entry(name)?;
            match node {
                Node::Directory(directory) => {
                    nar.begin_directory()?;
                    open.push(directory.iter());
                    continue;
                }
                Node::Symlink(target) => nar.symlink(target)?,
                Node::File { offset, len, executable } => {
                    let mut file = Part { contents, offset: *offset, left: *len };
                    nar.file(*executable, *len, &mut file).map_err(|error| match error {
                        ContentsError::Read(error) | ContentsError::Write(error) => error,
                        ContentsError::Length => io::ErrorKind::UnexpectedEof.into(),
                    })?;
                }
            }
            nar.end()?;
        }
        nar.finish()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

fn entry<'a>(
    directory: &'a mut Directory,
    name: &[u8],
    entries: &mut usize,
    names: &mut usize,
) -> btree_map::Entry<'a, Box<[u8]>, Node> {
    let entry = directory.entry(name.into());
    if matches!(entry, btree_map::Entry::Vacant(_)) {
        *entries += 1;
        *names += name.len();
    }
    entry
}

/// The names on the way to an entry.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, BadEntry> {
    if path.first() == Some(&b'/') {
        return Err(BadEntry::Outside);
    }
    let parts: Vec<&[u8]> =
        path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(BadEntry::Outside);
    }
    if parts.len() > MAX_DEPTH || parts.iter().any(|part| part.len() > MAX_NAME || part.contains(&0)) {
        return Err(BadEntry::Name);
    }
    Ok(parts)
}

/// A file's part of the contents.
struct Part<'a> {
    contents: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.contents.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
