//! Verifying a NAR by reading its frames back in order.

use std::ops::Range;

use larder_protocol::{
    ChunkId, ContentAddress, StorePath, StorePathHash,
    chunk::FrameDecoder,
    content_address::{ContentChecker, ContentHash, Method},
    nar::NarChecker,
    recipe::Recipe,
};
use sha2::{Digest as _, Sha256};

use super::PushRequest;
use crate::{
    error::ApiError,
    metadata::Encoding,
    storage::{Ingredient, batches, have_moved},
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

/// Reads a NAR back: its structure, SHA-256 and size (which is its chunks') must be what the recipe says.
/// Its contents must be those of the content addresses that paths claim for it. Tells the digest and length of its
/// `.nar.zst`, or what is wrong with it.
pub(super) async fn read_back(
    request: &PushRequest,
    recipe: &Recipe,
    ingredients: &[Ingredient],
    addresses: &[(StorePath, ContentAddress)],
) -> Result<Result<(Encoding, u64), String>, ApiError> {
    let service = &request.service;
    let mut reading = match checkers(addresses) {
        Ok(addresses) => Reading { addresses, ..Reading::default() },
        Err(reason) => return Ok(Err(reason)),
    };
    let batches = batches(ingredients);
    let mut ahead: Option<Vec<u8>> = None;
    for (number, batch) in batches.iter().enumerate() {
        let frames = match ahead.take() {
            Some(frames) => frames,
            None => read(request, recipe, ingredients, batch.clone()).await?,
        };
        let lengths: Vec<(u32, u32)> = ingredients[batch.clone()]
            .iter()
            .map(|(chunk, _)| (chunk.frame_len, chunk.content_len))
            .collect();
        let work = service.workshop.work(move |decoder| {
            let result = reading.feed(decoder, &frames, lengths.into_iter());
            (reading, result)
        });
        // The next frames are read while these are decoded.
        let read = async {
            match batches.get(number + 1) {
                Some(next) => read(request, recipe, ingredients, next.clone()).await.map(Some),
                None => Ok(None),
            }
        };
        let (worked, read) = tokio::join!(work, read);
        let (worked, result) = worked?;
        if let Err(reason) = result {
            return Ok(Err(reason));
        }
        reading = worked;
        ahead = read?;
    }
    if let Err(error) = reading.structure.finish() {
        return Ok(Err(error.to_string()));
    }
    let hash: [u8; 32] = reading.hash.finalize().into();
    if hash != recipe.nar_hash.0 {
        return Ok(Err("its SHA-256 is another than the push was opened with".to_owned()));
    }
    for (path, checker) in reading.addresses {
        if let Err(misfit) = checker.finish() {
            return Ok(Err(format!("{path}: {misfit}")));
        }
    }
    let mut encoding = [0; 20];
    encoding.copy_from_slice(&reading.encoding.finalize().as_bytes()[..20]);
    Ok(Ok((StorePathHash(encoding), reading.file_size)))
}

/// Reads frames; where they have moved since they were looked up, from where they lie now.
async fn read(
    request: &PushRequest,
    recipe: &Recipe,
    ingredients: &[Ingredient],
    batch: Range<usize>,
) -> Result<Vec<u8>, ApiError> {
    let before = &ingredients[batch.clone()];
    let storage = &request.service.storage;
    let error = match storage.read_frames(before).await {
        Ok(frames) => return Ok(frames),
        Err(error) => error,
    };
    let names: Vec<ChunkId> = recipe.chunks[batch].iter().map(|chunk| chunk.id).collect();
    let stored = request.stored_chunks(&names).await?;
    let now =
        names.iter().zip(before).map(|(name, (_, hashes))| Some((stored.get(name)?.clone(), hashes.clone())));
    match now.collect::<Option<Vec<Ingredient>>>() {
        Some(now) if have_moved(before, &now) => Ok(storage.read_frames(&now).await?),
        _ => Err(error.into()),
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
