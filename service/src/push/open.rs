//! Opening a push: what of a closure is here, what must be sent.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use larder_protocol::{
    NarHash, StorePathHash,
    api::{CommittedPush, Divergence, OpenPush, OpenedPush, PathInfo, PushId},
    narinfo::is_content_address,
};

use super::commit::committed_push;
use crate::{
    Service,
    audit::Who,
    caches::{Cache, no_such_cache},
    config::{Limits, OpenPushes},
    error::ApiError,
    isolated,
    metadata::{FullOf, NewPush, OpenOutcome, VisiblePath},
    random::random_bytes,
    retention,
    trust::Grant,
};

/// The most references, signatures that one path may have.
const MAX_REFERENCES: usize = 20_000;
const MAX_SIGNATURES: usize = 32;
/// How often is looked again when a sweep takes what was just seen.
const TRIES: usize = 3;
const SOON: Duration = Duration::from_secs(1);

pub(super) async fn open_push(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    grant: &Grant,
    who: &Who,
    body: Bytes,
) -> Result<OpenedPush, ApiError> {
    let request = service.workshop.work(move |_| parse(&body)).await??;
    let limits = &service.config.limits;
    check(&request, limits)?;
    for _ in 0..TRIES {
        if let Some(opened) = try_open(service, cache, grant, who, &request).await? {
            return Ok(opened);
        }
    }
    Err(ApiError::unavailable("what is here of this closure is just being removed. Try again", SOON))
}

/// Opens the push, unless a sweep took what was seen before it could be leased.
async fn try_open(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    grant: &Grant,
    who: &Who,
    request: &OpenPush,
) -> Result<Option<OpenedPush>, ApiError> {
    let limits = &service.config.limits;
    let hashes: Vec<StorePathHash> = request.paths.iter().map(|info| info.path.hash()).collect();
    let visible = service.metadata.visible_paths(&cache.names(), &hashes).await?;
    let absent: Vec<&PathInfo> =
        request.paths.iter().filter(|info| !visible.contains_key(&info.path.hash())).collect();
    let upstream = service.upstreams.have(service, cache, &absent).await?;
    let absent: Vec<&PathInfo> =
        absent.into_iter().filter(|info| !upstream.contains(&info.path.hash())).collect();
    let hashes: Vec<NarHash> = absent.iter().map(|info| info.nar_hash).collect();
    let stored = service.metadata.stored_nars(&cache.namespaces(), &hashes).await?;
    // One with another size than is said here is none that could be published.
    let nar = |info: &PathInfo| {
        stored.get(&info.nar_hash).filter(|(_, size)| *size == info.nar_size).map(|(id, _)| *id)
    };
    // What is present must be seen, whatever readers were told before.
    service.reads.published(cache, visible.keys().copied());

    let push = NewPush {
        name: PushId(random_bytes()?),
        cache: cache.name(),
        isolated: isolated::room_for_paths(service, cache),
        owner: &grant.identity.owner(),
        provenance: &grant.identity.provenance(),
        who,
        run: retention::run_of(&grant.identity),
        staged: absent.iter().map(|info| (*info, nar(info))).collect(),
        leased: visible.values().map(|path| (path.id, path.path.hash())).collect(),
        roots: request.roots.iter().map(|root| root.hash()).collect::<HashSet<_>>().into_iter().collect(),
        built: request.built.iter().copied().collect(),
        divergences: divergences(request, &visible),
    };
    let found = match service.metadata.open_push(&push, limits.open_pushes, service.clock.now()).await {
        Ok(OpenOutcome::Opened(found)) => found,
        Ok(OpenOutcome::CacheFull) => return Err(isolated::paths_are_full(service, cache)),
        Ok(OpenOutcome::CacheGone) => return Err(no_such_cache()),
        Ok(OpenOutcome::TooMany(full)) => return Err(too_many_open(full, limits.open_pushes)),
        Err(error) if error.is_gone() => {
            service.metadata.give_up_push(&push.name, service.clock.now()).await?;
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let (reused, missing): (Vec<&PathInfo>, Vec<&PathInfo>) =
        absent.iter().partition(|info| nar(info).is_some());
    let hash = |info: &&PathInfo| info.path.hash();
    tracing::info!(
        push = %push.name, cache = %cache.name(), owner = %push.owner, paths = request.paths.len(),
        missing = missing.len(), reused = reused.len(), present = visible.len(), upstream = upstream.len(),
        "push opened"
    );
    let committed = match found.committed {
        true => Some(CommittedPush { divergences: push.divergences, ..CommittedPush::default() }),
        // Everything may be here but under other names: nothing is left to be done then either.
        false if missing.is_empty() => committed_push(service, cache, found, who).await.ok(),
        false => None,
    };
    Ok(Some(OpenedPush {
        push: push.name,
        missing: missing.iter().map(hash).collect(),
        reused: reused.iter().map(hash).collect(),
        present: visible.into_keys().collect(),
        upstream: upstream.into_iter().collect(),
        max_body: limits.max_body.get(),
        committed,
    }))
}

/// How long a client waits for others to end.
const COME_AGAIN: Duration = Duration::from_secs(30);

fn too_many_open(full: FullOf, limits: OpenPushes) -> ApiError {
    let (whose, limit, key) = match full {
        FullOf::Identity => ("of this job or token", limits.per_identity, "max_open_pushes_per_identity"),
        FullOf::Cache => ("in this cache", limits.per_cache, "max_open_pushes_per_cache"),
        FullOf::All => ("in all", limits.in_all, "max_open_pushes"),
    };
    ApiError::too_many(
        format!(
            "{limit} pushes are open {whose}, and no more may be (limits.{key}). Try again when some have ended; those \
             that are abandoned do not count after a quarter of an hour"
        ),
        COME_AGAIN,
    )
}

fn parse(body: &[u8]) -> Result<OpenPush, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the closure cannot be read: {error}")))
}

fn check(request: &OpenPush, limits: &Limits) -> Result<(), ApiError> {
    let (max_nar_size, max_push_bytes) = (limits.max_nar_size.get(), limits.max_push_bytes.get());
    let max_paths = limits.max_push_paths as usize;
    if request.paths.is_empty() {
        return Err(ApiError::invalid("the closure is empty; name at least one path"));
    }
    if request.paths.len() > max_paths {
        return Err(ApiError::invalid(format!(
            "the closure has {} paths; one push takes {max_paths} (limits.max_push_paths), so push its parts",
            request.paths.len()
        )));
    }
    let mut hashes = HashSet::with_capacity(request.paths.len());
    let mut sizes: HashMap<NarHash, u64> = HashMap::new();
    for info in &request.paths {
        let refuse = |what: &str| Err(ApiError::invalid(format!("{}: {what}", info.path)));
        if !hashes.insert(info.path.hash()) {
            return refuse("it is there twice");
        }
        if info.nar_size == 0 {
            return refuse("its NAR size is 0");
        }
        if info.nar_size > max_nar_size {
            return refuse(&format!(
                "its NAR has {} bytes; this service takes {max_nar_size} (limits.max_nar_size)",
                info.nar_size
            ));
        }
        if *sizes.entry(info.nar_hash).or_insert(info.nar_size) != info.nar_size {
            return refuse("another path has the same NAR hash and another NAR size");
        }
        if info.references.len() > MAX_REFERENCES {
            return refuse("it has more than 20,000 references");
        }
        if !info.references.is_sorted_by(|a, b| a < b) {
            return refuse("its references are not sorted or not unique");
        }
        if info.signatures.len() > MAX_SIGNATURES {
            return refuse("it has more than 32 signatures");
        }
        if info.ca.as_ref().is_some_and(|ca| !is_content_address(ca)) {
            return refuse("its content address is malformed");
        }
    }
    let total = request.paths.iter().fold(0u64, |total, info| total.saturating_add(info.nar_size));
    if total > max_push_bytes {
        return Err(ApiError::invalid(format!(
            "the closure's NARs have {total} bytes; one push takes {max_push_bytes} (limits.max_push_bytes)"
        )));
    }
    if let Some(root) = request.roots.iter().find(|root| !hashes.contains(&root.hash())) {
        return Err(ApiError::invalid(format!("root {root} is not in the closure")));
    }
    Ok(())
}

/// What is visible with another content than was pushed: it stays as it is.
fn divergences(request: &OpenPush, visible: &HashMap<StorePathHash, VisiblePath>) -> Vec<Divergence> {
    request
        .paths
        .iter()
        .filter_map(|info| {
            let kept = visible.get(&info.path.hash())?.nar_hash;
            (kept != info.nar_hash).then(|| Divergence {
                path: info.path.clone(),
                kept,
                pushed: info.nar_hash,
            })
        })
        .collect()
}
