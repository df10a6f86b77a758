//! Writing an object of frames.

use bytes::Bytes;
use larder_protocol::upload::{FrameEntry, encode_index};
use object_store::{MultipartUpload, PutPayload};

use super::StorageError;

pub(super) const END: &[u8; 8] = b"LARDEROX";

/// An object of frames that is being written. Dropped before [`ObjectWriter::finish`], it leaves nothing.
pub struct ObjectWriter {
    upload: Box<dyn MultipartUpload>,
    entries: Vec<FrameEntry>,
    len: u64,
}

impl ObjectWriter {
    pub(super) fn new(upload: Box<dyn MultipartUpload>) -> Self {
        Self { upload, entries: Vec::new(), len: 0 }
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
        self.upload.put_part(frames).await?;
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
        self.upload.put_part(Bytes::from(index).into()).await?;
        self.upload.complete().await?;
        Ok(self.len)
    }

    /// Gives the object up.
    pub async fn abort(mut self) {
        if let Err(error) = self.upload.abort().await {
            tracing::warn!(%error, "an object that was given up could not be removed");
        }
    }
}
