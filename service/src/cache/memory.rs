//! Narinfos that were asked for lately, and paths that were found absent, in bounded memory.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use larder_protocol::StorePathHash;
use quick_cache::{Weighter, sync::Cache as QuickCache};

use crate::caches::Cache;

/// How much is remembered, in bytes.
const CAPACITY: u64 = 32 << 20;
/// What an entry takes besides its text.
const ENTRY: u64 = 120;

type Key = (u32, StorePathHash);

/// A narinfo as it is sent, or `None` where there is none.
type Narinfo = Option<Bytes>;

/// A narinfo, and by which generation of the cache's keys it is signed.
#[derive(Clone)]
struct Remembered {
    narinfo: Narinfo,
    generation: u64,
}

#[derive(Clone)]
struct ByLength;

impl Weighter<Key, Remembered> for ByLength {
    fn weight(&self, _: &Key, remembered: &Remembered) -> u64 {
        ENTRY + remembered.narinfo.as_ref().map_or(0, |text| text.len() as u64)
    }
}

/// What readers asked for lately.
pub struct ReadMemory {
    narinfos: QuickCache<Key, Remembered, ByLength>,
    /// How often something became visible, or ceased to be: what was looked up before is not remembered after.
    epoch: AtomicU64,
}

impl Default for ReadMemory {
    fn default() -> Self {
        Self { narinfos: QuickCache::with_weighter(100_000, CAPACITY, ByLength), epoch: AtomicU64::new(0) }
    }
}

impl ReadMemory {
    /// What is remembered of a path: its narinfo if the keys that sign now have signed it, its absence, or nothing.
    pub(super) fn recall(&self, cache: &Cache, hash: StorePathHash, generation: u64) -> Option<Narinfo> {
        let known = self.narinfos.get(&(cache.number?, hash))?;
        (known.narinfo.is_none() || known.generation == generation).then_some(known.narinfo)
    }

    /// To be asked before a look-up whose result is to be remembered.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Remembers what a look-up found, unless something was published or withdrawn since it began.
    pub(super) fn remember(
        &self,
        cache: &Cache,
        hash: StorePathHash,
        narinfo: Narinfo,
        generation: u64,
        epoch: u64,
    ) {
        let Some(number) = cache.number else { return };
        let key = (number, hash);
        self.narinfos.insert(key, Remembered { narinfo, generation });
        // Either this sees the new epoch, or whoever set it forgets the entry after.
        if self.epoch() != epoch {
            self.narinfos.remove(&key);
        }
    }

    /// Forgets paths, absent or not. To be called when they are visible no more, or something else is in their place.
    pub fn withdrawn(&self, cache: &Cache, hashes: impl Iterator<Item = StorePathHash>) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let Some(number) = cache.number else { return };
        for hash in hashes {
            self.narinfos.remove(&(number, hash));
        }
    }

    /// Forgets that paths were absent. To be called when they have become visible.
    pub fn published(&self, cache: &Cache, hashes: impl Iterator<Item = StorePathHash>) {
        let Some(number) = cache.number else { return };
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for hash in hashes {
            self.narinfos.remove_if(&(number, hash), |known| known.narinfo.is_none());
        }
    }
}
