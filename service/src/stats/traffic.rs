//! What readers get, counted in memory: no read waits for a write.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use larder_protocol::api::CacheName;

use crate::{
    caches::{Cache, Caches},
    metadata::{RepositoryKey, Traffic},
};

/// Of one cache. In lines of memory of its own, so that those who count in another do not wait.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CacheTraffic {
    hits: AtomicU64,
    misses: AtomicU64,
    reads: AtomicU64,
    bytes_served: AtomicU64,
}

impl CacheTraffic {
    /// A narinfo of so many bytes was there.
    pub fn hit(&self, bytes: usize) {
        self.hits.fetch_add(1, Relaxed);
        self.bytes_served.fetch_add(bytes as u64, Relaxed);
    }

    /// A narinfo was not there.
    pub fn miss(&self) {
        self.misses.fetch_add(1, Relaxed);
    }

    /// A NAR is sent.
    pub fn read(&self) {
        self.reads.fetch_add(1, Relaxed);
    }

    /// So many bytes of a NAR were sent.
    pub fn sent(&self, bytes: usize) {
        self.bytes_served.fetch_add(bytes as u64, Relaxed);
    }

    fn so_far(&self) -> Traffic {
        Traffic {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            reads: self.reads.load(Relaxed),
            bytes_served: self.bytes_served.load(Relaxed),
        }
    }
}

/// Whose jobs brought something, to which cache.
pub(super) type Bringer = (CacheName, Option<RepositoryKey>);

/// What readers got since the service started.
#[derive(Debug)]
pub struct TrafficCounters {
    /// By name; `main~` is all pull requests' caches of main.
    caches: Vec<(String, CacheTraffic)>,
    /// What was there when samples were last written.
    sampled: Mutex<Vec<Traffic>>,
    /// What was read since, by whose jobs brought it.
    brought: Mutex<HashMap<Bringer, Traffic>>,
}

impl TrafficCounters {
    pub(super) fn new(caches: &Caches) -> Self {
        let mut numbered: Vec<_> = caches.iter().collect();
        numbered.sort_by_key(|cache| cache.number);
        let names =
            numbered.iter().flat_map(|cache| [cache.name().to_string(), format!("{}~", cache.name())]);
        let caches: Vec<_> = names.map(|name| (name, CacheTraffic::default())).collect();
        let sampled = Mutex::new(vec![Traffic::default(); caches.len()]);
        Self { caches, sampled, brought: Mutex::default() }
    }

    /// Where the reads of a cache are counted.
    pub fn of(&self, cache: &Cache) -> &CacheTraffic {
        let (number, offset) = match cache.parent() {
            Some(parent) => (parent.number, 1),
            None => (cache.number, 0),
        };
        // Every configured cache has a number.
        &self.caches[2 * number.unwrap_or_default() as usize + offset].1
    }

    /// What was counted since the service started, cache by cache.
    pub(super) fn so_far(&self) -> Vec<(&str, Traffic)> {
        self.caches.iter().map(|(name, traffic)| (name.as_str(), traffic.so_far())).collect()
    }

    /// What was counted since the last samples were written, and what to say once these are.
    pub(super) fn since_sampled(&self) -> (HashMap<String, Traffic>, Vec<Traffic>) {
        let sampled = self.sampled.lock().unwrap_or_else(PoisonError::into_inner);
        let so_far: Vec<Traffic> = self.caches.iter().map(|(_, traffic)| traffic.so_far()).collect();
        let since = |(now, before): (&Traffic, &Traffic)| Traffic {
            hits: now.hits - before.hits,
            misses: now.misses - before.misses,
            reads: now.reads - before.reads,
            bytes_served: now.bytes_served - before.bytes_served,
        };
        let counted = so_far.iter().zip(sampled.iter()).map(since);
        (self.caches.iter().map(|(name, _)| name.clone()).zip(counted).collect(), so_far)
    }

    pub(super) fn were_sampled(&self, so_far: Vec<Traffic>) {
        *self.sampled.lock().unwrap_or_else(PoisonError::into_inner) = so_far;
    }

    /// Counts what was read, for those whose jobs brought it.
    pub(crate) fn add_brought(&self, cache: &CacheName, by: Option<RepositoryKey>, traffic: Traffic) {
        let mut brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        *brought.entry((cache.clone(), by)).or_default() += traffic;
    }

    pub(super) fn take_brought(&self) -> HashMap<Bringer, Traffic> {
        std::mem::take(&mut *self.brought.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
