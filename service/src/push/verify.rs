//! Verifying a NAR by reading its frames back in order.

use std::{collections::HashMap, sync::Arc};

use futures_util::StreamExt as _;
use larder_protocol::{
    ContentAddress, NarHash, StorePath, StorePathHash,
    chunk::FrameDecoder,
    content_address::{ContentChecker, ContentHash, Method},
    nar::NarChecker,
};
use sha2::{Digest as _, Sha256};

use super::Workshop;
use crate::{
    Service,
    error::ApiError,
    metadata::{Encoding, Metadata, MetadataError, StoredChunk, VerifiedNar},
    storage::{Ingredient, Piece, Storage, StorageError, have_moved},
};

/// By how many content addresses a NAR is checked at most. A NAR has one for each way and algorithm, and so has no
/// more than nine that are right.
const MAX_ADDRESSES: usize = 16;

/// A NAR to be read back: its frames in order, and the content addresses that paths claim for it.
pub(crate) type Claimed<'a> = (&'a [Ingredient], &'a [(StorePath, ContentAddress)]);

/// What is known of a NAR so far.
#[derive(Default)]
struct Reading {
    hash: Sha256,
    structure: NarChecker,
    /// Its contents, by the addresses that paths claim.
    addresses: Vec<(StorePath, ContentChecker)>,
    /// Of the `.nar.zst` as it will be served.
    encoding: blake3::Hasher,
    file_size: u64,
}

impl Reading {
    fn of(addresses: &[(StorePath, ContentAddress)]) -> Result<Self, String> {
        Ok(Self { addresses: checkers(addresses)?, ..Self::default() })
    }

    /// Takes the next frames, which are those of some ingredients.
    fn feed(
        &mut self,
        decoder: &mut FrameDecoder,
        frames: &[u8],
        ingredients: &[Ingredient],
    ) -> Result<(), String> {
        self.encoding.update(frames);
        self.file_size += frames.len() as u64;
        let mut rest = frames;
        for (chunk, _) in ingredients {
            let (frame, later) = rest.split_at(chunk.frame_len as usize);
            let content = decoder.decode(frame, chunk.content_len).map_err(|error| error.to_string())?;
            self.structure.feed(content).map_err(|error| error.to_string())?;
            self.hash.update(content);
            self.addresses.iter_mut().for_each(|(_, checker)| checker.feed(content));
            rest = later;
        }
        Ok(())
    }

    /// All of it was taken.
    fn finish(self) -> Result<Contents, String> {
        self.structure.finish().map_err(|error| error.to_string())?;
        let hash = NarHash(self.hash.finalize().into());
        for (path, checker) in self.addresses {
            checker.finish().map_err(|misfit| format!("{path}: {misfit}"))?;
        }
        let mut encoding = [0; 20];
        encoding.copy_from_slice(&self.encoding.finalize().as_bytes()[..20]);
        Ok(Contents { hash, encoding: StorePathHash(encoding), file_size: self.file_size })
    }
}

/// NARs of which the frames come one behind the other.
struct Readings {
    /// Each with how many of its frames are to come, the first one last; and why, if it is wrong already.
    ahead: Vec<(usize, Result<Reading, String>)>,
    done: Vec<Result<Contents, String>>,
}

impl Readings {
    fn of(nars: &[Claimed<'_>]) -> Self {
        let ahead =
            nars.iter().rev().map(|(frames, addresses)| (frames.len(), Reading::of(addresses))).collect();
        let mut readings = Self { ahead, done: Vec::with_capacity(nars.len()) };
        readings.settle();
        readings
    }

    /// Takes the next frames, which are those of some ingredients.
    fn feed(&mut self, decoder: &mut FrameDecoder, mut frames: &[u8], mut ingredients: &[Ingredient]) {
        while let Some((left, reading)) = self.ahead.last_mut().filter(|_| !ingredients.is_empty()) {
            let (these, later) = ingredients.split_at(ingredients.len().min(*left));
            let length = these.iter().map(|(chunk, _)| chunk.frame_len as usize).sum();
            let (bytes, rest) = frames.split_at(length);
            let fed = reading.as_mut().map(|reading| reading.feed(decoder, bytes, these));
            if let Ok(Err(reason)) = fed {
                *reading = Err(reason);
            }
            *left -= these.len();
            (ingredients, frames) = (later, rest);
            self.settle();
        }
    }

    /// Says of those that have come whole what they are.
    fn settle(&mut self) {
        while let Some((_, reading)) = self.ahead.pop_if(|(left, _)| *left == 0) {
            self.done.push(reading.and_then(Reading::finish));
        }
    }
}

/// What a NAR's frames were found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The hash of the NAR.
    pub hash: NarHash,
    /// The digest of its `.nar.zst`.
    pub encoding: Encoding,
    /// The length of that.
    pub file_size: u64,
}

impl Contents {
    /// The NAR that has these contents and is made of these frames.
    pub fn verified(self, ingredients: Vec<Ingredient>) -> VerifiedNar {
        VerifiedNar {
            hash: self.hash,
            size: ingredients.iter().map(|(chunk, _)| u64::from(chunk.content_len)).sum(),
            encoding: self.encoding,
            file_size: self.file_size,
            chunks: ingredients.into_iter().map(|(chunk, hashes)| (chunk.id, hashes.into_vec())).collect(),
        }
    }
}

/// A NAR could not be read back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadBackError {
    /// Its bytes are not there.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// What read or decoded it ended.
    #[error("a worker panicked")]
    Panicked,
}

impl From<ReadBackError> for ApiError {
    fn from(error: ReadBackError) -> Self {
        match error {
            ReadBackError::Storage(error) => error.into(),
            ReadBackError::Metadata(error) => error.into(),
            ReadBackError::Panicked => Self::logged_already(),
        }
    }
}

/// Where NARs are read back.
#[derive(Clone, Copy)]
pub(crate) struct ReadBack<'a> {
    /// Where frames that have moved are looked for.
    pub metadata: &'a Metadata,
    /// Where they lie.
    pub storage: &'a Storage,
    /// Where they are decoded.
    pub workshop: &'a Workshop,
}

impl<'a> From<&'a Service> for ReadBack<'a> {
    fn from(service: &'a Service) -> Self {
        Self { metadata: &service.metadata, storage: &service.storage, workshop: &service.workshop }
    }
}

impl ReadBack<'_> {
    /// Reads a NAR back from its frames, in order: its structure must be right, and its contents those of the content
    /// addresses that paths claim for it. Tells what it is, or what is wrong with it.
    pub async fn nar(&self, ingredients: &[Ingredient]) -> Result<Result<Contents, String>, ReadBackError> {
        let mut nars = self.nars(&[(ingredients, &[])]).await?;
        nars.pop().ok_or(ReadBackError::Panicked)
    }

    /// The same of NARs whose frames are read one behind the other: what lies together is read together.
    pub async fn nars(&self, nars: &[Claimed<'_>]) -> Result<Vec<Result<Contents, String>>, ReadBackError> {
        let mut readings = Readings::of(nars);
        let ingredients: Arc<[Ingredient]> = nars.iter().flat_map(|(frames, _)| *frames).cloned().collect();
        let mut pieces = self.storage.stream(ingredients.clone());
        let mut here = pieces.next().await;
        while let Some(Piece { frames, bytes }) = here {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) => self.read_moved(&ingredients[frames.clone()], error).await?,
            };
            let ingredients = ingredients.clone();
            let work = self.workshop.work(move |decoder| {
                readings.feed(decoder, &bytes, &ingredients[frames]);
                readings
            });
            // The next frames are read while these are decoded.
            let (worked, next) = tokio::join!(work, pieces.next());
            readings = worked.map_err(|_| ReadBackError::Panicked)?;
            here = next;
        }
        // Storage told less than was asked of it.
        if !readings.ahead.is_empty() {
            return Err(ReadBackError::Panicked);
        }
        Ok(readings.done)
    }

    /// Reads frames that could not be read: where they have moved since they were looked up, from where they lie now.
    async fn read_moved(&self, before: &[Ingredient], error: StorageError) -> Result<Vec<u8>, ReadBackError> {
        let chunks: Vec<i64> = before.iter().map(|(chunk, _)| chunk.id).collect();
        let frames = self.metadata.frames_by_row(&chunks).await?;
        let places: HashMap<i64, &StoredChunk> =
            frames.iter().map(|frame| (frame.chunk.id, &frame.chunk)).collect();
        let now =
            before.iter().map(|(chunk, hashes)| Some(((*places.get(&chunk.id)?).clone(), hashes.clone())));
        match now.collect::<Option<Vec<Ingredient>>>() {
            Some(now) if have_moved(before, &now) => Ok(self.storage.read_frames(&now).await?),
            _ => Err(error.into()),
        }
    }
}

/// What checks each of the content addresses, those once that many paths have.
fn checkers(addresses: &[(StorePath, ContentAddress)]) -> Result<Vec<(StorePath, ContentChecker)>, String> {
    let mut different: Vec<&(StorePath, ContentAddress)> = Vec::new();
    for claim in addresses {
        // Of a NAR's own hash it matters whose it is: a path may name itself.
        let known = |known: &(StorePath, ContentAddress)| {
            let names_itself =
                matches!((claim.1.method, &claim.1.hash), (Method::Nar, ContentHash::Sha256(_)));
            known.1 == claim.1 && (!names_itself || known.0 == claim.0)
        };
        if !different.iter().any(|other| known(other)) {
            different.push(claim);
        }
        if different.len() > MAX_ADDRESSES {
            return Err(format!("more than {MAX_ADDRESSES} content addresses are claimed for it"));
        }
    }
    let checker = |(path, address): &(StorePath, ContentAddress)| {
        let checker = ContentChecker::new(address, path).map_err(|misfit| format!("{path}: {misfit}"))?;
        Ok((path.clone(), checker))
    };
    different.into_iter().map(checker).collect()
}
