//! Removing pull requests' caches: those that no job has used for long, and what is left of those that were dropped.

use std::{sync::Arc, time::Duration};

use crate::{Service, error::ApiError};

/// How long from one time to the next.
const EVERY: Duration = Duration::from_secs(60);
/// How long the file of an object stays, in seconds, when nothing names it any more: readers may still be sent what is
/// in it, and an upload, which takes an hour at most, may still write it.
const GRACE: i64 = 2 * 60 * 60;

/// Tidies again and again.
pub(crate) async fn run(service: Arc<Service>) {
    loop {
        // What failed was logged, and is tried again.
        let _ = tidy(&service).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// Removes what is to go. However it ends, the next time goes on where it was.
///
/// # Errors
/// When the database or storage fails.
pub async fn tidy(service: &Service) -> Result<(), ApiError> {
    let now = service.clock.now();
    let unused_since = now.saturating_sub(service.config.isolated.keep.seconds());
    service.metadata.drop_unused_isolated(unused_since, now).await?;
    let dropped = service.metadata.isolated_caches().await?.into_iter().filter(|cache| cache.dropped);
    for cache in dropped {
        match service.metadata.remove_isolated(&cache, now).await {
            Ok(()) => tracing::info!(cache = %cache.name, "a pull request's cache was removed"),
            Err(error) if error.is_gone() => {
                tracing::info!(cache = %cache.name, "a request still uses what is to be removed; the rest goes later");
            }
            Err(error) => return Err(error.into()),
        }
    }
    remove_objects(service, now.saturating_sub(GRACE)).await
}

/// Removes the files of objects that nothing has named since before then, and then their rows.
async fn remove_objects(service: &Service, before: i64) -> Result<(), ApiError> {
    loop {
        let doomed = service.metadata.doomed_since(before).await?;
        if doomed.is_empty() {
            return Ok(());
        }
        let mut gone = Vec::with_capacity(doomed.len());
        for (object, key, _) in doomed {
            service.storage.delete(&key).await?;
            gone.push(object);
        }
        service.metadata.delete_objects(&gone).await?;
    }
}
