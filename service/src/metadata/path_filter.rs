//! Which hashes may have a row among the paths: most of what readers ask for was never pushed, and need not be
//! looked for.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::TryStreamExt as _;
use larder_protocol::StorePathHash;

use super::{Metadata, MetadataError, blob, sql::query};

/// 8 MiB, however many paths there are. With a million of them, one absent hash in 90,000 is looked up in vain; with
/// ten million, one in 25.
const BITS: usize = 1 << 26;

/// A Bloom filter of four bits a hash. Store path hashes are as good as random, so that they need no hashing.
#[derive(Debug)]
pub(super) struct PathFilter(Box<[AtomicU64]>);

impl PathFilter {
    pub(super) fn new() -> Self {
        Self((0..BITS / 64).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn insert(&self, hash: &StorePathHash) {
        for (word, bit) in self.places(hash) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    pub(super) fn may_contain(&self, hash: &StorePathHash) -> bool {
        self.places(hash).all(|(word, bit)| word.load(Ordering::SeqCst) & bit != 0)
    }

    fn places(&self, hash: &StorePathHash) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let (words, _) = hash.0.as_chunks::<4>();
        words.iter().take(4).map(|word| {
            let place = u32::from_le_bytes(*word) as usize % BITS;
            (&self.0[place / 64], 1 << (place % 64))
        })
    }
}

impl Metadata {
    /// Begins to know which hashes have no row. For a process that alone adds paths.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn remember_paths(&self) -> Result<(), MetadataError> {
        let filter = PathFilter::new();
        // Pull requests' caches are not asked by way of it, and of what private ones have it must tell nobody.
        let mut rows = query(
            "SELECT hash FROM paths WHERE cache NOT LIKE '%~%'
             AND cache NOT IN (SELECT cache FROM cache_namespaces WHERE public = 0)",
        )
        .fetch(self.reader());
        while let Some(row) = rows.try_next().await? {
            filter.insert(&StorePathHash(blob(row.try_get(0)?)?));
        }
        // Whoever was first has read the same rows.
        let _ = self.paths.set(filter);
        Ok(())
    }

    /// Whether a public cache may have a path, as far as can be told without asking the database.
    pub fn may_have(&self, hash: &StorePathHash) -> bool {
        self.paths.get().is_none_or(|paths| paths.may_contain(hash))
    }

    /// To be called before rows of paths are written.
    pub(super) fn may_soon_have(&self, hashes: &[StorePathHash]) {
        if let Some(paths) = self.paths.get() {
            hashes.iter().for_each(|hash| paths.insert(hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_and_little_else() {
        let hash = |n: u32| {
            let mut bytes = [0; 20];
            bytes.copy_from_slice(&blake3::hash(&n.to_le_bytes()).as_bytes()[..20]);
            StorePathHash(bytes)
        };
        let filter = PathFilter::new();
        (0..1000).for_each(|n| filter.insert(&hash(n)));
        assert!((0..1000).all(|n| filter.may_contain(&hash(n))));
        assert!(!(1000..100_000).any(|n| filter.may_contain(&hash(n))));
    }
}
