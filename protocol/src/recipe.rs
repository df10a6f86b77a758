//! Recipes: the ordered chunks that make up a NAR, and the hashes that fill their holes.
//!
//! ```text
//! "LARDERR1"  count: u32
//! count × { NAR hash: [u8; 32], NAR size: u64, chunks: u32,
//!           chunks × { name: [u8; 32], holes: u16, holes × store path hash: [u8; 20] } }
//! ```
//!
//! Numbers are little-endian. Many recipes in one body: as many as the client likes.

use crate::{ChunkId, NarHash, StorePathHash, chunk::MAX_HOLES};

const MAGIC: &[u8; 8] = b"LARDERR1";

/// The recipe of a NAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The NAR.
    pub nar_hash: NarHash,
    /// Its length in bytes.
    pub nar_size: u64,
    /// Its chunks in order.
    pub chunks: Vec<RecipeChunk>,
}

/// A chunk's place in a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeChunk {
    /// The chunk.
    pub id: ChunkId,
    /// What fills its holes, in their order.
    pub hashes: Vec<StorePathHash>,
}

/// A body of recipes that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the recipes are malformed: {0}")]
pub struct InvalidRecipes(&'static str);

/// The most chunks that a NAR of `nar_size` bytes may have.
pub fn max_chunks(nar_size: u64) -> u64 {
    nar_size / (16 << 10) + 1024
}

/// Writes recipes.
pub fn encode(recipes: &[Recipe]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&u32::try_from(recipes.len()).unwrap_or(u32::MAX).to_le_bytes());
    for recipe in recipes {
        out.extend_from_slice(&recipe.nar_hash.0);
        out.extend_from_slice(&recipe.nar_size.to_le_bytes());
        out.extend_from_slice(&u32::try_from(recipe.chunks.len()).unwrap_or(u32::MAX).to_le_bytes());
        for chunk in &recipe.chunks {
            out.extend_from_slice(&chunk.id.0);
            out.extend_from_slice(&u16::try_from(chunk.hashes.len()).unwrap_or(u16::MAX).to_le_bytes());
            for hash in &chunk.hashes {
                out.extend_from_slice(&hash.0);
            }
        }
    }
    out
}

/// Reads recipes.
///
/// # Errors
/// When the bytes are cut short, too many, or beyond a recipe's bounds.
pub fn decode(bytes: &[u8]) -> Result<Vec<Recipe>, InvalidRecipes> {
    let mut fields = Fields::new(bytes);
    let short = InvalidRecipes("they end too early");
    if fields.array::<8>() != Some(*MAGIC) {
        return Err(InvalidRecipes("they do not begin with LARDERR1"));
    }
    let Some(count) = fields.u32() else { return Err(short) };
    let mut recipes = Vec::new();
    for _ in 0..count {
        let Some(recipe) = recipe(&mut fields)? else { return Err(short) };
        recipes.push(recipe);
    }
    if fields.rest().is_empty() { Ok(recipes) } else { Err(InvalidRecipes("bytes follow the last one")) }
}

fn recipe(fields: &mut Fields<'_>) -> Result<Option<Recipe>, InvalidRecipes> {
    let (Some(nar_hash), Some(nar_size), Some(count)) = (fields.array(), fields.u64(), fields.u32()) else {
        return Ok(None);
    };
    if u64::from(count) > max_chunks(nar_size) {
        return Err(InvalidRecipes("a recipe has more than NarSize / 16 KiB + 1,024 chunks"));
    }
    // A chunk takes at least 34 bytes: what is announced cannot make us reserve more than what came.
    let mut chunks = Vec::with_capacity((count as usize).min(fields.rest().len() / 34));
    for _ in 0..count {
        let (Some(id), Some(holes)) = (fields.array(), fields.u16()) else { return Ok(None) };
        if usize::from(holes) > MAX_HOLES {
            return Err(InvalidRecipes("a chunk has too many holes"));
        }
        let mut hashes = Vec::with_capacity(usize::from(holes).min(fields.rest().len() / 20));
        for _ in 0..holes {
            let Some(hash) = fields.array() else { return Ok(None) };
            hashes.push(StorePathHash(hash));
        }
        chunks.push(RecipeChunk { id: ChunkId(id), hashes });
    }
    Ok(Some(Recipe { nar_hash: NarHash(nar_hash), nar_size, chunks }))
}

/// Reads little-endian fields off the front of a slice; `None` once it is too short.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipes() -> Vec<Recipe> {
        let chunk =
            |n: u8, holes| RecipeChunk { id: ChunkId([n; 32]), hashes: vec![StorePathHash([n; 20]); holes] };
        vec![
            Recipe { nar_hash: NarHash([1; 32]), nar_size: 300_000, chunks: vec![chunk(1, 0), chunk(2, 3)] },
            Recipe { nar_hash: NarHash([2; 32]), nar_size: 96, chunks: vec![chunk(3, 1)] },
        ]
    }

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(decode(&encode(&recipes())).unwrap(), recipes());
    }

    #[test]
    fn refuses_every_truncation_and_what_follows() {
        let bytes = encode(&recipes());
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{end}");
        }
        assert!(decode(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn refuses_one_chunk_a_million_times() {
        let chunks = vec![RecipeChunk { id: ChunkId([1; 32]), hashes: Vec::new() }; 1_000_000];
        let bytes = encode(&[Recipe { nar_hash: NarHash([1; 32]), nar_size: 1 << 20, chunks }]);
        assert!(decode(&bytes).unwrap_err().to_string().contains("1,024 chunks"));
    }
}
