//! Sending the frames of a NAR, wherever they lie by then: what is being read may move to another object meanwhile, and its
//! old one may go. Their bytes are the same wherever they lie.

use std::{ops::Range, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use crate::{
    Service,
    metadata::{Metadata, StoredNar},
    storage::{Ingredient, Piece, Storage, StorageError, have_moved},
    verification::suspect,
};

/// How often frames are looked up again that move while they are looked up.
const TRIES: usize = 3;
/// How long until storage is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// The frames of a NAR that are being sent.
struct Frames {
    service: Arc<Service>,
    nar: StoredNar,
    recipe: Arc<[Ingredient]>,
    /// Where in the NAR's recipe this one begins.
    first: usize,
}

impl Frames {
    /// What was read; where that failed, what is read now.
    async fn mend(&self, piece: Piece) -> Result<Bytes, StorageError> {
        match piece.bytes {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) if piece.frames.start > 0 => {
                tracing::debug!(%error, "a part of a NAR that is being sent is read again");
                self.read_on(piece.frames).await
            }
            Err(error) if error.is_unavailable() => Err(error),
            Err(_) => self.read(piece.frames).await,
        }
    }

    /// Reads what follows the first bytes: whoever has those is better off waiting than cut off, though not for ever.
    async fn read_on(&self, batch: Range<usize>) -> Result<Bytes, StorageError> {
        let until = Instant::now() + self.service.storage.patience();
        loop {
            match self.read(batch.clone()).await {
                Err(error) if error.is_unavailable() && Instant::now() < until => {
                    tracing::debug!(%error, "a NAR that is being sent waits for its storage");
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn read(&self, batch: Range<usize>) -> Result<Bytes, StorageError> {
        let Service { metadata, storage, .. } = &*self.service;
        let place = self.first + batch.start;
        read_frames(metadata, storage, &self.nar, &self.recipe[batch], place)
            .await
            .inspect_err(|error| suspect(&self.service, error))
    }
}

/// Reads frames of a NAR, of which the first has this place in its recipe, one behind the other and with their holes
/// filled.
///
/// # Errors
/// When an object is gone or too short, and its frames lie nowhere else.
pub(crate) async fn read_frames(
    metadata: &Metadata,
    storage: &Storage,
    nar: &StoredNar,
    frames: &[Ingredient],
    place: usize,
) -> Result<Bytes, StorageError> {
    let mut failed = match storage.read_frames(frames).await {
        Ok(bytes) => return Ok(bytes.into()),
        Err(error) => error,
    };
    let mut known: Option<Vec<Ingredient>> = None;
    for _ in 0..TRIES {
        let now = match metadata.recipe_part(nar, place..place + frames.len()).await {
            Ok(now) => now,
            Err(error) => {
                tracing::error!(%error, "where frames lie now could not be looked up");
                return Err(failed);
            }
        };
        let before = known.as_deref().unwrap_or(frames);
        if !have_moved(before, &now) {
            return Err(failed);
        }
        match storage.read_frames(&now).await {
            Ok(bytes) => return Ok(bytes.into()),
            Err(error) => failed = error,
        }
        known = Some(now);
    }
    Err(failed)
}

/// The bytes of a range; `sent` is told how many of them go out. The first are read before this returns: what cannot be read at all is no 200.
pub(super) async fn body(
    service: Arc<Service>,
    nar: StoredNar,
    mut recipe: Vec<Ingredient>,
    range: Range<u64>,
    sent: impl Fn(usize) + Send + 'static,
) -> Result<Body, StorageError> {
    let (first, mut skip) = trim(&mut recipe, &range);
    let recipe: Arc<[Ingredient]> = recipe.into();
    let pieces = service.storage.stream(recipe.clone());
    let frames = Arc::new(Frames { service, nar, recipe, first });
    let mut pieces = pieces
        .then(move |piece| {
            let frames = frames.clone();
            async move { frames.mend(piece).await }
        })
        .boxed();
    let Some(first) = pieces.next().await.transpose()? else { return Ok(Body::empty()) };
    let mut left = range.end - range.start;
    let pieces = stream::once(async { Ok(first) }).chain(pieces).map(move |piece| {
        let mut piece: Bytes = piece.inspect_err(|error| tracing::error!(%error, "a NAR was cut off"))?;
        let unwanted = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
        skip -= unwanted as u64;
        let _ = piece.split_to(unwanted);
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(piece.len()));
        left -= piece.len() as u64;
        sent(piece.len());
        Ok::<_, StorageError>(piece)
    });
    Ok(Body::from_stream(pieces))
}

/// Keeps the frames that a range touches; tells how many frames lie before them, and how many bytes of the first kept one
/// lie before the range.
fn trim(recipe: &mut Vec<Ingredient>, range: &Range<u64>) -> (usize, u64) {
    let mut at = 0;
    let (mut first, mut skip) = (0, None);
    recipe.retain(|(chunk, _)| {
        let start = at;
        at += u64::from(chunk.frame_len);
        let touched = start < range.end && at > range.start;
        match skip {
            None if touched => skip = Some(range.start - start),
            None => first += 1,
            Some(_) => {}
        }
        touched
    });
    (first, skip.unwrap_or(0))
}
