//! Verifying a NAR by reading its frames back in order.

use std::collections::HashMap;

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
    metadata::{Encoding, Metadata, MetadataError, StoredChunk},
    storage::{Ingredient, Storage, StorageError, have_moved},
};

/// By how many content addresses a NAR is checked at most. A NAR has one for each way and algorithm, and so has no
/// more than nine that are right.
const MAX_ADDRESSES: usize = 16;

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
    fn feed(
        &mut self,
        decoder: &mut FrameDecoder,
        frames: &[u8],
        lengths: impl Iterator<Item = (u32, u32)>,
    ) -> Result<(), String> {
        self.encoding.update(frames);
        self.file_size += frames.len() as u64;
        let mut rest = frames;
        for (frame_len, content_len) in lengths {
            let (frame, later) = rest.split_at(frame_len as usize);
            let content = decoder.decode(frame, content_len).map_err(|error| error.to_string())?;
            self.structure.feed(content).map_err(|error| error.to_string())?;
            self.hash.update(content);
            self.addresses.iter_mut().for_each(|(_, checker)| checker.feed(content));
            rest = later;
        }
        Ok(())
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

/// A NAR could not be read back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadBackError {
    /// Its bytes are not there.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The thread that decoded it ended.
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
    pub async fn nar(
        &self,
        ingredients: &[Ingredient],
        addresses: &[(StorePath, ContentAddress)],
    ) -> Result<Result<Contents, String>, ReadBackError> {
        let mut reading = match checkers(addresses) {
            Ok(addresses) => Reading { addresses, ..Reading::default() },
            Err(reason) => return Ok(Err(reason)),
        };
        let batches = self.storage.batches(ingredients);
        let mut ahead: Option<Vec<u8>> = None;
        for (number, batch) in batches.iter().enumerate() {
            let frames = match ahead.take() {
                Some(frames) => frames,
                None => self.read(&ingredients[batch.clone()]).await?,
            };
            let lengths: Vec<(u32, u32)> = ingredients[batch.clone()]
                .iter()
                .map(|(chunk, _)| (chunk.frame_len, chunk.content_len))
                .collect();
            let work = self.workshop.work(move |decoder| {
                let result = reading.feed(decoder, &frames, lengths.into_iter());
                (reading, result)
            });
            // The next frames are read while these are decoded.
            let read = async {
                match batches.get(number + 1) {
                    Some(next) => self.read(&ingredients[next.clone()]).await.map(Some),
                    None => Ok(None),
                }
            };
            let (worked, read) = tokio::join!(work, read);
            let (worked, result) = worked.map_err(|_| ReadBackError::Panicked)?;
            if let Err(reason) = result {
                return Ok(Err(reason));
            }
            reading = worked;
            ahead = read?;
        }
        if let Err(error) = reading.structure.finish() {
            return Ok(Err(error.to_string()));
        }
        let hash = NarHash(reading.hash.finalize().into());
        for (path, checker) in reading.addresses {
            if let Err(misfit) = checker.finish() {
                return Ok(Err(format!("{path}: {misfit}")));
            }
        }
        let mut encoding = [0; 20];
        encoding.copy_from_slice(&reading.encoding.finalize().as_bytes()[..20]);
        Ok(Ok(Contents { hash, encoding: StorePathHash(encoding), file_size: reading.file_size }))
    }

    /// Reads frames; where they have moved since they were looked up, from where they lie now.
    async fn read(&self, before: &[Ingredient]) -> Result<Vec<u8>, ReadBackError> {
        let error = match self.storage.read_frames(before).await {
            Ok(frames) => return Ok(frames),
            Err(error) => error,
        };
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
