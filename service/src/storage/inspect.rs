//! Looking at objects as files: what is there, how long it is, what its index says.

use std::{io::ErrorKind, sync::Arc};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use larder_protocol::upload::{FrameEntry, MAX_INDEX, decode_index};
use object_store::{ObjectStore as _, ObjectStoreExt as _, path::Path as Key};

use super::{Run, Storage, StorageError, object::END};

/// A frame as the index of its object says it, and where it lies.
pub type IndexedFrame = (FrameEntry, u64);

/// What follows the index: its length, and what says that it is one.
const TAIL: u64 = 16;

impl StorageError {
    /// Whether the bytes themselves are lost: there is no such object, or the disk cannot read it, or it is cut short.
    /// Everything else may be over in a moment, and says nothing of the object.
    pub fn is_lost(&self) -> bool {
        self.lost_object().is_some()
            || matches!(self, Self::Unfilled(_) | Self::Store(object_store::Error::NotFound { .. }))
    }

    /// Which object's bytes were lost when they were to be read. (A recipe that does not fit its chunks says nothing of them.)
    pub(crate) fn lost_object(&self) -> Option<&str> {
        /// `EIO`: what a disk or a file system answers whose checksum does not hold.
        const UNREADABLE: i32 = 5;
        match self {
            Self::Missing(object) | Self::Short(object) => Some(object),
            Self::Unreadable { object, source } => {
                let is_lost =
                    source.kind() == ErrorKind::NotFound || source.raw_os_error() == Some(UNREADABLE);
                is_lost.then_some(object)
            }
            _ => None,
        }
    }
}

impl Storage {
    /// How long an object is; `None` if there is none.
    ///
    /// # Errors
    /// When storage cannot tell.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, StorageError> {
        match self.store.head(&Key::from(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All objects below a folder, or below all, with their lengths.
    pub fn list(
        &self,
        folder: &str,
    ) -> impl Stream<Item = Result<(String, u64), StorageError>> + Send + 'static {
        let prefix = (!folder.is_empty()).then(|| Key::from(folder));
        self.store
            .list(prefix.as_ref())
            .map_ok(|meta| (meta.location.to_string(), meta.size))
            .map(|found| found.map_err(StorageError::from))
    }

    /// Whether any of these objects is there.
    ///
    /// # Errors
    /// When storage cannot tell.
    pub async fn has_one_of(&self, keys: &[String]) -> Result<bool, StorageError> {
        for key in keys {
            if self.size(key).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads a small object whole.
    ///
    /// # Errors
    /// When it is not there, or longer than `limit`.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Vec<u8>, StorageError> {
        let size = self.store.head(&Key::from(key)).await?.size;
        if size > limit {
            return Err(StorageError::Short(key.to_owned()));
        }
        self.read(vec![Run { object: Arc::from(key), range: 0..size }]).await
    }

    /// The index at the end of an object of `size` bytes, or what is wrong with it.
    ///
    /// # Errors
    /// When the object cannot be read.
    pub async fn index(
        &self,
        key: &str,
        size: u64,
    ) -> Result<Result<Vec<IndexedFrame>, &'static str>, StorageError> {
        let object: Arc<str> = key.into();
        let read = async |range| self.read(vec![Run { object: object.clone(), range }]).await;
        let Some(index_end) = size.checked_sub(TAIL) else {
            return Ok(Err("it is too short to have an index"));
        };
        let tail = read(index_end..size).await?;
        let (length, end) = tail.split_at(8);
        if end != END {
            return Ok(Err("it does not end as an object does"));
        }
        let length = length.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
        let start = index_end.checked_sub(length).filter(|_| length <= MAX_INDEX as u64);
        let Some(start) = start else { return Ok(Err("its index has a length that cannot be")) };
        let bytes = read(start..index_end).await?;
        let Ok(Some((entries, read))) = decode_index(&bytes) else {
            return Ok(Err("its index cannot be read"));
        };
        let mut offset = 0;
        let frames: Vec<IndexedFrame> = entries
            .into_iter()
            .map(|entry| {
                let at = offset;
                offset += u64::from(entry.frame_len);
                (entry, at)
            })
            .collect();
        if offset != start || read != bytes.len() {
            return Ok(Err("its index is of other frames"));
        }
        Ok(Ok(frames))
    }
}
