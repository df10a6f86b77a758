//! Whether what a push brings has room: asked when it is opened, so that nobody sends what cannot stay.

use std::collections::HashMap;

use larder_protocol::{NarHash, api::CacheName, quantity::show_size};

use crate::{
    Service,
    caches::Cache,
    config::ByteSize,
    error::ApiError,
    metadata::{MetadataError, PushingRun, Staged},
    retention,
};

/// How many bytes of NARs must be stored before they tell what NARs take here on average.
const TELLING: u64 = 64 << 20;
/// Until then, a NAR takes so many times less than its size.
const USUAL: u64 = 4;

/// Refuses a push that cannot have room, even when all has gone that may go for want of it.
///
/// What it will take is not known: chunks may be here already, and frames are smaller than NARs. So it is taken for as
/// much as NARs take here on average, all that chunks save included. What the newest run of the same line holds alone is
/// let go by this push, and counts as room.
///
/// Who pushes blindly could ask for ever less, and learn from where there is room how full the cache is. So what such a
/// push brings is compared with what there may be at most. While what is held is more than that, any is refused.
pub(super) async fn check(
    service: &Service,
    cache: &Cache,
    run: Option<&PushingRun>,
    missing: &[&Staged<'_>],
    blind: bool,
) -> Result<(), ApiError> {
    let sizes: HashMap<NarHash, u64> =
        missing.iter().map(|staged| (staged.info.nar_hash, staged.info.nar_size)).collect();
    let nars = sizes.values().fold(0u64, |all, size| all.saturating_add(*size));
    if nars == 0 {
        return Ok(());
    }
    refuse_on_full_disk(service)?;
    let disk = retention::room(service);
    let own = cache.config.max_size.map(|limit| (Some(cache.name()), limit));
    let all = service.config.retention.max_size.map(|limit| (None, limit));
    // A pull request's own cache has bounds of its own, which are looked at when it stores something. Of the disk it may
    // take what sweeps need not make free again.
    let kept_free = match (disk, &cache.isolation) {
        (Some(disk), Some(_)) => service.config.retention.min_free(disk).saturating_mul(2),
        _ => 0,
    };
    let limits = own.into_iter().chain(all).filter(|_| cache.isolation.is_none());
    if blind {
        let fits = disk.is_none_or(|disk| nars / USUAL <= disk.size && kept_free <= disk.available);
        return match fits && blind_has_room(service, cache, run, nars, limits).await? {
            true => Ok(()),
            false => Err(ApiError::no_room(format!(
                "this push brings {} of NARs, and has no room. Tell who runs the service: sizes are told only to whoever \
                 may read the cache",
                show_size(nars)
            ))),
        };
    }
    let available = disk.map(|disk| disk.available.saturating_sub(kept_free));
    let mut tight = Vec::new();
    for (scope, limit) in limits {
        let held = service.metadata.budget_held(scope).await?;
        if held.saturating_add(nars) > limit.get() {
            tight.push((scope, limit.get(), held));
        }
    }
    if tight.is_empty() && available.is_none_or(|available| nars <= available) {
        return Ok(());
    }
    let cost = cost(service, nars).await?;
    if let Some(disk) = disk.filter(|disk| kept_free > 0 && cost.saturating_add(kept_free) > disk.available) {
        return Err(ApiError::no_room(format!(
            "this push brings {} of NARs, about {} as they are stored here, and the disk has {} left, of which pull \
             requests' own caches leave {} (twice min_free). Tell who runs the service: a larger disk, or drop some of \
             them (`larderd isolated list`)",
            show_size(nars),
            show_size(cost),
            show_size(disk.available),
            show_size(kept_free)
        )));
    }
    if let Some(available) = available.filter(|available| cost > *available) {
        return Err(ApiError::no_room(format!(
            "this push brings {} of NARs, about {} as they are stored here, and the disk has room for {}. Tell who \
             runs the service: a larger disk, or a larger min_free under [retention], so that sweeps keep more of it free",
            show_size(nars),
            show_size(cost),
            show_size(available)
        )));
    }
    for (scope, limit, held) in tight.into_iter().filter(|(_, limit, held)| held + cost > *limit) {
        let held = held - line(service, cache, run).await?.min(held);
        if held + cost > limit {
            let whose =
                scope.map_or_else(|| "all caches together".to_owned(), |cache| format!("the cache {cache}"));
            return Err(ApiError::no_room(format!(
                "this push brings {} of NARs, about {} as they are stored here, and has no room: {whose} may hold {} \
                 (max_size), of which pins, the newest runs of main lines and pushes under way hold {}. Tell who runs \
                 the service: a larger max_size, fewer pins (`larder pin remove`) or branches (`larderd roots drop`)",
                show_size(nars),
                show_size(cost),
                show_size(limit),
                show_size(held)
            )));
        }
    }
    Ok(())
}

/// Whether these limits have room for what is pushed blindly, whatever else they have room for; and for what is held.
async fn blind_has_room(
    service: &Service,
    cache: &Cache,
    run: Option<&PushingRun>,
    nars: u64,
    limits: impl Iterator<Item = (Option<&CacheName>, ByteSize)>,
) -> Result<bool, MetadataError> {
    for (scope, limit) in limits {
        let held = service.metadata.budget_held(scope).await?;
        let too_much =
            held > limit.get() && held.saturating_sub(line(service, cache, run).await?) > limit.get();
        if too_much || nars / USUAL > limit.get() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What so many bytes of NARs take on average.
async fn cost(service: &Service, nars: u64) -> Result<u64, MetadataError> {
    let (stored, raw) = (service.metadata.object_bytes().await?, service.metadata.nar_bytes().await?);
    let (stored, raw) = if raw < TELLING { (1, USUAL) } else { (stored.min(raw), raw) };
    let cost = u128::from(nars) * u128::from(stored) / u128::from(raw);
    Ok(u64::try_from(cost).unwrap_or(u64::MAX))
}

/// What the newest run of the same line holds.
async fn line(service: &Service, cache: &Cache, run: Option<&PushingRun>) -> Result<u64, MetadataError> {
    match run {
        Some(run) => {
            let rules = &cache.config.retention;
            retention::held_by_line(&service.metadata, cache.name(), rules, run, service.clock.now()).await
        }
        None => Ok(0),
    }
}

/// Refuses to write what sweeps need the last bytes of the disk for.
pub(super) fn refuse_on_full_disk(service: &Service) -> Result<(), ApiError> {
    if retention::reserve::is_spent(service) {
        return Err(ApiError::no_room(
            "the service's disk is full, and nothing is taken until there is room again: a sweep makes some within an \
             hour, if anything may go. Tell who runs the service",
        ));
    }
    Ok(())
}
