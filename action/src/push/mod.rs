//! Pushing a closure to a service: `docs` call this the client's side of a push.

mod batch;
mod error;
mod pipeline;
mod report;
mod send;
mod window;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

pub use error::PushError;
use larder_protocol::{
    NarHash, StorePath, StorePathHash,
    api::{CacheName, CommittedPush, OpenPush, PathInfo},
    chunk::DEFAULT_LEVEL,
};
use report::Tally;
pub use report::{PathStatus, PushReport, PushedPath};
use send::Wanted;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::{
    credentials::Credentials,
    progress::{Event, Progress},
    service::Service,
    store::Closure,
};

/// How to push.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// The service's URL, as the user named it; ID tokens are made for its origin.
    pub service: Url,
    /// The cache to push to.
    pub cache: CacheName,
    /// The level of zstd.
    pub level: i32,
    /// The largest body to send, in bytes, where a proxy takes less than the service.
    pub max_body: Option<u64>,
    /// How many bytes of chunks, frames and bodies are in memory at a time.
    pub window: usize,
    /// How many uploads run side by side.
    pub streams: usize,
    /// How long all of it may take.
    pub time_limit: Duration,
    /// Whether what is pushed by name is to stand whatever the cache has in its place. Only an admin may.
    pub replace: bool,
}

impl PushOptions {
    /// What suits most: level 3, 64 MiB, three streams, two hours.
    pub fn new(service: Url, cache: CacheName) -> Self {
        Self {
            service,
            cache,
            level: DEFAULT_LEVEL,
            max_body: None,
            window: 64 << 20,
            streams: 3,
            time_limit: Duration::from_secs(2 * 60 * 60),
            replace: false,
        }
    }
}

/// Brings a closure into the cache: all of it becomes visible at one moment, or nothing does. A path whose
/// files are not what the store's database says is left out with all that needs it, and reported.
///
/// # Errors
/// When the service cannot be had within the time limit, or refuses.
pub async fn push(
    options: &PushOptions,
    credentials: &Credentials,
    closure: Closure,
    progress: &dyn Progress,
) -> Result<PushReport, PushError> {
    let service = Service::new(&options.service, &options.cache, credentials, progress)?;
    let pushed = push_by(&service, options, closure, progress).await;
    // Denied or late, the session token is of no more use to anyone.
    service.end_session().await;
    pushed
}

/// As [`push`], by a session that the caller ends.
///
/// # Errors
/// As there.
pub async fn push_by(
    service: &Service<'_>,
    options: &PushOptions,
    closure: Closure,
    progress: &dyn Progress,
) -> Result<PushReport, PushError> {
    let started = Instant::now();
    let pushed = timeout(options.time_limit, push_closure(options, service, closure, progress)).await;
    let mut report = pushed.map_err(|_| PushError::TimeLimit(options.time_limit))??;
    report.cache = Some(service.cache().clone());
    report.elapsed = started.elapsed();
    Ok(report)
}

/// How often a push that the service has lost is opened anew.
const REOPENINGS: usize = 1;

async fn push_closure(
    options: &PushOptions,
    service: &Service<'_>,
    mut closure: Closure,
    progress: &dyn Progress,
) -> Result<PushReport, PushError> {
    let mut tally = Tally::new(&closure);
    let mut lost = 0;
    loop {
        if closure.roots.is_empty() {
            return Ok(tally.report(CommittedPush::default()));
        }
        match push_once(options, service, &closure, &mut tally, progress).await {
            Ok(Pushed::Committed(committed)) => {
                progress.event(&Event::Committed { published: committed.published });
                return Ok(tally.report(committed));
            }
            Ok(Pushed::Without(failures)) => {
                for skipped in closure.leave_out(failures) {
                    progress.event(&Event::Skipped { path: &skipped.path, reason: &skipped.reason });
                    tally.skip(skipped);
                }
            }
            Err(PushError::Service(error)) if tally.opened && error.push_is_lost() && lost < REOPENINGS => {
                lost += 1;
                tracing::info!(%error, "the service has lost the push; opening it anew");
            }
            Err(error) => return Err(error),
        }
    }
}

/// How one push ended.
enum Pushed {
    Committed(CommittedPush),
    /// Not committed, since these paths cannot be pushed, each for its reason.
    Without(HashMap<StorePath, String>),
}

async fn push_once(
    options: &PushOptions,
    service: &Service<'_>,
    closure: &Closure,
    tally: &mut Tally,
    progress: &dyn Progress,
) -> Result<Pushed, PushError> {
    let open = OpenPush {
        paths: closure.paths.clone(),
        roots: closure.roots.clone(),
        replace: if options.replace { closure.roots.clone() } else { Vec::new() },
        built: closure.built.iter().map(StorePath::hash).collect(),
    };
    let opened = service.open_push(open).await?;
    tally.opened = true;
    tally.note(&opened);
    if !opened.refused.is_empty() {
        let refused = opened.refused.into_iter();
        return Ok(Pushed::Without(refused.map(|refused| (refused.path, refused.reason)).collect()));
    }
    let missing: HashSet<StorePathHash> = opened.missing.iter().copied().collect();
    let missing: Vec<&PathInfo> =
        closure.paths.iter().filter(|info| missing.contains(&info.path.hash())).collect();
    progress.event(&Event::Opened {
        missing: missing.len(),
        reused: opened.reused.len(),
        present: opened.present.len(),
        upstream: opened.upstream.len(),
        nar_bytes: missing.iter().map(|info| info.nar_size).sum(),
    });
    if let Some(committed) = opened.committed {
        return Ok(Pushed::Committed(committed));
    }
    // Paths with the same contents share one NAR.
    let mut by_nar: HashMap<NarHash, Vec<&PathInfo>> = HashMap::new();
    for info in missing {
        by_nar.entry(info.nar_hash).or_default().push(info);
    }
    let nars: Vec<Vec<&PathInfo>> = by_nar.into_values().collect();
    let wanted =
        nars.iter().filter_map(|paths| paths.first()).map(|info| Wanted::of(info, closure)).collect();
    let outcomes = send::send(service, opened.push, opened.max_body, wanted, options, progress).await?;
    let mut failures = HashMap::new();
    for (paths, outcome) in nars.iter().zip(outcomes) {
        if let Some(info) = paths.first() {
            tally.sent(info, &outcome);
        }
        if let Some(failure) = outcome.failure {
            failures.extend(paths.iter().map(|info| (info.path.clone(), failure.clone())));
        }
    }
    if failures.is_empty() {
        Ok(Pushed::Committed(service.commit(opened.push, closure.paths.len()).await?))
    } else {
        Ok(Pushed::Without(failures))
    }
}

impl Wanted {
    fn of(info: &PathInfo, closure: &Closure) -> Self {
        Self {
            path: info.path.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            files: closure.real_path(&info.path),
            references: info.references.iter().chain([&info.path]).map(StorePath::hash).collect(),
        }
    }
}
