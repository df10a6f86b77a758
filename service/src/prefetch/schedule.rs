//! Prefetching by the clock. What it starts is a job of its own, so that the clock goes on whatever becomes of it.

use crate::{
    Service,
    config::ScheduledPrefetch,
    identity::{GitRef, RepositoryName},
    metadata::MetadataError,
    queue::{Performed, Work},
};

/// Has a configured prefetch begin when its time comes, unless that is arranged already.
///
/// # Errors
/// When the database fails.
pub(crate) async fn schedule(service: &Service, scheduled: &ScheduledPrefetch) -> Result<(), MetadataError> {
    let ScheduledPrefetch { issuer, repository, git_ref, schedule } = scheduled;
    let Some(next) = schedule.next(service.clock.now()) else { return Ok(()) };
    let work = Work::Schedule {
        issuer: issuer.to_string(),
        repository: repository.clone(),
        git_ref: git_ref.clone(),
        schedule: schedule.to_string(),
    };
    service.queue.enqueue(&work.job(next)).await
}

/// Its time has come: begins it, and says when it comes again. What is configured no more ends.
///
/// # Errors
/// When the database fails.
pub(crate) async fn by_the_clock(
    service: &Service,
    issuer: &str,
    repository: &RepositoryName,
    git_ref: &GitRef,
    schedule: &str,
) -> Result<Performed, String> {
    let configured = service.config.prefetch.schedules.iter().find(|scheduled| {
        scheduled.issuer.as_str() == issuer
            && scheduled.repository == *repository
            && scheduled.git_ref == *git_ref
            && scheduled.schedule.to_string() == schedule
    });
    let now = service.clock.now();
    let Some(next) = configured.and_then(|scheduled| scheduled.schedule.next(now)) else {
        return Ok(Performed::Done);
    };
    let work = Work::PrefetchScheduled {
        issuer: issuer.to_owned(),
        repository: repository.clone(),
        git_ref: git_ref.clone(),
    };
    service.queue.enqueue(&work.job(now)).await.map_err(|error| error.to_string())?;
    Ok(Performed::Again(next))
}
