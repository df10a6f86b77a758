//! What the job wanted, reported to the service also when nothing is pushed: so that it can be there before the next
//! job asks. Failing to report it fails nothing.

use std::{collections::HashSet, time::Duration};

use larder_protocol::{
    StorePath,
    manifest::{MAX_MANIFEST_PATHS, ReportManifest, System},
};
use tokio::time::timeout;

use crate::{
    service::Service,
    store::{Mark, NixStore, StoreError},
};

/// How long a report may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What the job built, which are `built`, and what it substituted. In a shared store nobody can tell who substituted
/// what. Of too many paths, those that were substituted last are left out.
pub async fn of(
    store: &NixStore,
    mark: Mark,
    built: &[StorePath],
    shared: bool,
) -> Result<ReportManifest, StoreError> {
    let known: HashSet<&StorePath> = built.iter().collect();
    let rows = if shared { Vec::new() } else { store.substituted_since(mark).await? };
    let substituted = rows.into_iter().map(|row| row.path).filter(|path| !known.contains(path));
    let built = &built[..built.len().min(MAX_MANIFEST_PATHS)];
    Ok(ReportManifest {
        system: System::of_this_machine(),
        substituted: substituted.take(MAX_MANIFEST_PATHS - built.len()).collect(),
        built: built.to_vec(),
    })
}

/// Reports it within `remaining`, and within some seconds. Why not, if not.
pub async fn report(
    service: &Service<'_>,
    manifest: &ReportManifest,
    remaining: Duration,
) -> Result<(), String> {
    match timeout(LIMIT.min(remaining), service.report_manifest(manifest)).await {
        Ok(reported) => reported.map_err(|error| error.to_string()),
        Err(_) => Err("the service did not answer in time".to_owned()),
    }
}
