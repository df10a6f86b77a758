//! Making of a packed archive the tree that Nix would make of it.
//!
//! Nothing is unpacked into a directory: names go into memory, contents into one file without a name, so that no name can
//! lead anywhere.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek as _, Write as _},
};

use flate2::bufread::MultiGzDecoder;
use liblzma::{bufread::XzDecoder, stream::Stream};
use tar::{Archive, Entry, EntryType, Header, PaxExtensions};

use super::{
    bounds::{Bounded, Bounds},
    tree::{BadEntry, Node, Tree},
};

/// What xz may take, enough for its highest level.
const XZ_MEMORY: u64 = 80 << 20;
/// What zstd may look back: 64 MiB.
const ZSTD_WINDOW_LOG: u32 = 26;
/// The longest name, target, or list of properties of an entry.
const MAX_EXTENSION: u64 = 64 << 10;

/// Why an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    /// It cannot be read: it is damaged, of an unknown kind, or more than it may be.
    #[error("{0}")]
    Archive(io::Error),
    /// An entry of it is wrong.
    #[error(transparent)]
    Entry(#[from] BadEntry),
    /// It has what is no file, directory or symlink.
    #[error("it has something else than files, directories and symlinks")]
    Kind,
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// What was unpacked cannot be kept here.
    #[error("it cannot be unpacked here: {0}")]
    Here(io::Error),
}

/// Unpacks an archive, whose files' contents are put into `contents`. Blocks.
pub(super) fn unpack(packed: &File, contents: &File, bounds: &Bounds) -> Result<Tree, UnpackError> {
    let tar = Bounded::new(decompressed(packed).map_err(UnpackError::Archive)?, bounds.clone());
    let mut archive = Archive::new(tar);
    let mut unpacking =
        Unpacking { tree: Tree::new(bounds.unpacked), contents: BufWriter::new(contents), len: 0 };
    let mut said = Said::default();
    for entry in archive.entries().map_err(UnpackError::Archive)?.raw(true) {
        let mut entry = entry.map_err(UnpackError::Archive)?;
        match entry.header().entry_type() {
            EntryType::XGlobalHeader => {}
            EntryType::XHeader => said.read_pax(&extension(&mut entry)?)?,
            EntryType::GNULongName => said.name = Some(without_nul(extension(&mut entry)?)),
            EntryType::GNULongLink => said.target = Some(without_nul(extension(&mut entry)?)),
            kind => unpacking.take(&mut entry, kind, std::mem::take(&mut said))?,
        }
    }
    unpacking.contents.flush().map_err(UnpackError::Here)?;
    if unpacking.tree.is_empty() { Err(UnpackError::Empty) } else { Ok(unpacking.tree) }
}

/// What it is packed by, by its first bytes.
fn decompressed(mut packed: &File) -> io::Result<Box<dyn Read + '_>> {
    let mut first = Vec::new();
    packed.rewind()?;
    packed.take(6).read_to_end(&mut first)?;
    packed.rewind()?;
    let packed = BufReader::with_capacity(64 << 10, packed);
    Ok(match first.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(packed)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(XzDecoder::new_stream(packed, stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(packed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        // Checked by the checksum of its first entry.
        _ => Box::new(packed),
    })
}

struct Unpacking<'a> {
    tree: Tree,
    contents: BufWriter<&'a File>,
    len: u64,
}

impl Unpacking<'_> {
    fn take(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        kind: EntryType,
        said: Said,
    ) -> Result<(), UnpackError> {
        let size = entry.header().entry_size().map_err(UnpackError::Archive)?;
        if said.size.is_some_and(|said| said != size) {
            return Err(UnpackError::Kind);
        }
        let path = said.name.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let target = said.target.or_else(|| entry.header().link_name_bytes().map(|name| name.into_owned()));
        match kind {
            EntryType::Directory => self.tree.put(&path, Node::Directory(Default::default()))?,
            // Older than the type of directories.
            EntryType::Regular if path.ends_with(b"/") => {
                self.tree.put(&path, Node::Directory(Default::default()))?;
            }
            EntryType::Regular | EntryType::Continuous => {
                let executable = is_executable(entry.header())?;
                let node = Node::File { offset: self.len, len: size, executable };
                // Before its contents: they may be many.
                self.tree.put(&path, node)?;
                self.store(entry, size)?;
            }
            EntryType::Symlink => {
                let target = target.ok_or(BadEntry::Link)?;
                self.tree.put(&path, Node::Symlink(target.into()))?;
            }
            EntryType::Link => self.tree.link(&path, &target.ok_or(BadEntry::Link)?)?,
            _ => return Err(UnpackError::Kind),
        }
        Ok(())
    }

    fn store(&mut self, entry: &mut impl Read, size: u64) -> Result<(), UnpackError> {
        let mut left = size;
        let mut buffer = [0; 16 << 10];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = entry.read(&mut buffer[..wanted]).map_err(UnpackError::Archive)?;
            if read == 0 {
                return Err(UnpackError::Archive(io::ErrorKind::UnexpectedEof.into()));
            }
            self.contents.write_all(&buffer[..read]).map_err(UnpackError::Here)?;
            left -= read as u64;
        }
        self.len += size;
        Ok(())
    }
}

/// As Nix looks at it.
fn is_executable(header: &Header) -> Result<bool, UnpackError> {
    Ok(header.mode().map_err(UnpackError::Archive)? & 0o100 != 0)
}

/// What entries before an entry say of it.
#[derive(Default)]
struct Said {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Said {
    fn read_pax(&mut self, properties: &[u8]) -> Result<(), UnpackError> {
        for property in PaxExtensions::new(properties) {
            let property = property.map_err(UnpackError::Archive)?;
            let value = property.value_bytes();
            match property.key_bytes() {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"size" => {
                    let size = property.value().ok().and_then(|size| size.parse().ok());
                    self.size = Some(size.ok_or(UnpackError::Kind)?);
                }
                key if key.starts_with(b"GNU.sparse.") => return Err(UnpackError::Kind),
                _ => {}
            }
        }
        Ok(())
    }
}

fn extension(entry: &mut impl Read) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    entry.take(MAX_EXTENSION + 1).read_to_end(&mut bytes).map_err(UnpackError::Archive)?;
    if bytes.len() as u64 > MAX_EXTENSION { Err(BadEntry::Name.into()) } else { Ok(bytes) }
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}

#[cfg(test)]
mod tests;
