//! A copy of an object in the hot tier: the object's bytes in blocks, each behind a checksum of its own. So any part of it can
//! be read by itself, and what a disk has damaged, or a crash cut short, is found before anybody is given it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::Path,
};

use tempfile::NamedTempFile;

/// What the names of copies end with.
const COPY: &str = ".copy";
/// What the names of copies end with that are not whole.
const DRAFT: &str = ".draft";
/// The bytes of a block. The last may have fewer.
const BLOCK: usize = 64 << 10;
/// The bytes of a checksum.
const SUM: usize = 16;

/// The name of an object's copy.
pub(super) fn name(key: &str) -> String {
    format!("{}{COPY}", blake3::hash(key.as_bytes()).to_hex())
}

/// Whether a file of this name is a copy, or one that is not whole: nobody else's file.
pub(super) fn is_one(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.ends_with(COPY) || name.ends_with(DRAFT))
}

/// The checksum of a block: it holds for this object, in this place.
fn checksum(key: &str, number: u64, block: &[u8]) -> [u8; SUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes()).update(&number.to_le_bytes()).update(block);
    let mut sum = [0; SUM];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..SUM]);
    sum
}

/// A copy that is being written. Dropped before it is finished, it leaves nothing.
pub(super) struct Draft {
    key: String,
    file: NamedTempFile,
    /// The checksum's room, and what there is of the block.
    block: Vec<u8>,
    number: u64,
    length: u64,
}

impl Draft {
    /// Begins a copy of an object.
    pub fn begin(folder: &Path, key: &str) -> io::Result<Self> {
        let file = tempfile::Builder::new().suffix(DRAFT).tempfile_in(folder)?;
        Ok(Self { key: key.to_owned(), file, block: vec![0; SUM], number: 0, length: 0 })
    }

    /// Adds the object's next bytes.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(SUM + BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == SUM + BLOCK {
                self.end_block()?;
            }
        }
        Ok(())
    }

    fn end_block(&mut self) -> io::Result<()> {
        let (sum, block) = self.block.split_at_mut(SUM);
        sum.copy_from_slice(&checksum(&self.key, self.number, block));
        self.file.write_all(&self.block)?;
        self.length += self.block.len() as u64;
        self.number += 1;
        self.block.truncate(SUM);
        Ok(())
    }

    /// Gives the whole copy its name, and tells how long it is.
    pub fn finish(mut self, name: &Path) -> io::Result<u64> {
        if self.block.len() > SUM {
            self.end_block()?;
        }
        self.file.persist(name).map_err(|error| error.error)?;
        Ok(self.length)
    }
}

/// Reads a part of the object from its copy. An error if the copy has not all of it, or has other bytes.
pub(super) fn read(copy: &mut File, key: &str, part: &Range<u64>) -> io::Result<Vec<u8>> {
    let (block, stored) = (BLOCK as u64, (SUM + BLOCK) as u64);
    let (first, end) = (part.start / block, part.end.div_ceil(block));
    copy.seek(SeekFrom::Start(first * stored))?;
    let mut bytes = Vec::with_capacity(usize::try_from((end - first) * stored).unwrap_or(0));
    copy.take((end - first) * stored).read_to_end(&mut bytes)?;
    let wanted = usize::try_from(part.end - part.start).unwrap_or(0);
    let mut found = Vec::with_capacity(wanted);
    for (number, stored) in (first..).zip(bytes.chunks(SUM + BLOCK)) {
        let (sum, content) = stored.split_at_checked(SUM).ok_or(io::ErrorKind::UnexpectedEof)?;
        if checksum(key, number, content) != sum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a block has another checksum"));
        }
        let start = usize::try_from(part.start.saturating_sub(number * block)).unwrap_or(usize::MAX);
        let content = content.get(start..).unwrap_or_default();
        found.extend_from_slice(&content[..content.len().min(wanted - found.len())]);
    }
    if found.len() < wanted {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(found)
}
