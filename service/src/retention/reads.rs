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
    metadata::{MetadataError, ReadOf, Traffic},
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
type Part<K> = HashMap<(u32, K), Noted>;

#[derive(Debug)]
struct Noted {
    cache: CacheName,
    traffic: Traffic,
}

#[derive(Debug)]
struct Parts<K>([Mutex<Part<K>>; PARTS]);

impl<K> Default for Parts<K> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl<K: Eq + Hash + Copy> Parts<K> {
    fn note(&self, cache: &Cache, key: K, part: usize, traffic: Traffic) {
        // A pull request's own cache keeps what it has as long as it lives.
        let Some(number) = cache.number else { return };
        let mut part = lock(&self.0[part % PARTS]);
        if let Some(noted) = part.get_mut(&(number, key)) {
            noted.traffic += traffic;
        } else if part.len() < MOST / PARTS {
            part.insert((number, key), Noted { cache: cache.name().clone(), traffic });
        }
    }

    fn take(&self) -> HashMap<CacheName, (Vec<K>, Vec<Traffic>)> {
        let mut taken: HashMap<CacheName, (Vec<K>, Vec<Traffic>)> = HashMap::new();
        for part in &self.0 {
            for ((_, key), noted) in std::mem::take(&mut *lock(part)) {
                let (keys, traffic) = taken.entry(noted.cache).or_default();
                keys.push(key);
                traffic.push(noted.traffic);
            }
        }
        taken
    }
}

fn lock<K>(part: &Mutex<Part<K>>) -> MutexGuard<'_, Part<K>> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LastReads {
    /// Notes that a path's narinfo, of so many bytes, was read.
    pub fn path(&self, cache: &Cache, hash: StorePathHash, bytes: usize) {
        let traffic = Traffic { hits: 1, bytes_served: bytes as u64, ..Traffic::default() };
        self.paths.note(cache, hash, hash.0[0].into(), traffic);
    }

    /// Notes that a NAR was asked for, by its row. (Nix asks for a narinfo once a month.)
    pub fn nar(&self, cache: &Cache, nar: i64) {
        self.of_nar(cache, nar, Traffic::default());
    }

    /// Counts that a NAR is sent.
    pub fn sending(&self, cache: &Cache, nar: i64) {
        self.of_nar(cache, nar, Traffic { reads: 1, ..Traffic::default() });
    }

    /// Counts that so many bytes of a NAR were sent.
    pub fn sent(&self, cache: &Cache, nar: i64, bytes: usize) {
        self.of_nar(cache, nar, Traffic { bytes_served: bytes as u64, ..Traffic::default() });
    }

    fn of_nar(&self, cache: &Cache, nar: i64, traffic: Traffic) {
        self.nars.note(cache, nar, usize::try_from(nar).unwrap_or_default(), traffic);
    }

    /// Writes what was noted, and counts it for those whose jobs brought it.
    ///
    /// # Errors
    /// When the database fails; then what was noted is lost.
    pub async fn flush(&self, service: &Service) -> Result<(), MetadataError> {
        let now = service.clock.now();
        for (cache, (hashes, traffic)) in self.paths.take() {
            write(service, &cache, ReadOf::Paths(&hashes), &traffic, now).await?;
        }
        for (cache, (nars, traffic)) in self.nars.take() {
            write(service, &cache, ReadOf::Nars(&nars), &traffic, now).await?;
        }
        Ok(())
    }
}

async fn write(
    service: &Service,
    cache: &CacheName,
    read: ReadOf<'_>,
    traffic: &[Traffic],
    now: i64,
) -> Result<(), MetadataError> {
    service.metadata.note_reads(cache, read, now).await?;
    let brought_by = service.metadata.brought_by(cache, read).await?;
    for (by, traffic) in brought_by.into_iter().zip(traffic) {
        // What went meanwhile was nobody's in the end.
        if let Some(by) = by {
            service.stats.traffic.add_brought(cache, by, *traffic);
        }
    }
    Ok(())
}
