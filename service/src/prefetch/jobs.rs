//! The jobs that prefetch, and what people are told of them.

use std::{collections::HashSet, sync::Arc, sync::atomic::Ordering, time::Duration};

use larder_protocol::{StorePath, api::CacheName, prefetch::PrefetchState};
use tokio::time::{MissedTickBehavior, interval};

use super::{Completed, PrefetchError, Progress, complete, not_taken};
use crate::{
    Service,
    caches::Cache,
    forge,
    identity::{GitRef, RepositoryName},
    metadata::{CausedPrefetch, ManifestsOf, MetadataError, Reached, WantedBy},
    queue::{ClaimedJob, MAX_ATTEMPTS, Performed, Priority},
};

/// How often it is noted how far a prefetch is.
const NOTED_EVERY: Duration = Duration::from_secs(2);

/// Prefetches what somebody asked for.
///
/// # Errors
/// Why it failed, for people. It is tried again.
pub(crate) async fn by_hand(
    service: &Arc<Service>,
    job: &ClaimedJob,
    name: &str,
) -> Result<Performed, String> {
    let asked = service.metadata.prefetched_paths(name).await.map_err(in_words)?;
    // It was too old to be kept.
    let Some((cache, paths)) = asked else { return Ok(Performed::Done) };
    let Some(cache) = service.caches.get(&cache) else {
        let error = Some("there is no such cache any more");
        end(service, name, PrefetchState::Failed, &[], error).await?;
        return Ok(Performed::Done);
    };
    prefetch(service, job, cache, name, &paths, Priority::WAITED).await
}

/// What manifests are the reason for a prefetch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reason<'a> {
    /// The newest runs' on the first of these refs that has any.
    Refs(&'a [GitRef]),
    /// All of a run's.
    Run(u64),
}

/// Whose manifests are asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of<'a> {
    /// Those of the repository that an event of GitHub's tells of: of what others vouch for it says nothing.
    Event {
        /// The repository.
        repository: &'a RepositoryName,
        /// Its number, where the event says so.
        id: Option<u64>,
    },
    /// Those of the repository that is configured.
    Schedule {
        /// Who vouches for it.
        issuer: &'a str,
        /// The repository.
        repository: &'a RepositoryName,
    },
}

impl<'a> Of<'a> {
    fn repository(self) -> &'a RepositoryName {
        match self {
            Self::Event { repository, .. } | Self::Schedule { repository, .. } => repository,
        }
    }

    fn manifests(self, service: &'a Service) -> Vec<ManifestsOf<'a>> {
        match self {
            Self::Event { repository, id: repository_id } => forge::issuers(service)
                .map(|issuer| ManifestsOf { issuer: Some(issuer), repository, repository_id })
                .collect(),
            Self::Schedule { issuer, repository } => {
                vec![ManifestsOf { issuer: Some(issuer), repository, repository_id: None }]
            }
        }
    }
}

/// Prefetches what a repository's manifests say was wanted, to wherever it was wanted.
///
/// # Errors
/// Why it failed, for people. It is tried again.
pub(crate) async fn of_manifests(
    service: &Arc<Service>,
    job: &ClaimedJob,
    of: Of<'_>,
    reason: Reason<'_>,
    commit: Option<&str>,
) -> Result<Performed, String> {
    let (repository, priority) = (of.repository(), job.priority);
    let mut failed: Option<String> = None;
    for cache in service.caches.iter() {
        let wanted = wanted(service, cache.name(), of, reason).await.map_err(in_words)?;
        if wanted.is_empty() {
            continue;
        }
        let name = name(job, cache.name());
        let caused = CausedPrefetch {
            name: &name,
            cache: cache.name(),
            scheduled: priority == Priority::SCHEDULE,
            repository,
            job: job.id,
            git_ref: match reason {
                Reason::Refs(refs) => refs.first(),
                Reason::Run(_) => None,
            },
            commit,
        };
        service.metadata.begin_caused_prefetch(&caused, service.clock.now()).await.map_err(in_words)?;
        // One cache's failure is not another's.
        if let Err(error) = prefetch(service, job, cache, &name, &wanted, priority).await {
            failed.get_or_insert(error);
        }
    }
    if let Some(commit) = commit {
        forge::prefetch_ended(service, repository, commit).await.map_err(in_words)?;
    }
    failed.map_or(Ok(Performed::Done), Err)
}

async fn wanted(
    service: &Service,
    cache: &CacheName,
    of: Of<'_>,
    reason: Reason<'_>,
) -> Result<Vec<StorePath>, MetadataError> {
    let wanted = async |by: WantedBy<'_>| {
        let (mut wanted, mut seen) = (Vec::new(), HashSet::new());
        for of in of.manifests(service) {
            wanted.extend(service.metadata.wanted_paths(cache, of, by).await?);
        }
        wanted.retain(|path| seen.insert(path.hash()));
        Ok::<_, MetadataError>(wanted)
    };
    match reason {
        Reason::Run(run) => wanted(WantedBy::Run(run)).await,
        Reason::Refs(refs) => {
            let mut seen = HashSet::new();
            for git_ref in refs.iter().filter(|git_ref| seen.insert(git_ref.as_str())) {
                let wanted = wanted(WantedBy::Ref(git_ref)).await?;
                if !wanted.is_empty() {
                    return Ok(wanted);
                }
            }
            Ok(Vec::new())
        }
    }
}

/// The name of the prefetch that a job does in a cache: the same at each attempt.
fn name(job: &ClaimedJob, cache: &CacheName) -> String {
    let digest = blake3::hash(format!("{} {} {cache}", job.id.0, job.enqueued_at).as_bytes());
    digest.to_hex().chars().take(32).collect()
}

async fn prefetch(
    service: &Arc<Service>,
    job: &ClaimedJob,
    cache: &Arc<Cache>,
    name: &str,
    roots: &[StorePath],
    priority: Priority,
) -> Result<Performed, String> {
    let progress = Progress::default();
    let done =
        with_notes(service, name, &progress, complete(service, cache, roots, priority, &progress)).await;
    note(service, name, &progress).await;
    match done {
        Ok(Completed { lacking }) => {
            let state = match lacking.is_empty() {
                true => PrefetchState::Complete,
                false => PrefetchState::Incomplete,
            };
            let paths: Vec<StorePath> = lacking.iter().map(|lacking| lacking.path.clone()).collect();
            end(service, name, state, &paths, not_taken(&lacking).as_deref()).await?;
            tracing::info!(
                prefetch = name, cache = %cache.name(), state = state.as_str(), lacking = lacking.len(),
                paths = progress.paths.load(Ordering::Relaxed), fetched = progress.published.load(Ordering::Relaxed),
                bytes = progress.bytes.load(Ordering::Relaxed), "prefetched"
            );
            Ok(Performed::Done)
        }
        // It will be no smaller the next time.
        Err(error @ PrefetchError::TooLarge(_)) => {
            end(service, name, PrefetchState::Failed, &[], Some(&error.to_string())).await?;
            Ok(Performed::Done)
        }
        Err(error) => {
            let last = job.attempts >= MAX_ATTEMPTS;
            let state = if last { PrefetchState::Failed } else { PrefetchState::Waiting };
            let error = error.to_string();
            end(service, name, state, &[], Some(&error)).await?;
            Err(error)
        }
    }
}

/// Does the work, and notes now and then how far it is: side by side, since both may wait for the one writer.
async fn with_notes<T>(
    service: &Service,
    name: &str,
    progress: &Progress,
    work: impl Future<Output = T>,
) -> T {
    let noting = async {
        let mut due = interval(NOTED_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            note(service, name, progress).await;
        }
    };
    tokio::select! {
        done = work => done,
        never = noting => never,
    }
}

async fn note(service: &Service, name: &str, progress: &Progress) {
    let reached = Reached {
        closure: progress.paths.load(Ordering::Relaxed),
        wanted: progress.wanted.load(Ordering::Relaxed),
        published: progress.published.load(Ordering::Relaxed),
        bytes: progress.bytes.load(Ordering::Relaxed),
    };
    if let Err(error) = service.metadata.note_prefetch(name, reached).await {
        tracing::warn!(%error, prefetch = name, "how far a prefetch is could not be noted");
    }
}

async fn end(
    service: &Service,
    name: &str,
    state: PrefetchState,
    lacking: &[StorePath],
    error: Option<&str>,
) -> Result<(), String> {
    let now = service.clock.now();
    service.metadata.end_prefetch(name, state, lacking, error, now).await.map_err(in_words)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn in_words(error: MetadataError) -> String {
    error.to_string()
}
