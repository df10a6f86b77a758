//! Which of these chunks are missing? One question covers many.

use larder_protocol::{
    ChunkId,
    api::{MAX_CHUNKS_ASKED, encode_missing},
};

use super::PushRequest;
use crate::error::ApiError;

/// Answers one bit for each name.
///
/// What is said to be present cannot go before the push ends: a sweep condemns a chunk first, and takes
/// it when every push that was open then has ended.
pub(super) async fn missing_chunks(request: &PushRequest, body: &[u8]) -> Result<Vec<u8>, ApiError> {
    let (names, []) = body.as_chunks::<32>() else {
        return Err(ApiError::bad_request("the question is not made of names of 32 bytes"));
    };
    if names.len() > MAX_CHUNKS_ASKED {
        return Err(ApiError::too_large("the question names more than 65,536 chunks; ask several"));
    }
    let names: Vec<ChunkId> = names.iter().map(|name| ChunkId(*name)).collect();
    let stored = request.stored_chunks(&names).await?;
    Ok(encode_missing(names.iter().map(|name| !stored.contains_key(name))))
}
