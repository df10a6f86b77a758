//! Writing the NAR of a path.

use std::{
    ffi::OsString,
    fs::{self, File, FileType},
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    vec,
};

/// How many bytes are handed over at once, but for the last.
const PIECE: usize = 256 << 10;

/// Why a path cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is neither regular, nor a directory, nor a symlink.
    #[error("{path} is neither a regular file, a directory, nor a symlink")]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// A file changed its length while it was read.
    #[error("{path} changed while it was read")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// What took the bytes refused more of them.
    #[error(transparent)]
    Write(io::Error),
}

/// Hands the NAR of what is at `path` to `out`, piece by piece, just as `nix-store --dump` writes it, and
/// tells its length in bytes.
///
/// Blocks. Memory grows with the number of names in a directory, not with files or their depth.
///
/// # Errors
/// See [`DumpError`].
pub fn dump(path: &Path, out: impl FnMut(&[u8]) -> io::Result<()>) -> Result<u64, DumpError> {
    let mut dump = Dump { out, buffer: vec![0; PIECE], filled: 0, written: 0, path: path.to_owned() };
    let kind = fs::symlink_metadata(path).map_err(|error| dump.unreadable(error))?.file_type();
    dump.string(b"nix-archive-1")?;
    // A directory on the way down, with the names in it that are still to come. Not a recursion: a
    // thread's stack is smaller than a tree may be deep.
    let mut open: Vec<vec::IntoIter<(OsString, FileType)>> = Vec::new();
    open.extend(dump.node(kind)?);
    while let Some(entries) = open.last_mut() {
        if let Some((name, kind)) = entries.next() {
            dump.strings(&[b"entry", b"(", b"name", name.as_bytes(), b"node"])?;
            dump.path.push(name);
            match dump.node(kind)? {
                Some(entries) => open.push(entries),
                None => dump.leave_entry()?,
            }
        } else {
            dump.string(b")")?;
            open.pop();
            if !open.is_empty() {
                dump.leave_entry()?;
            }
        }
    }
    dump.flush()?;
    Ok(dump.written)
}

struct Dump<W> {
    out: W,
    buffer: Vec<u8>,
    filled: usize,
    written: u64,
    path: PathBuf,
}

impl<W: FnMut(&[u8]) -> io::Result<()>> Dump<W> {
    /// Writes the node at the current path; if that is a directory, only its beginning, and returns its
    /// entries.
    fn node(&mut self, kind: FileType) -> Result<Option<vec::IntoIter<(OsString, FileType)>>, DumpError> {
        self.strings(&[b"(", b"type"])?;
        if kind.is_file() {
            self.regular()?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&self.path).map_err(|error| self.unreadable(error))?;
            self.strings(&[b"symlink", b"target", target.into_os_string().as_bytes(), b")"])?;
        } else if kind.is_dir() {
            self.string(b"directory")?;
            return Ok(Some(self.entries().map_err(|error| self.unreadable(error))?.into_iter()));
        } else {
            return Err(DumpError::Kind { path: self.path.clone() });
        }
        Ok(None)
    }

    fn leave_entry(&mut self) -> Result<(), DumpError> {
        self.path.pop();
        self.string(b")")
    }

    /// The names in the directory at the current path, sorted by their bytes.
    fn entries(&self) -> io::Result<Vec<(OsString, FileType)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            entries.push((entry.file_name(), entry.file_type()?));
        }
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok(entries)
    }

    fn regular(&mut self) -> Result<(), DumpError> {
        let mut file = File::open(&self.path).map_err(|error| self.unreadable(error))?;
        let metadata = file.metadata().map_err(|error| self.unreadable(error))?;
        if !metadata.is_file() {
            return Err(self.changed());
        }
        self.string(b"regular")?;
        if metadata.permissions().mode() & 0o100 != 0 {
            self.strings(&[b"executable", b""])?;
        }
        self.string(b"contents")?;
        let len = metadata.len();
        self.write(&len.to_le_bytes())?;
        self.contents(&mut file, len)?;
        self.pad(len)?;
        self.string(b")")
    }

    /// Copies a file's contents, read straight into the buffer.
    fn contents(&mut self, file: &mut File, len: u64) -> Result<(), DumpError> {
        let mut left = len;
        loop {
            if self.filled == PIECE {
                self.flush()?;
            }
            // One byte more than there should be, to see that there is none.
            let room = PIECE - self.filled;
            let asked = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX).min(room);
            let read = match file.read(&mut self.buffer[self.filled..self.filled + asked]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.unreadable(error)),
            };
            if read as u64 > left || read == 0 && left > 0 {
                return Err(self.changed());
            }
            self.filled += read;
            left -= read as u64;
            if left == 0 && read < asked {
                return Ok(());
            }
        }
    }

    fn strings(&mut self, strings: &[&[u8]]) -> Result<(), DumpError> {
        strings.iter().try_for_each(|string| self.string(string))
    }

    fn string(&mut self, string: &[u8]) -> Result<(), DumpError> {
        self.write(&(string.len() as u64).to_le_bytes())?;
        self.write(string)?;
        self.pad(string.len() as u64)
    }

    fn pad(&mut self, len: u64) -> Result<(), DumpError> {
        self.write(&[0; 7][..(len.wrapping_neg() % 8) as usize])
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), DumpError> {
        while !bytes.is_empty() {
            if self.filled == PIECE {
                self.flush()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.filled));
            self.buffer[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DumpError> {
        (self.out)(&self.buffer[..self.filled]).map_err(DumpError::Write)?;
        self.written += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    fn unreadable(&self, source: io::Error) -> DumpError {
        DumpError::Read { path: self.path.clone(), source }
    }

    fn changed(&self) -> DumpError {
        DumpError::Changed { path: self.path.clone() }
    }
}
