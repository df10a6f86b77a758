//! Taking recipes: each NAR is read back from its frames and verified.

use std::{
    collections::{HashMap, HashSet},
    num::NonZero,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use larder_protocol::{
    ChunkId, NarHash,
    api::{RecipesAnswer, RejectedRecipe},
    recipe::{self, Recipe},
};

use super::{
    PushRequest,
    verify::{Claimed, ReadBack, ReadBackError},
};
use crate::{
    Service,
    error::ApiError,
    isolated,
    metadata::{StoredChunk, VerifiedNar},
    random::random_hex,
    storage::Ingredient,
    verification::suspect,
};

/// After so long, who was refused since a chunk is lost comes again.
const VERIFIED_WITHIN: Duration = Duration::from_secs(5);
/// So many bytes of storage are worth a request of their own.
const LEAST_TOGETHER: u64 = 4 << 20;
/// So many are read one behind the other by one core, before it takes what else there is.
const MOST_TOGETHER: u64 = 16 << 20;
/// How many names of missing chunks an answer has at most.
const MISSING_TOLD: usize = 1000;

/// Verifies the NARs of a body of recipes and notes those that hold.
pub(super) async fn take_recipes(request: &PushRequest, body: &[u8]) -> Result<RecipesAnswer, ApiError> {
    let recipes = recipe::decode(body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    verify(request, recipes).await
}

/// Verifies NARs by their recipes and notes those that hold.
pub(super) async fn verify(request: &PushRequest, recipes: Vec<Recipe>) -> Result<RecipesAnswer, ApiError> {
    let hashes: Vec<NarHash> = recipes.iter().map(|recipe| recipe.nar_hash).collect();
    let staged = request.service.metadata.staged_nars(request.push.id, &hashes).await?;
    let addresses = &request.service.metadata.unproven_addresses(request.push.id, &hashes).await?;
    let names: HashSet<ChunkId> =
        recipes.iter().flat_map(|recipe| recipe.chunks.iter().map(|chunk| chunk.id)).collect();
    let names: Vec<ChunkId> = names.into_iter().collect();
    let stored = request.stored_chunks(&names).await?;

    let max_chunks = request.service.config.limits.max_nar_chunks as usize;
    let mut answer = RecipesAnswer::default();
    let mut ready = Vec::new();
    let mut seen = HashSet::new();
    for recipe in recipes {
        if !seen.insert(recipe.nar_hash) {
            continue;
        }
        match staged.get(&recipe.nar_hash) {
            None => answer.rejected.push(rejected(&recipe, "no path of this push has this NAR")),
            Some((_, true)) => answer.verified.push(recipe.nar_hash),
            Some((size, false)) if *size != recipe.nar_size => {
                answer
                    .rejected
                    .push(rejected(&recipe, "its size differs from the one the push was opened with"));
            }
            Some(_) if recipe.chunks.len() > max_chunks => {
                let reason = format!(
                    "it has {} chunks; this service takes {max_chunks} (limits.max_nar_chunks)",
                    recipe.chunks.len()
                );
                answer.rejected.push(rejected(&recipe, &reason));
            }
            Some(_) => match ingredients(&recipe, &stored) {
                Ok(ingredients) => ready.push((recipe, ingredients)),
                Err(rejection) => answer.rejected.push(rejection),
            },
        }
    }

    let mut verified = Vec::new();
    let read_back = |group: Vec<(Recipe, Vec<Ingredient>)>| async move {
        let claimed: Vec<Claimed<'_>> = group
            .iter()
            .map(|(recipe, ingredients)| {
                let addresses = addresses.get(&recipe.nar_hash).map(Vec::as_slice).unwrap_or_default();
                (ingredients.as_slice(), addresses)
            })
            .collect();
        let found = ReadBack::from(request.service.as_ref()).nars(&claimed).await;
        let found = found.map_err(|error| refuse(&request.service, error))?;
        Ok::<_, ApiError>(group.into_iter().zip(found))
    };
    let mut groups = stream::iter(groups(ready)).map(read_back).buffer_unordered(cores());
    while let Some(group) = groups.next().await {
        for ((recipe, ingredients), found) in group? {
            match found {
                Ok(nar) if nar.hash == recipe.nar_hash => verified.push((nar.verified(ingredients), recipe)),
                Ok(_) => {
                    let reason = "its SHA-256 is another than the push was opened with";
                    answer.rejected.push(rejected(&recipe, reason));
                }
                Err(reason) => answer.rejected.push(rejected(&recipe, &reason)),
            }
        }
    }
    drop(groups);

    if !verified.is_empty() {
        let (nars, recipes): (Vec<_>, Vec<_>) = verified.into_iter().unzip();
        note(request, &nars, &recipes).await?;
        answer.verified.extend(nars.iter().map(|nar| nar.hash));
    }
    Ok(answer)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get)
}

/// NARs that are read back one behind the other, in the order in which they lie in storage: most of what a request has was
/// sent together. There are some groups for each core, unless they were too small to be worth a request to a bucket.
fn groups(mut nars: Vec<(Recipe, Vec<Ingredient>)>) -> Vec<Vec<(Recipe, Vec<Ingredient>)>> {
    let length = |ingredients: &[Ingredient]| {
        ingredients.iter().map(|(chunk, _)| u64::from(chunk.frame_len)).sum::<u64>()
    };
    let all: u64 = nars.iter().map(|(_, ingredients)| length(ingredients)).sum();
    let enough = (all / (2 * cores() as u64)).clamp(LEAST_TOGETHER, MOST_TOGETHER);
    nars.sort_by(|(_, one), (_, other)| place(one).cmp(&place(other)));
    let (mut groups, mut room) = (Vec::<Vec<_>>::new(), 0);
    for nar in nars {
        let length = length(&nar.1);
        match groups.last_mut() {
            Some(group) if room > 0 => group.push(nar),
            _ => {
                groups.push(vec![nar]);
                room = enough;
            }
        }
        room = room.saturating_sub(length);
    }
    groups
}

/// Where a NAR begins in storage.
fn place(ingredients: &[Ingredient]) -> Option<(&str, u64)> {
    ingredients.first().map(|(chunk, _)| (&*chunk.object, chunk.frame_offset))
}

/// What is lost is verified soon, counts as missing then, and is sent by whoever tries again.
fn refuse(service: &Arc<Service>, error: ReadBackError) -> ApiError {
    match error {
        ReadBackError::Storage(error) if error.is_lost() => {
            suspect(service, &error);
            ApiError::unavailable(
                "a chunk that should be here cannot be read; it is being verified. Try again",
                VERIFIED_WITHIN,
            )
        }
        error => error.into(),
    }
}

/// Writes the recipes as an object, for a lost database, then the rows.
async fn note(request: &PushRequest, nars: &[VerifiedNar], recipes: &[Recipe]) -> Result<(), ApiError> {
    let service = &request.service;
    let namespace = request.cache.namespace();
    let key = format!("recipes/{}/{}", namespace.folder(), random_hex()?);
    let object = service.metadata.begin_object(&key, request.push.id, service.clock.now()).await?;
    let bytes = recipe::encode(recipes);
    let size = bytes.len() as u64;
    if let Err(full) = isolated::count_bytes(service, &request.cache, size).await {
        service.metadata.forget_object(object).await?;
        return Err(full);
    }
    service.storage.put(&key, Bytes::from(bytes)).await?;
    service.metadata.finish_object(object, size, namespace, &[], None).await?;
    service.metadata.note_nars(namespace, request.push.id, object, nars).await?;
    Ok(())
}

/// A recipe's chunks with their places, if all are there and fit.
fn ingredients(
    recipe: &Recipe,
    stored: &HashMap<ChunkId, StoredChunk>,
) -> Result<Vec<Ingredient>, RejectedRecipe> {
    let missing: HashSet<ChunkId> =
        recipe.chunks.iter().map(|chunk| chunk.id).filter(|id| !stored.contains_key(id)).collect();
    if !missing.is_empty() {
        let mut rejection = rejected(recipe, &format!("{} of its chunks are not here", missing.len()));
        rejection.missing_chunks = missing.into_iter().take(MISSING_TOLD).collect();
        return Err(rejection);
    }
    let mut size = 0;
    let mut ingredients = Vec::with_capacity(recipe.chunks.len());
    for chunk in &recipe.chunks {
        let Some(place) = stored.get(&chunk.id) else { continue };
        if place.holes.len() != chunk.hashes.len() {
            return Err(rejected(recipe, &format!("chunk {} has another number of holes", chunk.id)));
        }
        size += u64::from(place.content_len);
        ingredients.push((place.clone(), chunk.hashes.clone().into_boxed_slice()));
    }
    if size != recipe.nar_size {
        return Err(rejected(recipe, &format!("its chunks have {size} bytes, not {}", recipe.nar_size)));
    }
    Ok(ingredients)
}

fn rejected(recipe: &Recipe, reason: &str) -> RejectedRecipe {
    RejectedRecipe { nar_hash: recipe.nar_hash, reason: reason.to_owned(), missing_chunks: Vec::new() }
}
