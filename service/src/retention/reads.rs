//! When paths were last read: noted in memory, written now and then, so that no read waits for a write.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use larder_protocol::{StorePathHash, api::CacheName};

use crate::{
    Service,
    caches::Cache,
    metadata::{MetadataError, ReadOf},
};

/// How many paths, and as many NARs, are remembered until they are written: some megabytes. What is read beyond that
/// within a minute is not noted.
const MOST: usize = 1 << 16;
/// In so many parts, so that readers seldom wait for each other.
const PARTS: usize = 16;

/// What was read since it was last written.
#[derive(Debug, Default)]
pub struct LastReads {
    paths: Parts<StorePathHash>,
    nars: Parts<i64>,
}

/// By a cache's number, which is short, with its name.
type Part<K> = HashMap<(u32, K), CacheName>;

#[derive(Debug)]
struct Parts<K>([Mutex<Part<K>>; PARTS]);

impl<K> Default for Parts<K> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl<K: Eq + Hash + Copy> Parts<K> {
    fn note(&self, cache: &Cache, key: K, part: usize) {
        // A pull request's own cache keeps what it has as long as it lives.
        let Some(number) = cache.number else { return };
        let mut part = lock(&self.0[part % PARTS]);
        if part.len() < MOST / PARTS {
            part.entry((number, key)).or_insert_with(|| cache.name().clone());
        }
    }

    fn take(&self) -> HashMap<CacheName, Vec<K>> {
        let mut taken: HashMap<CacheName, Vec<K>> = HashMap::new();
        for part in &self.0 {
            for ((_, key), cache) in std::mem::take(&mut *lock(part)) {
                taken.entry(cache).or_default().push(key);
            }
        }
        taken
    }
}

fn lock<K>(part: &Mutex<Part<K>>) -> MutexGuard<'_, Part<K>> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LastReads {
    /// Notes that a path's narinfo was read.
    pub fn path(&self, cache: &Cache, hash: StorePathHash) {
        self.paths.note(cache, hash, hash.0[0].into());
    }

    /// Notes that a NAR was read, by its row. (Nix asks for a narinfo once a month.)
    pub fn nar(&self, cache: &Cache, nar: i64) {
        self.nars.note(cache, nar, usize::try_from(nar).unwrap_or_default());
    }

    /// Writes what was noted.
    ///
    /// # Errors
    /// When the database fails; then what was noted is lost.
    pub async fn flush(&self, service: &Service) -> Result<(), MetadataError> {
        let now = service.clock.now();
        for (cache, hashes) in self.paths.take() {
            service.metadata.note_reads(&cache, ReadOf::Paths(&hashes), now).await?;
        }
        for (cache, nars) in self.nars.take() {
            service.metadata.note_reads(&cache, ReadOf::Nars(&nars), now).await?;
        }
        Ok(())
    }
}
