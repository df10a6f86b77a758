//! Several processes on one database: which of them does what only one may, and that all sign by the same keys.

use std::{sync::Arc, time::Duration};

use larder_protocol::api::CacheName;

use crate::{
    Service,
    caches::Caches,
    clock::Clock,
    config::DatabaseConfig,
    isolated,
    metadata::{Metadata, MetadataError},
    pace::micros,
    retention, stats, verification,
};

/// How long a replica waits until it looks again whether another one still leads.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often a replica says by which keys it signs.
const SIGN_EVERY: Duration = Duration::from_secs(5 * 60);
/// How often a replica tells the others how often everybody came, while anybody comes.
const PACES_EVERY: Duration = Duration::from_secs(1);
/// How often is forgotten who has used up nothing any more.
const FORGET_PACES_EVERY: Duration = Duration::from_secs(10);
/// Who has not said so for this many seconds does not run any more.
const SILENT_FOR: i64 = 15 * 60;

/// Leads whenever nobody else does. Runs until it is dropped, which it may be at any moment.
pub(crate) async fn lead(service: Arc<Service>) {
    loop {
        match service.metadata.try_lead().await {
            Ok(Some(mut lead)) => {
                tracing::debug!("this replica leads");
                tokio::select! {
                    () = lead_on(&service) => {}
                    () = lead.lost() => {
                        tracing::warn!("the database cannot be reached; another replica may sweep and verify now");
                    }
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "whether another replica leads cannot be told"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What one of all replicas does for all. Where there is only one process, it does.
async fn lead_on(service: &Arc<Service>) {
    tokio::join!(
        retention::run_sweeps(service.clone()),
        verification::run(service.clone()),
        verification::run_scrub(service.clone()),
        isolated::run(service.clone()),
        stats::run_thinning(service.clone()),
        forget_paces(service),
    );
}

/// The cache whose paths another replica signs by none of the keys that are here. If there is none, the others are told
/// of those that are here.
pub(crate) async fn signs_otherwise(
    metadata: &Metadata,
    caches: &Caches,
    clock: &Clock,
) -> Result<Option<CacheName>, MetadataError> {
    let now = clock.now();
    for cache in caches.iter() {
        if !metadata.sign_by(cache.name(), &cache.public_keys(), now, now - SILENT_FOR).await? {
            return Ok(Some(cache.name().clone()));
        }
    }
    Ok(None)
}

/// Says by which keys this replica signs. Runs until it is dropped, which it may be at any moment.
pub(crate) async fn say_keys(service: Arc<Service>) {
    if matches!(service.config.database, DatabaseConfig::File) {
        return;
    }
    loop {
        tokio::time::sleep(SIGN_EVERY).await;
        match signs_otherwise(&service.metadata, &service.caches, &service.clock).await {
            Ok(None) => {}
            Ok(Some(cache)) => tracing::error!(
                %cache,
                "another replica signs by other keys, and readers trust only one of the two: copy the folder `keys` from \
                 one data directory to the other"
            ),
            Err(error) => {
                tracing::debug!(%error, "the other replicas cannot be told by which keys this one signs")
            }
        }
    }
}

/// Tells the other replicas how often everybody came here. Runs until it is dropped, which it may be at any moment.
pub(crate) async fn share_paces(service: Arc<Service>) {
    if matches!(service.config.database, DatabaseConfig::File) {
        return;
    }
    loop {
        tokio::time::sleep(PACES_EVERY).await;
        if let Err(error) = service.paces.share(&service.metadata, service.clock.now()).await {
            tracing::debug!(%error, "how often somebody came here counts here alone");
        }
    }
}

async fn forget_paces(service: &Service) {
    if matches!(service.config.database, DatabaseConfig::File) {
        return;
    }
    loop {
        if let Err(error) = service.metadata.forget_paces(micros(service.clock.now())).await {
            tracing::debug!(%error, "who came often a while ago could not be forgotten");
        }
        tokio::time::sleep(FORGET_PACES_EVERY).await;
    }
}
