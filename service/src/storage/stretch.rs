//! Reading a recipe from a bucket. Frames that lie one behind the other in one object come by one request, and are handed on
//! as they come: one for each piece of them would cost more than the piece. The rest is asked for in several places at once.

use std::{future::ready, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{GetOptions, path::Path as Key};
use tokio::sync::mpsc::{
    self,
    error::{SendError, SendTimeoutError},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Ingredient, Run, Storage, StorageError,
    bucket::{Bucket, GAP, OBJECTS, PIECE, READ_AHEAD},
    frames::{Piece, batches, fill, runs},
};

/// What is shorter comes as soon when it is asked for piece by piece, side by side.
const SHORTEST: u64 = 3 * PIECE;
/// So much comes by one request at most.
const LONGEST: u64 = 16 << 20;
/// So much of it is handed on at a time.
const STRETCH_PIECE: u64 = 512 << 10;
/// So many pieces wait for whoever reads them.
const WAITING: usize = 2;
/// So many parts of a recipe come at once: the next one begins while the last is read.
const AT_ONCE: usize = 2;

/// Frames of a recipe that follow each other.
enum Part {
    /// They lie one behind the other.
    Stretch(Run, Range<usize>),
    /// They lie anywhere.
    Apart(Range<usize>),
}

/// The part of an object in which the first frames of a recipe lie one behind the other, and how many these are.
fn stretch(recipe: &[Ingredient]) -> Option<(Run, usize)> {
    let (first, _) = recipe.first()?;
    let mut range = first.frame_offset..first.frame_offset;
    let together = recipe.iter().take_while(|(chunk, _)| {
        let end = chunk.frame_offset + u64::from(chunk.frame_len);
        let follows = chunk.object == first.object
            && (range.end..=range.end + GAP).contains(&chunk.frame_offset)
            && end - range.start <= LONGEST;
        if follows {
            range.end = end;
        }
        follows
    });
    let count = together.count();
    Some((Run { object: first.object.clone(), range }, count))
}

fn parts(recipe: &[Ingredient]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some((run, count)) = stretch(&recipe[at..]) {
        // A frame that is longer than any stretch is one by itself.
        let frames = at..at + count.max(1);
        at = frames.end;
        match parts.last_mut() {
            _ if run.range.end - run.range.start >= SHORTEST => parts.push(Part::Stretch(run, frames)),
            Some(Part::Apart(apart)) => apart.end = frames.end,
            _ => parts.push(Part::Apart(frames)),
        }
    }
    parts
}

impl Bucket {
    /// Reads all frames of a recipe, piece after piece. What is asked for goes on while the reader takes nothing: a slow
    /// reader's request is not taken for one that the bucket does not answer.
    pub fn stream(self, storage: Storage, recipe: Arc<[Ingredient]>) -> BoxStream<'static, Piece> {
        let parts = parts(&recipe);
        let start = move |part| {
            let (tell, mut told) = mpsc::channel(WAITING);
            let reading =
                Reading { bucket: self.clone(), storage: storage.clone(), recipe: recipe.clone(), tell };
            // An error is that nobody reads any more.
            let reading =
                AbortOnDropHandle::new(tokio::spawn(async move { reading.part(part).await.is_ok() }));
            ready(stream::poll_fn(move |context| {
                let _reading = &reading;
                told.poll_recv(context)
            }))
        };
        let pieces = stream::iter(parts).map(start).buffered(AT_ONCE).flatten();
        // What a panic has left out must not be taken for what follows it.
        let whole = |next: &mut usize, mut piece: Piece| {
            if piece.frames.start != *next {
                piece = Piece { frames: *next..piece.frames.end, bytes: Err(StorageError::LeftOut) };
            }
            *next = piece.frames.end;
            ready(Some(piece))
        };
        pieces.scan(0, whole).boxed()
    }

    /// Begins to read a run.
    async fn begin(&self, run: &Run) -> Result<Body, StorageError> {
        let Run { object, range } = run;
        let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
        match self.store.get_opts(&Key::from(&**object), options).await {
            Ok(answer) => Ok(Body {
                object: object.clone(),
                size: answer.meta.size,
                at: answer.range.start,
                here: Bytes::new(),
                coming: answer.into_stream(),
            }),
            Err(error) => Err(self.refused(object, range.end, error).await),
        }
    }
}

/// A recipe that is being read.
struct Reading {
    bucket: Bucket,
    storage: Storage,
    recipe: Arc<[Ingredient]>,
    tell: mpsc::Sender<Piece>,
}

impl Reading {
    async fn part(&self, part: Part) -> Result<(), SendError<Piece>> {
        match part {
            Part::Stretch(run, frames) => self.stretch(run, frames).await,
            Part::Apart(frames) => self.apart(frames).await,
        }
    }

    fn pieces(&self, frames: Range<usize>, piece: u64) -> impl Iterator<Item = Range<usize>> + use<> {
        let pieces = batches(&self.recipe[frames.clone()], piece, OBJECTS);
        pieces.into_iter().map(move |piece| frames.start + piece.start..frames.start + piece.end)
    }

    /// Pieces that come by one request. Where it breaks off, or nobody takes them for a while, the rest is asked for by
    /// itself: a request has its time, and a connection to the bucket is not kept for who does not read.
    async fn stretch(&self, run: Run, frames: Range<usize>) -> Result<(), SendError<Piece>> {
        let (bucket, end) = (&self.bucket, frames.end);
        if bucket.has_near(&run.object).await {
            return self.apart(frames).await;
        }
        let mut body = None;
        for frames in self.pieces(frames, STRETCH_PIECE) {
            let read = async {
                let body = match &mut body {
                    Some(body) => body,
                    none => none.insert(bucket.begin(&run).await?),
                };
                let bytes = body.read(&self.recipe[frames.clone()]).await?;
                if let Some(tier) = &bucket.hot_tier {
                    tier.missed(&bucket.store, &Key::from(&*body.object), bytes.len() as u64, body.size);
                }
                Ok(bytes)
            };
            let within = bucket.waits.read;
            let bytes = match tokio::time::timeout(within, read).await {
                Ok(Err::<_, StorageError>(_)) => return self.apart(frames.start..end).await,
                Ok(bytes) => bytes,
                Err(_) => Err(StorageError::Late(within)),
            };
            let late = bytes.is_err();
            let rest = frames.end..end;
            let piece = Piece { frames, bytes };
            match self.tell.send_timeout(piece, within).await {
                Ok(()) if !late => {}
                Ok(()) => return self.apart(rest).await,
                Err(SendTimeoutError::Closed(piece)) => return Err(SendError(piece)),
                Err(SendTimeoutError::Timeout(piece)) => {
                    drop(body);
                    self.tell.send(piece).await?;
                    return self.apart(rest).await;
                }
            }
        }
        Ok(())
    }

    /// Pieces that are asked for each by itself, some at the same time.
    async fn apart(&self, frames: Range<usize>) -> Result<(), SendError<Piece>> {
        let read = |frames: Range<usize>| {
            let reading = tokio::spawn(self.storage.clone().piece(self.recipe.clone(), frames.clone()));
            AbortOnDropHandle::new(reading)
                .map(|done| done.unwrap_or_else(|error| Piece { frames, bytes: Err(error.into()) }))
        };
        let mut pieces = stream::iter(self.pieces(frames, PIECE)).map(read).buffered(READ_AHEAD);
        while let Some(piece) = pieces.next().await {
            self.tell.send(piece).await?;
        }
        Ok(())
    }
}

/// A run that is being read.
struct Body {
    object: Arc<str>,
    /// The whole object's.
    size: u64,
    /// Where in the object what is here begins.
    at: u64,
    here: Bytes,
    coming: BoxStream<'static, object_store::Result<Bytes>>,
}

impl Body {
    /// Reads the next frames, with their holes filled. They lie behind what was read before.
    async fn read(&mut self, frames: &[Ingredient]) -> Result<Vec<u8>, StorageError> {
        let length: u64 = frames.iter().map(|(chunk, _)| u64::from(chunk.frame_len)).sum();
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        for Run { range, .. } in runs(frames) {
            while self.at < range.end {
                if self.here.is_empty() {
                    let short = || StorageError::Short(self.object.to_string());
                    self.here = self.coming.next().await.ok_or_else(short)??;
                }
                let wanted = if self.at < range.start { range.start } else { range.end } - self.at;
                let now =
                    self.here.split_to(usize::try_from(wanted).unwrap_or(usize::MAX).min(self.here.len()));
                if self.at >= range.start {
                    bytes.extend_from_slice(&now);
                }
                self.at += now.len() as u64;
            }
        }
        fill(frames, &mut bytes)?;
        Ok(bytes)
    }
}
