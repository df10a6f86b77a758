//! Having what was withdrawn fetched from an upstream that has the very same NAR: the service does that as a job, which
//! lasts longer than the process that asks for it.

use std::collections::BTreeMap;

use larder_protocol::{NarHash, StorePath, api::CacheName};

use super::{VerifyError, withdraw::Verifier};
use crate::{
    audit::Who,
    metadata::{AskedPrefetch, WaitingPath},
    queue::Work,
    random::random_hex,
};

/// Whose prefetches these are.
const OWNER: &str = "verification";
/// How many of them may be under way, and how many prefetches in all.
const LIMITS: (u32, u32) = (10, 1000);

impl Verifier<'_> {
    /// Asks for those of the waiting paths that an upstream of their cache has with the same NAR. Tells how many.
    pub async fn fetch(&self, waiting: &[WaitingPath]) -> Result<u64, VerifyError> {
        let mut of_caches: BTreeMap<&CacheName, Vec<(StorePath, NarHash)>> = BTreeMap::new();
        for path in waiting {
            of_caches.entry(&path.cache).or_default().push((path.path.clone(), path.nar_hash));
        }
        let (service, now) = (self.service, self.service.clock.now());
        let mut asked = 0;
        for (name, wanted) in of_caches {
            // A pull request's cache has what its jobs bring.
            let Some(cache) = service.caches.get(name) else { continue };
            let paths = service.upstreams.having(service, cache, &wanted).await;
            let paths = paths.map_err(|_| VerifyError::Panicked)?;
            if paths.is_empty() {
                continue;
            }
            let id = random_hex().map_err(|_| VerifyError::Random)?;
            let prefetch =
                AskedPrefetch { name: &id, cache: name, owner: OWNER, paths: &paths, who: &Who::default() };
            let job = Work::Prefetch { prefetch: id.clone() }.job(now);
            if service.metadata.ask_prefetch(&prefetch, &job, LIMITS, now).await? {
                asked += paths.len() as u64;
                service.queue.wake();
                tracing::info!(cache = %name, paths = paths.len(), "what was withdrawn is fetched from an upstream");
            }
        }
        Ok(asked)
    }
}
