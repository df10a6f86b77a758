//! Narinfos that were asked for lately, and paths that were found absent, in bounded memory.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

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
    since: Instant,
}

/// What is remembered of a path.
pub(super) enum Recalled {
    /// What holds.
    Fresh(Narinfo),
    /// What held a while ago: good enough where the database cannot be asked.
    Old(Narinfo),
    /// Nothing.
    Nothing,
}

#[derive(Clone)]
struct ByLength;

impl Weighter<Key, Remembered> for ByLength {
    fn weight(&self, _: &Key, remembered: &Remembered) -> u64 {
        ENTRY + remembered.narinfo.as_ref().map_or(0, |text| text.len() as u64)
    }
}

/// How long a narinfo is remembered where other processes may take what it tells of: no longer than any reader may be
/// on the way from it to its NAR.
const SHARED: Duration = Duration::from_secs(30);

/// What readers asked for lately.
pub struct ReadMemory {
    /// Whether other processes publish and withdraw, too.
    shared: bool,
    narinfos: QuickCache<Key, Remembered, ByLength>,
    /// How often something became visible, or ceased to be: what was looked up before is not remembered after.
    epoch: AtomicU64,
}

impl ReadMemory {
    /// Nothing is remembered yet. Where the rows are `shared` with other processes, absence never is, and nothing for
    /// long.
    pub fn new(shared: bool) -> Self {
        Self {
            shared,
            narinfos: QuickCache::with_weighter(100_000, CAPACITY, ByLength),
            epoch: AtomicU64::new(0),
        }
    }

    /// What is remembered of a path: its narinfo if the keys that sign now have signed it, its absence, or nothing.
    pub(super) fn recall(&self, cache: &Cache, hash: StorePathHash, generation: u64) -> Recalled {
        let known = cache.number.and_then(|number| self.narinfos.get(&(number, hash)));
        match known {
            Some(known) if known.narinfo.is_none() || known.generation == generation => {
                let stands = !self.shared || known.since.elapsed() < SHARED;
                if stands { Recalled::Fresh(known.narinfo) } else { Recalled::Old(known.narinfo) }
            }
            _ => Recalled::Nothing,
        }
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
        if self.shared && narinfo.is_none() {
            return;
        }
        let key = (number, hash);
        self.narinfos.insert(key, Remembered { narinfo, generation, since: Instant::now() });
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
