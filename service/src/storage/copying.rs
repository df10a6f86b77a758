//! Objects of another storage.

use std::sync::Arc;

use bytes::Bytes;

use super::{Run, Storage, StorageError};

/// So many bytes of an object are read at once: as many as a part that goes to a bucket has.
const PIECE: u64 = 5 << 20;

impl Storage {
    /// Writes an object of `size` bytes as it is in another storage, unless it is not there whole. Whether it is here now.
    /// It takes two pieces of memory, 10 MiB, and as much again where this is a bucket.
    ///
    /// # Errors
    /// When one of the two refuses.
    pub(crate) async fn copy_from(&self, source: &Self, key: &str, size: u64) -> Result<bool, StorageError> {
        let object: Arc<str> = key.into();
        let mut target = self.begin(key).await?;
        let mut start = 0;
        while start < size {
            let range = start..size.min(start + PIECE);
            start = range.end;
            let piece = match source.read(vec![Run { object: object.clone(), range }]).await {
                Ok(piece) => piece,
                // What was written of it goes when it is dropped.
                Err(error) if error.is_lost() => return Ok(false),
                Err(error) => return Err(error),
            };
            target.write(Bytes::from(piece).into()).await?;
        }
        target.finish().await?;
        Ok(true)
    }
}
