//! Reading what a client sends: never more than is allowed, never waiting for ever.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::time::Instant;

use crate::error::ApiError;

/// How long a client may send nothing.
const STALL: Duration = Duration::from_secs(60);

/// How long what a refused client still sends is read.
const DRAIN: Duration = Duration::from_secs(10);

/// A body that is read in pieces of the reader's choice.
pub struct BodyReader {
    stream: BodyDataStream,
    buffer: BytesMut,
    left: u64,
    limit: u64,
    deadline: Instant,
}

impl BodyReader {
    /// Reads at most `limit` bytes of `body`, all of which must come in time.
    pub fn new(body: Body, limit: u64, within: Duration) -> Self {
        Self {
            stream: body.into_data_stream(),
            buffer: BytesMut::new(),
            left: limit,
            limit,
            deadline: Instant::now() + within,
        }
    }

    /// What has come and is not taken yet.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Waits for more; `false` at the body's end.
    pub async fn more(&mut self) -> Result<bool, ApiError> {
        let until = self.deadline.min(Instant::now() + STALL);
        let next =
            tokio::time::timeout_at(until, self.stream.next()).await.map_err(|_| ApiError::timed_out())?;
        let Some(piece) = next else { return Ok(false) };
        let piece = piece.map_err(|_| ApiError::bad_request("the body was cut off; send it again"))?;
        self.left = self.left.checked_sub(piece.len() as u64).ok_or_else(|| {
            ApiError::too_large(format!(
                "the body is larger than {} bytes (limits.max_body); send several smaller ones",
                self.limit
            ))
        })?;
        self.buffer.extend_from_slice(&piece);
        Ok(true)
    }

    /// Takes the next `len` bytes.
    pub async fn take(&mut self, len: usize) -> Result<Bytes, ApiError> {
        while self.buffer.len() < len {
            if !self.more().await? {
                return Err(ApiError::bad_request("the body ends too early; send it again"));
            }
        }
        Ok(self.buffer.split_to(len).freeze())
    }

    /// Reads on without keeping anything, so that a client that is still sending lives to read why it was refused:
    /// if its connection were closed under it, it would see no more than that.
    pub async fn drain(mut self) {
        let drained = async { while let Some(Ok(_)) = self.stream.next().await {} };
        let _ = tokio::time::timeout(DRAIN, drained).await;
    }

    /// Takes all that is left.
    pub async fn rest(mut self) -> Result<Bytes, ApiError> {
        while self.more().await? {}
        Ok(self.buffer.freeze())
    }
}
