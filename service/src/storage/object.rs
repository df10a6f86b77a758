//! Writing an object of frames.

use bytes::Bytes;
use larder_protocol::upload::{FrameEntry, encode_index};
use object_store::{MultipartUpload, PutPayload};

use super::{StorageError, parts::Parts};

pub(super) const END: &[u8; 8] = b"LARDEROX";

/// An object of frames that is being written. Dropped before [`ObjectWriter::finish`], it leaves nothing.
pub struct ObjectWriter {
    target: Target,
    entries: Vec<FrameEntry>,
    len: u64,
}

/// Where the bytes go.
pub(super) enum Target {
    /// To a file, as they come.
    File(Box<dyn MultipartUpload>),
    /// To a bucket, a part at a time.
    Bucket(Box<Parts>),
}

impl Target {
    pub(super) async fn write(&mut self, payload: PutPayload) -> Result<(), StorageError> {
        match self {
            Self::File(upload) => upload.put_part(payload).await?,
            Self::Bucket(parts) => parts.write(payload).await?,
        }
        Ok(())
    }

    pub(super) async fn finish(self) -> Result<(), StorageError> {
        match self {
            Self::File(mut upload) => drop(upload.complete().await?),
            Self::Bucket(parts) => parts.finish().await?,
        }
        Ok(())
    }
}

impl ObjectWriter {
    pub(super) fn to(target: Target) -> Self {
        Self { target, entries: Vec::new(), len: 0 }
    }

    /// Writes frames one behind the other, and tells where the first begins.
    ///
    /// # Errors
    /// When storage refuses.
    pub async fn write(
        &mut self,
        entries: impl IntoIterator<Item = FrameEntry>,
        frames: PutPayload,
    ) -> Result<u64, StorageError> {
        let offset = self.len;
        self.len += frames.content_length() as u64;
        self.target.write(frames).await?;
        self.entries.extend(entries);
        Ok(offset)
    }

    /// Writes the index, waits until all is on disk, and tells the object's length.
    ///
    /// # Errors
    /// When storage refuses; then there is no object.
    pub async fn finish(mut self) -> Result<u64, StorageError> {
        let mut index = encode_index(&self.entries);
        let length = index.len() as u64;
        index.extend_from_slice(&length.to_le_bytes());
        index.extend_from_slice(END);
        self.len += index.len() as u64;
        self.target.write(Bytes::from(index).into()).await?;
        self.target.finish().await?;
        Ok(self.len)
    }

    /// Gives the object up.
    pub async fn abort(self) {
        match self.target {
            Target::File(mut upload) => {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, "an object that was given up could not be removed");
                }
            }
            Target::Bucket(parts) => parts.abort().await,
        }
    }
}
