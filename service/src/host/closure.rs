//! What of a run is taken into the host's store: the closure of what it pushed, each path only if it stands by grants like
//! the run's own.

use std::collections::{HashMap, HashSet};

use larder_protocol::{StorePath, StorePathHash};

use crate::{
    Service,
    caches::Cache,
    metadata::{MetadataError, PushingRun, VisiblePath},
    trust::Rank,
};

/// The most paths that a closure may have.
const MAX_PATHS: usize = 100_000;
/// How many paths are looked up at once.
const BATCH: usize = 1000;

/// A closure, dependencies first.
#[derive(Debug, Default)]
pub(super) struct Closure {
    /// What the cache has of it.
    pub paths: Vec<StorePath>,
    /// What it refers to and the cache has not: upstream caches have it.
    pub elsewhere: Vec<StorePath>,
    /// The NARs' length together.
    pub size: u64,
}

/// Why a closure is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A root is not there any more.
    #[error("{0} is not in the cache any more")]
    Gone(StorePathHash),
    /// Somebody with fewer rights brought a part of it.
    #[error(
        "{0} was brought neither from that protected ref nor by a push of the rank of protected refs, and is not \
         taken. Write ref_protected = true in the rule by which the ref pushes"
    )]
    Rank(StorePath),
    /// It is too large.
    #[error("its closure has more than {MAX_PATHS} paths")]
    TooMany,
}

/// Walks the closure of what a run pushed.
pub(super) async fn closure(
    service: &Service,
    cache: &Cache,
    run: &PushingRun,
    roots: &[StorePathHash],
) -> Result<Closure, NotTaken> {
    let mut found: HashMap<StorePathHash, VisiblePath> = HashMap::new();
    let mut elsewhere: HashMap<StorePathHash, StorePath> = HashMap::new();
    let mut seen: HashSet<StorePathHash> = roots.iter().copied().collect();
    let mut next: Vec<StorePathHash> = roots.to_vec();
    let mut named: HashMap<StorePathHash, StorePath> = HashMap::new();
    while !next.is_empty() {
        let now: Vec<StorePathHash> = next.drain(..next.len().min(BATCH)).collect();
        let visible = service.metadata.visible_paths(&[cache.name()], &now).await?;
        for hash in now {
            let Some(path) = visible.get(&hash) else {
                let path = named.remove(&hash).ok_or(NotTaken::Gone(hash))?;
                elsewhere.insert(hash, path);
                continue;
            };
            for reference in path.references()? {
                if seen.insert(reference.hash()) {
                    next.push(reference.hash());
                    named.insert(reference.hash(), reference);
                }
            }
            found.insert(hash, path.clone());
        }
        if seen.len() > MAX_PATHS {
            return Err(NotTaken::TooMany);
        }
    }
    // What the run pushed stands by its rank, and all that its push named does so, too.
    let least = roots.iter().filter_map(|hash| found.get(hash)).map(|path| path.standing.rank).min();
    // Among equals the first stays, who may be any branch. So an equal rank says nothing unless it is that of protected refs.
    let least = least.unwrap_or_default().max(Rank::PROTECTED);
    let own = service.metadata.pushes_from_ref_of(cache.name(), run).await?;
    let stands = |path: &VisiblePath| path.standing.rank >= least || own.contains(&path.push);
    let low: Vec<&VisiblePath> = found.values().filter(|path| !stands(path)).collect();
    // What the service itself fetched says so by whose push it was: a rank is a number, which others may have too.
    let pushes: HashSet<i64> = low.iter().map(|path| path.push).collect();
    let prefetches = service.metadata.prefetches_among(&Vec::from_iter(pushes)).await?;
    if let Some(low) = low.into_iter().find(|path| !prefetches.contains(&path.push)) {
        return Err(NotTaken::Rank(low.path.clone()));
    }
    let size = found.values().map(|path| path.nar_size).fold(0, u64::saturating_add);
    let paths = in_order(roots, &found)?;
    Ok(Closure { paths, elsewhere: elsewhere.into_values().collect(), size })
}

/// Dependencies before what depends on them. Not a recursion: closures may be deep.
fn in_order(
    roots: &[StorePathHash],
    found: &HashMap<StorePathHash, VisiblePath>,
) -> Result<Vec<StorePath>, MetadataError> {
    let mut order = Vec::with_capacity(found.len());
    let mut begun: HashSet<StorePathHash> = HashSet::new();
    for root in roots {
        let mut open: Vec<(StorePathHash, Vec<StorePath>)> = Vec::new();
        let mut enter = Some(*root);
        loop {
            if let Some(hash) = enter.take()
                && let Some(path) = found.get(&hash)
                && begun.insert(hash)
            {
                open.push((hash, path.references()?));
            }
            let Some((hash, left)) = open.last_mut() else { break };
            match left.pop() {
                Some(reference) => enter = Some(reference.hash()),
                None => {
                    order.extend(found.get(hash).map(|path| path.path.clone()));
                    open.pop();
                }
            }
        }
    }
    Ok(order)
}
