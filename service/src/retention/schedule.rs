//! What runs beside serving: writing what was read in each process, and sweeps, when they are due or asked for, in one.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    pressure::is_crowded,
    reserve,
    sweep::{ask, sweep_asked},
};
use crate::{Service, metadata::MetadataError};

/// How often is looked whether a sweep is due or asked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often is looked whether something is nearly full.
const FEEL_EVERY: Duration = Duration::from_secs(2);
/// How often what was read is written.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// Writes what was read. Runs until it is dropped, which it may be at any moment.
pub(crate) async fn run(service: Arc<Service>) {
    loop {
        tokio::time::sleep(WRITE_EVERY).await;
        if let Err(error) = service.retention.reads.flush(&service).await {
            tracing::error!(%error, "when paths were last read could not be noted");
        }
    }
}

/// Sweeps. Runs until it is dropped, which it may be at any moment.
pub(crate) async fn run_sweeps(service: Arc<Service>) {
    let mut felt = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let feel = felt.elapsed() >= FEEL_EVERY;
        if feel {
            felt = Instant::now();
            if reserve::is_spent(&service) {
                reserve::keep(&service);
            }
        }
        if let Err(error) = sweep_if_due(&service, feel).await {
            service.stats.counters.sweeps_failed.one();
            tracing::error!(%error, "a sweep failed; the next goes on where it stopped");
            // What is asked for is asked for still: not at once again.
            tokio::time::sleep(WRITE_EVERY).await;
        }
    }
}

/// `feel`: whether to look, too, if something is nearly full.
async fn sweep_if_due(service: &Service, feel: bool) -> Result<(), MetadataError> {
    let _alone = service.retention.sweeping.lock().await;
    let now = service.clock.now();
    let asked = match service.metadata.next_asked_sweep().await? {
        Some(asked) => asked,
        None => {
            let last = service.metadata.last_sweep().await?;
            let every = service.config.retention.sweep_every.seconds();
            let is_due = last.is_none_or(|last| last + every <= now);
            // By whoever led before and died. It is not gone on with but begun anew, for its own horizon is set.
            let is_due = is_due || service.metadata.last_sweep_broke_off().await?;
            if !(is_due || feel && is_crowded(service).await?) {
                return Ok(());
            }
            ask(service).await?
        }
    };
    sweep_asked(service, asked).await.map(drop)
}
