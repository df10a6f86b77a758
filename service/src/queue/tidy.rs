//! Forgetting what is too old to be of use.

use super::Performed;
use crate::{Service, host, metadata::MetadataError};

const DAY: i64 = 24 * 60 * 60;
/// Seconds between two looks.
const EVERY: i64 = 60 * 60;
/// How long a job that failed is kept for somebody to look at, in seconds.
const KEEP_FAILED_JOBS: i64 = 30 * DAY;
/// How long a manifest is kept that no newer run of its workflow on its ref made superfluous, in seconds.
const KEEP_MANIFESTS: i64 = 90 * DAY;
/// How long it is told how a prefetch went, in seconds.
const KEEP_PREFETCHES: i64 = 30 * DAY;
/// How long it is known how late the latest job of a subject was, in seconds. GitHub delivers again for three days.
const KEEP_SEQUENCES: i64 = 30 * DAY;

pub(super) async fn tidy(service: &Service) -> Result<Performed, MetadataError> {
    let (metadata, now) = (&service.metadata, service.clock.now());
    metadata.forget_failed_jobs(now.saturating_sub(KEEP_FAILED_JOBS)).await?;
    metadata.forget_sequences(now.saturating_sub(KEEP_SEQUENCES)).await?;
    metadata.forget_deliveries(now.saturating_sub(service.config.keep_deliveries.seconds())).await?;
    metadata.forget_prefetches(now.saturating_sub(KEEP_PREFETCHES)).await?;
    metadata.forget_reports(now.saturating_sub(KEEP_MANIFESTS)).await?;
    metadata.forget_manifests(now.saturating_sub(KEEP_MANIFESTS)).await?;
    if let Err(error) = host::drop_unconfigured(&service.config) {
        tracing::warn!(%error, "roots in the host's store that nobody wants any more cannot be removed");
    }
    Ok(Performed::Again(now.saturating_add(EVERY)))
}
