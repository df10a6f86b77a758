//! Prefetching: what will be needed is here before anyone asks.
//!
//! A prefetch makes the closures of some paths complete in a cache: it walks them, asks the cache's upstreams for what
//! is not here, fetches that, verifies it by the upstream's keys and by NAR hash, and publishes it as a push of the
//! service's own. Whatever jobs push stands above it.

mod by_hand;
mod complete;
mod cut;
mod decompress;
mod fetch;
mod flight;
mod jobs;
mod lanes;
mod schedule;
mod source;
mod take;
mod walk;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use larder_protocol::api::CacheName;
use tokio::sync::{Semaphore, SemaphorePermit};

pub use self::by_hand::routes;
pub(crate) use self::{
    complete::{Completed, complete},
    flight::Flight,
    jobs::{Of, Reason, by_hand, of_manifests},
    lanes::Lane,
    schedule::{by_the_clock, schedule},
    take::take_nar,
};
use self::{
    decompress::{Compression, Window},
    flight::Flights,
    lanes::Lanes,
    source::{Limits, Source},
    walk::Lacking,
};
use crate::{config::Config, error::ApiError, metadata::MetadataError};

/// What NARs that are fetched may take in memory, all together, in KiB.
const MEMORY_KIB: u32 = 64 << 10;
/// How many paths an error names.
const NAMED: usize = 5;

/// What all prefetches of this process share.
#[derive(Debug)]
pub struct Prefetching {
    /// The upstreams of each cache, in their order.
    sources: HashMap<CacheName, Vec<Arc<Source>>>,
    flights: Arc<Flights>,
    lanes: Lanes,
    /// One permit for each KiB.
    memory: Semaphore,
}

/// How far a prefetch is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Paths of the closure, as far as it is known.
    pub paths: AtomicU64,
    /// Paths that were not here.
    pub wanted: AtomicU64,
    /// Paths that were fetched and published.
    pub published: AtomicU64,
    /// Bytes of NARs that were fetched.
    pub bytes: AtomicU64,
}

/// A prefetch cannot be done now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrefetchError {
    /// Upstreams do not answer, or what they send does not hold.
    #[error("{}", cannot_be_had(.0))]
    Unknown(Vec<Lacking>),
    /// There is more than is taken at once.
    #[error("the closures have more than {0} paths. Prefetch parts of them")]
    TooLarge(usize),
    /// What was brought is not what it was said to be.
    #[error("{0}")]
    Wrong(String),
    /// What is here changes faster than it can be looked at.
    #[error("what is here of the closure keeps changing")]
    Restless,
    /// The service's own fault.
    #[error("{}", .0.message())]
    Service(ApiError),
}

impl From<ApiError> for PrefetchError {
    fn from(error: ApiError) -> Self {
        Self::Service(error)
    }
}

impl From<MetadataError> for PrefetchError {
    fn from(error: MetadataError) -> Self {
        Self::Service(error.into())
    }
}

/// Why upstreams' paths are not taken, where one seemed to have them.
fn not_taken(paths: &[Lacking]) -> Option<String> {
    let told = paths.iter().filter_map(|Lacking { path, why }| Some(format!("{path}: {}", why.as_ref()?)));
    let told: Vec<String> = told.take(NAMED).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

fn cannot_be_had(paths: &[Lacking]) -> String {
    let mut text = format!("{} paths cannot be had now", paths.len());
    for Lacking { path, why } in paths.iter().take(NAMED) {
        let why = why.as_deref().unwrap_or("an upstream does not answer");
        text = format!("{text}; {path}: {why}");
    }
    text
}

impl Prefetching {
    /// What the caches of a configuration may be filled from.
    ///
    /// # Errors
    /// When the system's TLS roots cannot be used.
    pub(crate) fn new(config: &Config) -> Result<Self, reqwest::Error> {
        // Where caches share an upstream, the smallest of their limits holds for all of them together.
        let mut connections: HashMap<&str, u32> = HashMap::new();
        for upstream in config.caches.iter().flat_map(|cache| &cache.upstreams) {
            let most = connections.entry(&upstream.upstream.url).or_insert(upstream.connections);
            *most = upstream.connections.min(*most);
        }
        let limits: HashMap<&str, Arc<Limits>> =
            connections.into_iter().map(|(url, connections)| (url, Limits::new(connections))).collect();
        let sources = config.caches.iter().map(|cache| {
            let sources = cache.upstreams.iter().filter_map(|upstream| {
                let limits = limits.get(upstream.upstream.url.as_str())?.clone();
                Some(Source::new(upstream, limits).map(Arc::new))
            });
            Ok((cache.name.clone(), sources.collect::<Result<_, _>>()?))
        });
        Ok(Self {
            sources: sources.collect::<Result<_, _>>()?,
            flights: Arc::default(),
            lanes: Lanes::default(),
            memory: Semaphore::new(MEMORY_KIB as usize),
        })
    }

    fn sources(&self, cache: &CacheName) -> &[Arc<Source>] {
        self.sources.get(cache).map(Vec::as_slice).unwrap_or_default()
    }

    /// Waits until there is memory for one more NAR: for its decoder, for what comes, and for what is made of it.
    async fn room(
        &self,
        compression: Compression,
        window: Window,
        nar_size: u64,
    ) -> Option<SemaphorePermit<'_>> {
        let bytes = compression.memory(window) + cut::memory(nar_size);
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).min(MEMORY_KIB);
        // It is never closed.
        self.memory.acquire_many(kib).await.ok()
    }
}

impl Progress {
    fn walked(&self, paths: usize, wanted: usize) {
        self.paths.store(paths as u64, Ordering::Relaxed);
        let published = self.published.load(Ordering::Relaxed);
        self.wanted.store(published + wanted as u64, Ordering::Relaxed);
    }

    fn published(&self, paths: usize) {
        self.published.fetch_add(paths as u64, Ordering::Relaxed);
    }

    fn fetched(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
