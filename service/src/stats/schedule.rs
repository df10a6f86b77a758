//! When samples are taken.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{sample::take_sample, thin::thin};
use crate::Service;

/// The span of a sample, in seconds.
pub(super) const SHORTEST: i64 = 5 * 60;
/// How often is looked whether it is time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often samples are thinned.
const THIN_EVERY: Duration = Duration::from_secs(300);
/// How many times as long as a sample took is waited until the next, at least: in a store that is so large that a sample
/// takes many seconds, there are fewer.
const REST: u32 = 100;

/// Runs until it is dropped, which it may be at any moment.
pub(crate) async fn run(service: Arc<Service>) {
    let mut last = None;
    loop {
        let span = service.clock.now().div_euclid(SHORTEST);
        if last != Some(span) {
            let began = Instant::now();
            if let Err(error) = take_sample(&service).await {
                tracing::error!(%error, "no sample could be taken");
            }
            last = Some(span);
            tokio::time::sleep(began.elapsed() * REST).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Thins samples. Runs until it is dropped, which it may be at any moment.
pub(crate) async fn run_thinning(service: Arc<Service>) {
    loop {
        if let Err(error) = thin(&service).await {
            tracing::error!(%error, "samples could not be thinned");
        }
        tokio::time::sleep(THIN_EVERY).await;
    }
}
