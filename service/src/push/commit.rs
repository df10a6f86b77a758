//! Publishing a push: all of its paths become visible at one moment, or none.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use larder_protocol::{StorePath, StorePathHash, api::CommittedPush, signature::fingerprint};

use super::{PushRequest, record, upstream};
use crate::{
    Service,
    audit::Who,
    caches::Cache,
    error::ApiError,
    forge,
    metadata::{CommitOutcome, FoundPush},
};

/// How many missing references an answer names at most.
const MISSING_TOLD: usize = 1000;

pub(super) async fn commit_push(request: &PushRequest) -> Result<CommittedPush, ApiError> {
    committed_push(&request.service, &request.cache, request.push, &request.who).await
}

/// Commits a push, if that is not done yet, and tells what it published.
pub(super) async fn committed_push(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    push: FoundPush,
    who: &Who,
) -> Result<CommittedPush, ApiError> {
    let _turn = service.workshop.commit().await?;
    if !push.committed {
        check_references(service, cache, push).await?;
        // A task of its own: readers hear of it even if the client goes away in this moment.
        let published = tokio::spawn(publish(service.clone(), cache.clone(), push.id, who.clone())).await;
        match published.map_err(|_| ApiError::internal("a commit panicked"))?? {
            CommitOutcome::Committed => {
                service.stats.counters.pushes_committed.one();
                // What stands in the cache is not told by way of a check run either.
                if !push.is_blind() {
                    forge::note_push(service, cache, push.id).await;
                }
            }
            CommitOutcome::Unverified(count) => {
                return Err(ApiError::invalid(format!(
                    "{count} paths of this push have no verified NAR yet; send their recipes first"
                )));
            }
            CommitOutcome::Gone => return Err(ApiError::not_found("there is no such push; open a new one")),
        }
    }
    let published = service.metadata.published_by(push.id).await?;
    if !push.committed {
        service.stats.counters.paths_published.add(published.len() as u64);
    }
    // Also where it was committed before: that request may have failed between then and here.
    service.reads.withdrawn(cache, published.iter().map(|info| info.path.hash()));
    let mut divergences = service.metadata.divergences_of(push.id).await?;
    if let Some(published) = push.blind {
        for upstream in &cache.config.upstreams {
            service.metadata.forget_upstream(push.name, &upstream.upstream).await?;
        }
        // Which of its paths were there already, and with what content, is none of its business. Upstreams are.
        divergences.retain(|divergence| divergence.upstream.is_some());
        return Ok(CommittedPush { published, divergences, ..CommittedPush::default() });
    }
    let replacements = service.metadata.replacements_of(push.id).await?;
    let keys = cache.signing_keys();
    let signed = service.workshop.work(move |_| {
        let count = published.len() as u64;
        let signatures = published
            .into_iter()
            .map(|info| {
                let text = fingerprint(&info.path, &info.nar_hash, info.nar_size, &info.references);
                (info.path, keys.keys.iter().map(|key| key.sign(&text)).collect())
            })
            .collect();
        (count, signatures)
    });
    let (published, signatures) = signed.await?;
    Ok(CommittedPush { published, signatures, divergences, replacements })
}

/// Makes a push's paths visible, and has readers forget what stood in their places.
async fn publish(
    service: Arc<Service>,
    cache: Arc<Cache>,
    push: i64,
    who: Who,
) -> Result<CommitOutcome, ApiError> {
    let paths = service.metadata.staged_paths(push).await?;
    let now = service.clock.now();
    let unverified = service.metadata.unverified(push, &cache.namespaces()).await?;
    if unverified > 0 {
        return Ok(CommitOutcome::Unverified(unverified));
    }
    let record = record::write(&service, &cache, push, now).await?;
    let outcome = service.metadata.commit_push(push, &cache.namespaces(), record, now, &who).await;
    // Also if it failed: nobody knows then whether it is in the database.
    service.reads.withdrawn(&cache, paths.into_iter());
    Ok(outcome?)
}

/// Every reference must be in the push, in the cache, or seen at an upstream.
async fn check_references(service: &Service, cache: &Cache, push: FoundPush) -> Result<(), ApiError> {
    let outside = service.metadata.outside_references(push.id).await?;
    if outside.is_empty() {
        return Ok(());
    }
    let hashes: Vec<StorePathHash> = outside.iter().map(StorePath::hash).collect();
    // What a sweep takes between the look and the lease is looked for again, and then missing.
    let mut tries = 3;
    let visible = loop {
        let visible = match push.is_blind() {
            true => HashMap::new(),
            false => service.metadata.visible_paths(&cache.names(), &hashes).await?,
        };
        let leased: Vec<(i64, StorePathHash)> = visible.iter().map(|(hash, path)| (path.id, *hash)).collect();
        match service.metadata.lease(push.id, &leased).await {
            Ok(()) => break visible,
            Err(error) if error.is_gone() && tries > 0 => tries -= 1,
            Err(error) => return Err(error.into()),
        }
    };
    let is_visible = |path: &StorePath| visible.get(&path.hash()).is_some_and(|found| found.path == *path);
    let rest: HashSet<StorePath> = outside.into_iter().filter(|path| !is_visible(path)).collect();
    let upstreams = cache.config.upstreams.iter().map(|upstream| &upstream.upstream);
    let since = upstream::counts_since(service.clock.now());
    let among = upstream::among(cache, push.name, push.is_blind());
    let there = service.metadata.at_upstreams(among, upstreams, &rest, since).await?;
    let mut missing: Vec<StorePath> = rest.into_iter().filter(|path| !there.contains(path)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort();
    let count = missing.len();
    missing.truncate(MISSING_TOLD);
    Err(ApiError::missing_references(
        match push.is_blind() {
            true => format!(
                "{count} references are in neither this push nor an upstream, and what the cache has is not told to \
                 whoever may not read it; push them too"
            ),
            false => {
                format!(
                    "{count} references are in neither this push, the cache, nor an upstream; push them too"
                )
            }
        },
        missing,
    ))
}
