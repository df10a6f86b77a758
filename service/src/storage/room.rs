//! How much room there is where objects lie.

use object_store::path::Path as Key;

use super::{Storage, StorageError};

/// How much room a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How many bytes can still be written.
    pub available: u64,
    /// How many the disk has.
    pub size: u64,
}

impl Storage {
    /// How much room there is.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn room(&self) -> Result<Room, StorageError> {
        let folder = self.store.path_to_filesystem(&Key::from("ready"))?;
        let folder = folder.parent().unwrap_or(&folder);
        let said = rustix::fs::statvfs(folder).map_err(|error| StorageError::Folder {
            path: folder.display().to_string(),
            source: error.into(),
        })?;
        let bytes = |blocks: u64| blocks.saturating_mul(said.f_frsize);
        Ok(Room { available: bytes(said.f_bavail), size: bytes(said.f_blocks) })
    }
}
