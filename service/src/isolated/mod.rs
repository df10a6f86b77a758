//! Pull requests' own caches. Whoever may push to a cache can define any path in it, so that a pull request, where
//! anybody's code runs, gets one that nobody reads but its own jobs.
//!
//! It reads through to its parent and has whatever that has; what it brings itself lies in a namespace of its own and
//! is signed with keys of its own. The parent never looks there. So nothing needs to be undone when it goes.

mod keys;
mod tidy;

use std::sync::Arc;

use larder_protocol::api::CacheName;

pub(crate) use tidy::run;
pub use tidy::tidy;

use crate::{
    Service,
    audit::Who,
    caches::Cache,
    error::ApiError,
    metadata::{IsolatedOutcome, OpenIsolated, WantedIsolated},
    random::random_bytes,
    trust::PullRequest,
};

/// How soon a job may ask again for a cache that is just being removed.
const COME_AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// The cache of a pull request, for a job that may push to it; made if there is none.
///
/// # Errors
/// When there are too many, or it is being removed in this moment.
pub(crate) async fn open(
    service: &Service,
    parent: &Arc<Cache>,
    issuer: &str,
    pull_request: PullRequest,
    who: &Who,
) -> Result<Arc<Cache>, ApiError> {
    let PullRequest { repository_id, number } = pull_request;
    let name = CacheName::isolated(parent.name(), repository_id, number).map_err(ApiError::internal)?;
    let limits = &service.config.isolated;
    let wanted = WantedIsolated {
        name: &name,
        parent: parent.name(),
        issuer,
        repository_id,
        salt: random_bytes()?,
        max_per_repository: limits.max_per_repository,
        max: limits.max,
        who,
    };
    match service.metadata.open_isolated(&wanted, service.clock.now()).await? {
        IsolatedOutcome::Open(open) => cache(parent, name, open),
        IsolatedOutcome::Dropped => Err(ApiError::unavailable(
            format!("the cache {name} was dropped and is being removed. Try again"),
            COME_AGAIN,
        )),
        IsolatedOutcome::Full => Err(ApiError::denied(format!(
            "{pull_request} gets no cache of its own: this service has {} of them already, which is its limit \
             (isolated.max). Whoever runs it can raise that, or drop some: larderd isolated list",
            limits.max
        ))),
        IsolatedOutcome::Foreign => Err(ApiError::denied(format!(
            "{pull_request} gets no cache of its own: another issuer's repository has the same number, and has {name}"
        ))),
    }
}

/// The cache of that name, if a pull request has it and its parent is configured.
///
/// # Errors
/// When the database fails.
pub(crate) async fn find(service: &Service, name: &CacheName) -> Result<Option<Arc<Cache>>, ApiError> {
    let Some((parent, _)) = name.isolation() else { return Ok(None) };
    let Some(parent) = service.caches.named(parent) else { return Ok(None) };
    let open = service.metadata.find_isolated(name).await?;
    open.map(|open| cache(parent, name.clone(), open)).transpose()
}

fn cache(parent: &Arc<Cache>, name: CacheName, open: OpenIsolated) -> Result<Arc<Cache>, ApiError> {
    let keys = keys::derive(&parent.signing_keys(), &name, &open.salt).map_err(ApiError::internal)?;
    Ok(Arc::new(Cache::isolated(name, keys, open.id, parent.clone())))
}

/// Counts what is about to be stored, where the cache is a pull request's.
///
/// # Errors
/// When that would be too much, or the cache was dropped.
pub(crate) async fn count_bytes(service: &Service, cache: &Cache, bytes: u64) -> Result<(), ApiError> {
    let Some(isolation) = &cache.isolation else { return Ok(()) };
    let max = service.config.isolated.max_size;
    match service.metadata.count_isolated_bytes(isolation.id, bytes, max.get()).await? {
        true => Ok(()),
        false => {
            Err(full(cache, &format!("store {max} (isolated.max_size), what its parent has not counted")))
        }
    }
}

/// Where a push stages paths whose number is bounded: the cache's row, and the bound.
pub(crate) fn room_for_paths(service: &Service, cache: &Cache) -> Option<(i64, u64)> {
    cache.isolation.as_ref().map(|isolation| (isolation.id, service.config.isolated.max_paths.into()))
}

/// That there is no such room.
pub(crate) fn paths_are_full(service: &Service, cache: &Cache) -> ApiError {
    let max = service.config.isolated.max_paths;
    full(
        cache,
        &format!(
            "take {max} paths (isolated.max_paths): those of earlier pushes count, and those of its parent that it relies on"
        ),
    )
}

fn full(cache: &Cache, limit: &str) -> ApiError {
    ApiError::invalid(format!("{} is full: a pull request's own cache may {limit}", cache.name()))
}
