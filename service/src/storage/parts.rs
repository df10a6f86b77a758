//! Writing a large object to a bucket: in parts, as they come.
//!
//! Parts that were sent stay in a bucket, and are paid for, until the object is made of them or they are given up; and no
//! list of objects shows them. So their upload is noted beside the objects, as `uploads/<key>`, before the first of them
//! goes: whoever deletes the object, as a sweep does with what a killed service left, finds it there.

use bytes::Bytes;
use object_store::{MultipartId, ObjectStoreExt as _, PutPayload, multipart::PartId, path::Path as Key};
use tokio::task::JoinSet;

use super::{StorageError, bucket::Bucket, hot_tier::Copying};

/// The bytes of a part, all but the last of which have the same length (R2 wants that), and this one at least (S3 wants
/// that): <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.
const PART: usize = 5 << 20;
/// What an object takes in memory while it is written, in bytes: a part that is sent, and one that is filled.
pub(super) const HELD: usize = 2 * PART;

/// An object that goes to a bucket: by one request if it is small, in parts if it is large.
pub(super) struct Parts {
    bucket: Bucket,
    key: Key,
    held: Vec<Bytes>,
    length: usize,
    upload: Option<Upload>,
    /// What the hot tier gets of it.
    copying: Option<Copying>,
    /// Whether some of it was not taken: then the rest makes no object.
    is_broken: bool,
}

struct Upload {
    id: MultipartId,
    /// The parts that are there, in their order.
    sent: Vec<PartId>,
    /// The one that is under way.
    sending: JoinSet<object_store::Result<PartId>>,
}

impl Parts {
    pub fn new(bucket: Bucket, key: Key) -> Self {
        let copying = bucket.hot_tier.clone().map(|tier| Copying::new(tier, &key));
        Self { bucket, key, held: Vec::new(), length: 0, upload: None, copying, is_broken: false }
    }

    pub async fn write(&mut self, payload: PutPayload) -> Result<(), StorageError> {
        if let Some(copying) = &mut self.copying {
            copying.write(payload.clone()).await;
        }
        let written = self.send_full_parts(payload).await;
        self.is_broken |= written.is_err();
        written
    }

    async fn send_full_parts(&mut self, payload: PutPayload) -> Result<(), StorageError> {
        self.length += payload.content_length();
        self.held.extend(payload);
        while self.length > PART {
            let part = self.take_part();
            self.send(part).await?;
        }
        Ok(())
    }

    /// The first bytes of what is held, exactly a part.
    fn take_part(&mut self) -> PutPayload {
        let (mut part, mut missing) = (Vec::new(), PART);
        let mut rest = std::mem::take(&mut self.held).into_iter();
        for mut bytes in rest.by_ref() {
            if bytes.len() > missing {
                part.push(bytes.split_to(missing));
                self.held.push(bytes);
                break;
            }
            missing -= bytes.len();
            part.push(bytes);
        }
        self.held.extend(rest);
        self.length -= PART;
        part.into_iter().collect()
    }

    /// Sends a part, when the one before it is there.
    async fn send(&mut self, part: PutPayload) -> Result<(), StorageError> {
        if self.upload.is_none() {
            let id = self.bucket.parts.create_multipart(&self.key).await?;
            let note = Bytes::from(id.clone());
            self.upload = Some(Upload { id, sent: Vec::new(), sending: JoinSet::new() });
            self.bucket.store.put(&note_of(&self.key), note.into()).await?;
        }
        let Some(upload) = &mut self.upload else { return Ok(()) };
        upload.arrive().await?;
        let (parts, key, id) = (self.bucket.parts.clone(), self.key.clone(), upload.id.clone());
        let number = upload.sent.len();
        upload.sending.spawn(async move { parts.put_part(&key, &id, number, part).await });
        Ok(())
    }

    /// Waits until the object is there whole.
    pub async fn finish(mut self) -> Result<(), StorageError> {
        self.complete().await?;
        if let Some(copying) = self.copying.take() {
            copying.finish().await;
        }
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), StorageError> {
        if self.is_broken {
            return Err(StorageError::Broken);
        }
        let rest: PutPayload = std::mem::take(&mut self.held).into_iter().collect();
        if self.upload.is_none() {
            self.bucket.store.put(&self.key, rest).await?;
            return Ok(());
        }
        self.send(rest).await?;
        if let Some(upload) = &mut self.upload {
            upload.arrive().await?;
            let sent = std::mem::take(&mut upload.sent);
            self.bucket.parts.complete_multipart(&self.key, &upload.id, sent).await?;
        }
        self.upload = None;
        if let Err(error) = self.bucket.store.delete(&note_of(&self.key)).await {
            tracing::debug!(%error, "the note of an upload that has ended could not be removed");
        }
        Ok(())
    }

    /// Gives up what was sent.
    pub async fn abort(mut self) {
        if let Some(upload) = self.upload.take() {
            give_up(self.bucket.clone(), self.key.clone(), upload).await;
        }
    }
}

impl Upload {
    /// Waits for the part that is under way.
    async fn arrive(&mut self) -> Result<(), StorageError> {
        while let Some(part) = self.sending.join_next().await {
            let part = part.map_err(|error| object_store::Error::JoinError { source: error })??;
            self.sent.push(part);
        }
        Ok(())
    }
}

impl Drop for Parts {
    /// Whoever wrote it failed, or waits no longer: its client hung up.
    fn drop(&mut self) {
        if let (Some(upload), Ok(runtime)) = (self.upload.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(give_up(self.bucket.clone(), self.key.clone(), upload));
        }
    }
}

async fn give_up(bucket: Bucket, key: Key, mut upload: Upload) {
    // A part that arrives later would stay.
    upload.sending.shutdown().await;
    let given_up = async {
        bucket.parts.abort_multipart(&key, &upload.id).await?;
        bucket.store.delete(&note_of(&key)).await
    };
    if let Err(error) = given_up.await {
        tracing::warn!(%error, object = %key, "an upload that was given up could not be removed: a sweep will");
    }
}

/// Gives up what a service that was killed had sent of an object.
pub(super) async fn give_up_noted(bucket: &Bucket, key: &Key) -> Result<(), StorageError> {
    let note = note_of(key);
    let id = match bucket.store.get(&note).await {
        Ok(found) => found.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let id = String::from_utf8_lossy(&id).into_owned();
    match bucket.parts.abort_multipart(key, &id).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    match bucket.store.delete(&note).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The folder of notes of uploads.
const NOTES: &str = "uploads";

fn note_of(key: &Key) -> Key {
    Key::from(format!("{NOTES}/{key}"))
}

/// Whose upload a key notes, if it does: the object's key.
pub(crate) fn noted_by(key: &str) -> Option<&str> {
    key.strip_prefix(NOTES)?.strip_prefix('/')
}
