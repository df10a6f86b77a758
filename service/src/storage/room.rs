//! How much room there is where objects lie.

use std::path::Path;

use super::{Kind, Storage, StorageError};

/// How much room a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How many bytes can still be written.
    pub available: u64,
    /// How many the disk has.
    pub size: u64,
}

impl Room {
    /// How much room the disk of a folder has.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn of(folder: &Path) -> Result<Self, StorageError> {
        let said = rustix::fs::statvfs(folder).map_err(|error| StorageError::Folder {
            path: folder.display().to_string(),
            source: error.into(),
        })?;
        let bytes = |blocks: u64| blocks.saturating_mul(said.f_frsize);
        Ok(Self { available: bytes(said.f_bavail), size: bytes(said.f_blocks) })
    }
}

impl Storage {
    /// How much room there is for objects; `None` in a bucket, which has no end.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn room(&self) -> Result<Option<Room>, StorageError> {
        match &self.kind {
            Kind::Files(_) => Room::of(Path::new(self.place())).map(Some),
            Kind::Bucket(_) => Ok(None),
        }
    }
}
