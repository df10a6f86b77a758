//! Opening a push: what of a closure is here, what must be sent.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use larder_protocol::{
    NarHash, StorePath, StorePathHash,
    api::{CommittedPush, Divergence, OpenPush, OpenedPush, PathInfo, Permission, PushId, RefusedPath},
};

use super::{
    bounds,
    claims::{Claim, claims},
    commit::committed_push,
    is_blind,
    plan::{Plan, verdict},
    room,
    upstream::{self, UpstreamSays},
};
use crate::{
    Service,
    audit::Who,
    caches::{Cache, no_such_cache},
    config::OpenPushes,
    error::ApiError,
    isolated,
    metadata::{FullOf, NewPush, OpenOutcome, Staged, VisiblePath},
    random::random_bytes,
    retention,
    trust::{Grant, GrantedTo, Standing, Verdict},
};

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
    let (request, claims) = service.workshop.work(move |_| parse(&body)).await??;
    let limits = &service.config.limits;
    bounds::check(&request, limits)?;
    if !request.replace.is_empty() && !grant.permits(Permission::Admin) {
        return Err(ApiError::denied(
            "only an admin may replace paths on purpose: `larderd token create --permission admin` makes a token that \
             permits it",
        ));
    }
    open(service, cache, grant, who, &request, &claims).await
}

/// Opens a push of the service's own.
pub(super) async fn open_own(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    grant: &Grant,
    who: &Who,
    request: &OpenPush,
) -> Result<OpenedPush, ApiError> {
    let claims = claims(&request.paths)?;
    bounds::check(request, &service.config.limits)?;
    open(service, cache, grant, who, request, &claims).await
}

async fn open(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    grant: &Grant,
    who: &Who,
    request: &OpenPush,
    claims: &HashMap<StorePathHash, Claim>,
) -> Result<OpenedPush, ApiError> {
    for _ in 0..TRIES {
        if let Some(opened) = try_open(service, cache, grant, who, request, claims).await? {
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
    claims: &HashMap<StorePathHash, Claim>,
) -> Result<Option<OpenedPush>, ApiError> {
    let limits = &service.config.limits;
    let hashes: Vec<StorePathHash> = request.paths.iter().map(|info| info.path.hash()).collect();
    let blind = is_blind(cache, grant);
    let visible = match blind {
        true => HashMap::new(),
        false => service.metadata.visible_paths(&cache.names(), &hashes).await?,
    };
    let ordered: HashSet<&StorePath> = request.replace.iter().collect();
    let mut plan = Plan::default();
    let mut asked: Vec<&PathInfo> = Vec::new();
    for info in &request.paths {
        let hash = info.path.hash();
        let brought = Standing { rank: grant.rank, ordered: ordered.contains(&info.path) };
        let verdict = visible.get(&hash).map(|there| verdict(brought, there, info, cache));
        match verdict {
            Some(Verdict::Present) => {}
            Some(Verdict::Kept) => plan.diverge(info, &visible[&hash]),
            None | Some(Verdict::Confirmed | Verdict::Replaced) => {
                if let Some(Claim::Wrong(misfit)) = claims.get(&hash) {
                    plan.refused.push(RefusedPath { path: info.path.clone(), reason: misfit.to_string() });
                    continue;
                }
                plan.staged.push(info);
                if verdict != Some(Verdict::Confirmed) {
                    asked.push(info);
                }
            }
        }
    }
    let name = PushId(random_bytes()?);
    // What the service fetched itself is what an upstream has signed.
    let says = match grant.identity {
        GrantedTo::Prefetch { .. } => UpstreamSays::default(),
        _ => {
            let among = upstream::among(cache, name, blind);
            service.upstreams.compare(service, cache, among, &asked).await?
        }
    };
    plan.heed(&says, &visible);
    let Plan { staged, upstream, divergences, refused } = plan;
    let hashes: Vec<NarHash> = staged.iter().map(|info| info.nar_hash).collect();
    let stored = match blind {
        true => HashMap::new(),
        false => service.metadata.stored_nars(&cache.namespaces(), &hashes).await?,
    };
    let staged: Vec<Staged<'_>> = staged
        .into_iter()
        .map(|info| {
            // What the cache has of this path with this address was checked when it came.
            let is_proven = |there: &VisiblePath| there.is(info) && there.ca == info.ca;
            let hash = info.path.hash();
            let unproven = matches!(claims.get(&hash), Some(Claim::Unproven))
                && !visible.get(&hash).is_some_and(is_proven);
            // One with another size than is said here is none that could be published.
            let nar = stored.get(&info.nar_hash).filter(|(_, size)| *size == info.nar_size && !unproven);
            Staged { info, nar: nar.map(|(id, _)| *id), ordered: ordered.contains(&info.path), unproven }
        })
        .collect();
    // What is present must be seen, whatever readers were told before.
    service.reads.published(cache, visible.keys().copied());

    let told: Vec<Divergence> = divergences.iter().map(|divergence| divergence.told.clone()).collect();
    let (reused, missing): (Vec<&Staged<'_>>, Vec<&Staged<'_>>) =
        staged.iter().partition(|staged| staged.nar.is_some());
    let run = retention::run_of(&grant.identity);
    room::check(service, cache, run.as_ref(), &missing, blind).await?;
    let hash = |staged: &&Staged<'_>| staged.info.path.hash();
    let (reused, missing): (Vec<_>, Vec<_>) =
        (reused.iter().map(hash).collect(), missing.iter().map(hash).collect());
    let staged_hashes: HashSet<StorePathHash> = reused.iter().chain(&missing).copied().collect();
    let present: Vec<StorePathHash> =
        visible.keys().copied().filter(|hash| !staged_hashes.contains(hash)).collect();
    let push = NewPush {
        name,
        cache: cache.name(),
        public: cache.is_public(),
        isolated: isolated::room_for_paths(service, cache),
        owner: &grant.identity.owner(),
        provenance: &grant.identity.provenance(),
        who,
        run,
        rank: grant.rank,
        blind,
        staged,
        leased: visible.values().map(|path| (path.id, path.path.hash())).collect(),
        of_parent: match cache.isolation {
            Some(_) => {
                let parents = visible.values().filter(|path| path.cache != cache.name().as_str());
                parents.map(|path| path.id).collect()
            }
            None => HashSet::new(),
        },
        roots: request.roots.iter().map(|root| root.hash()).collect::<HashSet<_>>().into_iter().collect(),
        built: request.built.iter().copied().collect(),
        divergences,
        unasked: says.unasked,
    };
    let found = match service.metadata.open_push(&push, limits.open_pushes, service.clock.now()).await {
        Ok(OpenOutcome::Opened(found)) => Some(found),
        Ok(OpenOutcome::Nothing) => None,
        Ok(OpenOutcome::CacheFull) => return Err(isolated::paths_are_full(service, cache)),
        Ok(OpenOutcome::CacheGone) => return Err(no_such_cache()),
        Ok(OpenOutcome::TooMany(full)) => return Err(too_many_open(full, limits.open_pushes)),
        Err(error) if error.is_gone() => {
            service.metadata.give_up_push(&push.name, service.clock.now()).await?;
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    service.stats.counters.pushes_opened.one();
    tracing::info!(
        push = %push.name, cache = %cache.name(), owner = %push.owner, paths = request.paths.len(),
        missing = missing.len(), reused = reused.len(), present = present.len(), upstream = upstream.len(),
        refused = refused.len(), diverging = told.len(), unasked = push.unasked, "push opened"
    );
    let committed = match found.filter(|found| !found.committed) {
        None => Some(CommittedPush { divergences: told, ..CommittedPush::default() }),
        // Everything may be here but under other names: nothing is left to be done then either.
        Some(found) if missing.is_empty() => committed_push(service, cache, found, who).await.ok(),
        Some(_) => None,
    };
    Ok(Some(OpenedPush {
        push: push.name,
        missing,
        reused,
        present,
        upstream,
        refused,
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

fn parse(body: &[u8]) -> Result<(OpenPush, HashMap<StorePathHash, Claim>), ApiError> {
    let request: OpenPush = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the closure cannot be read: {error}")))?;
    let claims = claims(&request.paths)?;
    Ok((request, claims))
}
