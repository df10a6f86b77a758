//! Making closures complete in a cache.

use std::{collections::HashSet, sync::Arc};

use larder_protocol::{StorePath, StorePathHash, api::PushId, signature::fingerprint};

use super::{
    PrefetchError, Progress,
    fetch::Fetching,
    source::Offer,
    walk::{Failed, Lacking, walk},
};
use crate::{
    Service,
    audit::Who,
    caches::Cache,
    metadata::{Among, NewPush, UpstreamPath},
    push::{counts_since, digest},
    queue::Priority,
    random::random_bytes,
    trust::{GrantedTo, Rank},
};

/// How often what is here is looked at again: whenever another prefetch landed, or an upstream sent what does not hold.
const ROUNDS: usize = 100;

/// Closures that are as complete as upstreams can make them.
#[derive(Debug)]
pub(crate) struct Completed {
    /// Paths that no upstream has, or that none has so that they can be taken.
    pub lacking: Vec<Lacking>,
}

/// Makes the closures of `roots` complete in a cache.
///
/// # Errors
/// When something could not be had that may be had later.
pub(crate) async fn complete(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    roots: &[StorePath],
    priority: Priority,
    progress: &Progress,
) -> Result<Completed, PrefetchError> {
    let prefetching = &service.prefetching;
    let sources = prefetching.sources(cache.name());
    let lane = prefetching.lanes.enter(priority);
    let fetching = Fetching { service, cache, lane: &lane, progress };
    sources.iter().for_each(|source| source.begin());
    let mut failed = Failed::new();
    let mut kept = false;
    for _ in 0..ROUNDS {
        let mut found = walk(service, cache, sources, roots, &failed).await?;
        // Who was waited for in vain is not waited for in each round.
        for (path, silent) in found.silent.drain() {
            failed.entry(path).or_default().extend(silent);
        }
        progress.walked(found.paths, found.wanted.len() + found.lacking.len() + found.unknown.len());
        if !kept {
            // A sweep may have taken what was just seen.
            kept = keep(service, cache, roots, &found.entries).await?;
            if !kept {
                continue;
            }
        }
        if found.wanted.is_empty() {
            return match found.unknown.is_empty() {
                true => Ok(Completed { lacking: found.lacking }),
                false => Err(PrefetchError::Unknown(found.unknown)),
            };
        }
        note(service, cache, &found.wanted).await?;
        let wanted = found.wanted.iter().map(|offer| offer.info.path.hash());
        let (flight, others) = prefetching.flights.begin(cache.name(), wanted);
        if let (true, Some(others)) = (flight.is_empty(), others) {
            lane.aside(others.landed()).await;
            continue;
        }
        let mine = found.wanted.into_iter().filter(|offer| flight.has(offer.info.path.hash())).collect();
        fetching.fetch(mine, &mut failed).await?;
    }
    Err(PrefetchError::Restless)
}

/// Keeps what is here of the closures as long as what was pushed just now, and has sweeps under way spare it. Whether all
/// of it was still there.
async fn keep(
    service: &Service,
    cache: &Cache,
    roots: &[StorePath],
    entries: &[(i64, StorePathHash)],
) -> Result<bool, PrefetchError> {
    let identity = GrantedTo::Prefetch { from: cache.url.clone() };
    let who = Who::of(&identity);
    let kept: HashSet<StorePathHash> =
        roots.iter().map(StorePath::hash).chain(entries.iter().map(|(_, hash)| *hash)).collect();
    let push = NewPush {
        name: PushId(random_bytes()?),
        cache: cache.name(),
        public: cache.is_public(),
        isolated: None,
        blind: false,
        owner: &identity.owner(),
        provenance: &identity.provenance(),
        who: &who,
        run: None,
        rank: Rank::PREFETCHED,
        staged: Vec::new(),
        leased: entries.to_vec(),
        of_parent: HashSet::new(),
        roots: kept.into_iter().collect(),
        built: HashSet::new(),
        divergences: Vec::new(),
        unasked: 0,
    };
    match service.metadata.open_push(&push, service.config.limits.open_pushes, service.clock.now()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_gone() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Notes what upstreams were seen to have, so that what refers to it may be published before it.
async fn note(service: &Service, cache: &Cache, offers: &[Offer]) -> Result<(), PrefetchError> {
    let (now, among) = (service.clock.now(), Among::Namespace(cache.namespace()));
    for source in service.prefetching.sources(cache.name()) {
        let offered = offers.iter().filter(|offer| Arc::ptr_eq(&offer.source, source));
        let seen = offered.map(|Offer { info, .. }| UpstreamPath {
            path: info.path.clone(),
            nar_hash: info.nar_hash,
            statement: digest(&fingerprint(&info.path, &info.nar_hash, info.nar_size, &info.references)),
        });
        let seen: Vec<UpstreamPath> = seen.collect();
        service.metadata.note_upstream(among, source.upstream(), &seen, now, counts_since(now)).await?;
    }
    Ok(())
}
