//! Writing the NAR of a path.

use std::{
    ffi::OsString,
    fs::{self, File, FileType},
    io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    vec,
};

use super::write::{ContentsError, NarWriter};

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
    let nar = NarWriter::new(out).map_err(DumpError::Write)?;
    let mut dump = Dump { nar, path: path.to_owned() };
    let kind = fs::symlink_metadata(path).map_err(|error| dump.unreadable(error))?.file_type();
    // A directory on the way down, with the names in it that are still to come. Not a recursion: a
    // thread's stack is smaller than a tree may be deep.
    let mut open: Vec<vec::IntoIter<(OsString, FileType)>> = Vec::new();
    open.extend(dump.node(kind)?);
    while let Some(entries) = open.last_mut() {
        if let Some((name, kind)) = entries.next() {
            dump.nar.begin_entry(name.as_bytes()).map_err(DumpError::Write)?;
            dump.path.push(name);
            match dump.node(kind)? {
                Some(entries) => open.push(entries),
                None => dump.leave_entry()?,
            }
        } else {
            dump.nar.end().map_err(DumpError::Write)?;
            open.pop();
            if !open.is_empty() {
                dump.leave_entry()?;
            }
        }
    }
    dump.nar.finish().map_err(DumpError::Write)
}

struct Dump<W> {
    nar: NarWriter<W>,
    path: PathBuf,
}

impl<W: FnMut(&[u8]) -> io::Result<()>> Dump<W> {
    /// Writes the node at the current path; if that is a directory, only its beginning, and returns its
    /// entries.
    fn node(&mut self, kind: FileType) -> Result<Option<vec::IntoIter<(OsString, FileType)>>, DumpError> {
        if kind.is_file() {
            self.regular()?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&self.path).map_err(|error| self.unreadable(error))?;
            self.nar.symlink(target.into_os_string().as_bytes()).map_err(DumpError::Write)?;
        } else if kind.is_dir() {
            self.nar.begin_directory().map_err(DumpError::Write)?;
            return Ok(Some(self.entries().map_err(|error| self.unreadable(error))?.into_iter()));
        } else {
            return Err(DumpError::Kind { path: self.path.clone() });
        }
        Ok(None)
    }

    fn leave_entry(&mut self) -> Result<(), DumpError> {
        self.path.pop();
        self.nar.end().map_err(DumpError::Write)
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
        let executable = metadata.permissions().mode() & 0o100 != 0;
        self.nar.file(executable, metadata.len(), &mut file).map_err(|error| match error {
            ContentsError::Read(source) => self.unreadable(source),
            ContentsError::Length => self.changed(),
            ContentsError::Write(error) => DumpError::Write(error),
        })
    }

    fn unreadable(&self, source: io::Error) -> DumpError {
        DumpError::Read { path: self.path.clone(), source }
    }

    fn changed(&self) -> DumpError {
        DumpError::Changed { path: self.path.clone() }
    }
}
