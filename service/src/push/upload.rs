//! Taking frames: each is checked by itself, then written to an object, and known once that is on disk.

use std::{collections::HashSet, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use larder_protocol::{
    ChunkId,
    api::UploadAnswer,
    upload::{FrameEntry, decode_index},
};
use object_store::PutPayload;

use super::{PushRequest, body::BodyReader, room::refuse_on_full_disk, workshop::UPLOAD_WITHIN};
use crate::{error::ApiError, isolated, metadata::ObjectId, random::random_hex, storage::ObjectWriter};

/// So many bytes of frames are checked and written at once.
const BATCH_BYTES: usize = 512 << 10;
/// So many bytes of content may these be.
const BATCH_CONTENT: usize = 4 << 20;

/// An object that has so many bytes ends: with one more batch and its index it stays below 32 MiB.
const OBJECT_BYTES: u64 = 28 << 20;

/// An upload that is under way.
pub(super) struct Upload {
    request: Arc<PushRequest>,
    object: Option<(ObjectId, ObjectWriter)>,
    /// The frames that are written, with their places in the object.
    written: Vec<(FrameEntry, u64)>,
    stored: u64,
    present: u64,
}

/// Stores the frames of a body that the service lacks. When the body breaks off or a frame is refused, what came
/// before is stored nevertheless.
pub(super) async fn store_frames(request: PushRequest, body: Body) -> Result<UploadAnswer, ApiError> {
    let mut body = BodyReader::new(body, request.service.config.limits.max_body.get(), UPLOAD_WITHIN);
    let stored = store(request, &mut body).await;
    if stored.is_err() {
        body.drain().await;
    }
    stored
}

async fn store(request: PushRequest, body: &mut BodyReader) -> Result<UploadAnswer, ApiError> {
    refuse_on_full_disk(&request.service)?;
    let entries = read_index(body).await?;
    let names: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
    let stored = request.stored_chunks(&names).await?;
    let mut known: HashSet<ChunkId> = stored.into_keys().collect();
    let mut upload = Upload::new(Arc::new(request));
    let taken = upload.take(body, entries, &mut known).await;
    let answer = upload.finish().await?;
    taken?;
    Ok(answer)
}

async fn read_index(body: &mut BodyReader) -> Result<Vec<FrameEntry>, ApiError> {
    let mut wanted = 1;
    loop {
        // Decoding again each time the bytes have doubled keeps the work linear.
        if body.buffered().len() >= wanted {
            wanted = body.buffered().len() * 2;
            if let Some((entries, length)) =
                decode_index(body.buffered()).map_err(|e| ApiError::bad_request(e.to_string()))?
            {
                body.take(length).await?;
                return Ok(entries);
            }
        }
        if !body.more().await? {
            let whole = decode_index(body.buffered()).map_err(|e| ApiError::bad_request(e.to_string()))?;
            let (entries, length) = whole
                .ok_or_else(|| ApiError::bad_request("the body ends within its index; send it again"))?;
            body.take(length).await?;
            return Ok(entries);
        }
    }
}

impl Upload {
    pub(super) fn new(request: Arc<PushRequest>) -> Self {
        Self { request, object: None, written: Vec::new(), stored: 0, present: 0 }
    }

    /// Whether all that was written is on disk, and known.
    pub(super) fn is_durable(&self) -> bool {
        self.object.is_none()
    }

    async fn take(
        &mut self,
        body: &mut BodyReader,
        entries: Vec<FrameEntry>,
        known: &mut HashSet<ChunkId>,
    ) -> Result<(), ApiError> {
        let mut batch = Vec::new();
        let (mut bytes, mut content) = (0, 0);
        for entry in entries {
            let frame = match body.take(entry.frame_len as usize).await {
                Ok(frame) => frame,
                Err(error) => {
                    self.write(batch).await?;
                    return Err(error);
                }
            };
            if !known.insert(entry.id) {
                self.present += 1;
                continue;
            }
            bytes += frame.len();
            content += entry.content_len as usize;
            batch.push((entry, frame));
            if bytes >= BATCH_BYTES || content >= BATCH_CONTENT {
                self.write(std::mem::take(&mut batch)).await?;
                (bytes, content) = (0, 0);
            }
        }
        self.write(batch).await?;
        if !body.buffered().is_empty() || body.more().await? {
            return Err(ApiError::bad_request("bytes follow the last frame of the body"));
        }
        Ok(())
    }

    /// Checks frames and writes them to the object; ends it when it is large enough.
    async fn write(&mut self, batch: Vec<(FrameEntry, Bytes)>) -> Result<(), ApiError> {
        if batch.is_empty() {
            return Ok(());
        }
        let service = &self.request.service;
        let batch = service
            .workshop
            .work(move |decoder| {
                for (entry, frame) in &batch {
                    decoder
                        .check(entry, frame)
                        .map_err(|error| ApiError::invalid(format!("chunk {}: {error}", entry.id)))?;
                }
                Ok::<_, ApiError>(batch)
            })
            .await??;
        self.append(batch).await
    }

    /// Writes frames that hold to the object; ends it when it is large enough.
    pub(super) async fn append(&mut self, batch: Vec<(FrameEntry, Bytes)>) -> Result<(), ApiError> {
        if batch.is_empty() {
            return Ok(());
        }
        let service = &self.request.service;
        if self.object.is_none() {
            let key = format!("frames/{}/{}", self.request.cache.namespace().folder(), random_hex()?);
            let now = service.clock.now();
            let row = service.metadata.begin_object(&key, self.request.push.id, now).await?;
            self.object = Some((row, service.storage.write(&key).await?));
        }
        let Some((_, writer)) = &mut self.object else { return Err(ApiError::internal("no object")) };
        let payload: PutPayload = batch.iter().map(|(_, frame)| frame.clone()).collect();
        let mut offset = writer.write(batch.iter().map(|(entry, _)| entry.clone()), payload).await?;
        for (entry, frame) in batch {
            self.written.push((entry, offset));
            offset += frame.len() as u64;
        }
        if offset >= OBJECT_BYTES {
            self.end_object().await?;
        }
        Ok(())
    }

    /// Waits until the object is on disk, then makes its frames known.
    pub(super) async fn end_object(&mut self) -> Result<(), ApiError> {
        let written = std::mem::take(&mut self.written);
        match self.object.take() {
            None => {}
            Some((_, writer)) if written.is_empty() => writer.abort().await,
            Some((row, writer)) => {
                let PushRequest { service, cache, .. } = &*self.request;
                let frames: u64 = written.iter().map(|(entry, _)| u64::from(entry.frame_len)).sum();
                if let Err(full) = isolated::count_bytes(service, cache, frames).await {
                    writer.abort().await;
                    service.metadata.forget_object(row).await?;
                    return Err(full);
                }
                let size = writer.finish().await?;
                let namespace = self.request.cache.namespace();
                let push = self.request.push;
                let sent_by = push.is_blind().then_some(push.id);
                service.metadata.finish_object(row, size, namespace, &written, sent_by).await?;
                self.stored += written.len() as u64;
                service.stats.counters.bytes_uploaded.add(frames);
            }
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<UploadAnswer, ApiError> {
        self.end_object().await?;
        Ok(UploadAnswer { stored: self.stored, present: self.present })
    }
}
