//! The job that has the inputs of a commit's lock file here before anyone asks.

use std::{io::Seek as _, sync::Arc};

use larder_protocol::{
    ContentAddress, StorePathHash,
    api::PathInfo,
    flake_lock::{FlakeLock, LockedInput, MAX_LOCK_LEN},
};

use super::{Fetched, Spent};
use crate::{
    Service,
    caches::Cache,
    forge::ForgeError,
    metadata::{MetadataError, NamesOf},
    prefetch::{Flight, Lane, Progress, complete, take_nar},
    queue::{ClaimedJob, Performed, Work},
    trust::PushEvent,
};

/// The lock file of a flake, in its repository.
const LOCK: &str = "flake.lock";
/// Why no more of its inputs are fetched.
const TOO_MUCH: &str = "its lock file names more than is fetched for one";
/// How many inputs the log names.
const NAMED: usize = 20;
/// As much as is told of a name.
const MAX_NAME: usize = 100;

/// A commit that came to a ref.
pub(crate) struct Pushed<'a> {
    pub event: PushEvent<'a>,
    pub commit: &'a str,
}

/// Brings the inputs of a commit's lock file into each cache that jobs of that push may push to: from the cache's
/// upstreams, else from their hosts. `spent` is what they have cost when the job was tried before.
///
/// # Errors
/// Why something is not here that may be had later, for people. It is tried again.
pub(crate) async fn prefetch_inputs(
    service: &Arc<Service>,
    job: &ClaimedJob,
    pushed: &Pushed<'_>,
    spent: &Spent,
) -> Result<Performed, String> {
    let mut caches = Vec::new();
    for cache in service.caches.iter() {
        if may_push(service, cache, &pushed.event).await.map_err(|error| error.to_string())? {
            caches.push(cache);
        }
    }
    if caches.is_empty() {
        return Ok(Performed::Done);
    }
    let asked = service.github.contents(pushed.event.repository, LOCK, pushed.commit, MAX_LOCK_LEN).await;
    let lock = match asked {
        Ok(Some(text)) => FlakeLock::parse(&text).map_err(|error| error.to_string()),
        // It is no flake, or not to be seen.
        Ok(None) => return Ok(Performed::Done),
        Err(ForgeError::Limited { until }) => return Ok(Performed::Again(until)),
        Err(error @ ForgeError::TooLarge(_)) => Err(error.to_string()),
        Err(error) if error.is_for_people() => Err(error.to_string()),
        Err(error) => return Err(format!("{LOCK} cannot be read at GitHub: {error}")),
    };
    let lock = match lock {
        Ok(lock) => lock,
        Err(reason) => {
            pushed.warn("nothing is prefetched for a lock file", LOCK, &reason);
            return Ok(Performed::Done);
        }
    };
    for refused in lock.refused.iter().take(NAMED) {
        pushed.warn("an input is not prefetched", &refused.name, &refused.why.to_string());
    }
    let spent = spent.clone();
    let mut bringing = Bringing { service, job, pushed, caches, spent, later: Vec::new(), named: 0 };
    bringing.bring(&lock.inputs).await.map_err(|error| error.to_string())?;
    if bringing.spent.is_over() {
        pushed.warn("not all of a lock file's inputs are prefetched", LOCK, TOO_MUCH);
        return Ok(Performed::Done);
    }
    match bringing.later.first() {
        None => Ok(Performed::Done),
        Some(first) => Err(format!("{} inputs cannot be had now: {first}", bringing.later.len())),
    }
}

impl Pushed<'_> {
    fn warn(&self, message: &str, about: &str, reason: &str) {
        let about = shortened(about);
        tracing::warn!(
            repository = %self.event.repository, git_ref = %self.event.git_ref, commit = self.commit, about, reason,
            "{message}"
        );
    }
}

/// Whether a rule lets jobs of that push push there.
async fn may_push(service: &Service, cache: &Cache, event: &PushEvent<'_>) -> Result<bool, MetadataError> {
    for rule in cache.config.trust.that_fit(event) {
        let of = NamesOf { cache: cache.name(), issuer: rule.issuer.as_str() };
        let names: Vec<_> = rule.name_of(event.repository).into_iter().collect();
        if event.is_of(&service.metadata.bound_names(of, &names).await?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A name as a stranger wrote it.
fn shortened(name: &str) -> &str {
    name.get(..name.floor_char_boundary(MAX_NAME)).unwrap_or(name)
}

struct Bringing<'a> {
    service: &'a Arc<Service>,
    job: &'a ClaimedJob,
    pushed: &'a Pushed<'a>,
    caches: Vec<&'a Arc<Cache>>,
    spent: Spent,
    /// Why inputs are not here that may be had later.
    later: Vec<String>,
    named: usize,
}

impl<'a> Bringing<'a> {
    async fn bring(&mut self, inputs: &[LockedInput]) -> Result<(), MetadataError> {
        let priority = self.job.priority;
        let paths: Vec<_> = inputs.iter().map(|input| input.path.clone()).collect();
        for cache in &self.caches {
            let progress = Progress::default();
            // An upstream that does not answer does not keep an input from coming from its host.
            if let Err(error) = complete(self.service, cache, &paths, priority, &progress).await {
                tracing::warn!(cache = %cache.name(), %error, "upstreams do not say which inputs they have");
            }
        }
        let lane = self.service.prefetching.enter(priority);
        for input in inputs {
            if self.spent.wrong.contains(&input.path) {
                continue;
            }
            let lacking = self.lacking(input, &lane).await?;
            if !lacking.is_empty() {
                self.fetch(input, lacking, &lane).await;
                self.note().await?;
            }
        }
        tracing::info!(
            repository = %self.pushed.event.repository, git_ref = %self.pushed.event.git_ref,
            commit = self.pushed.commit, inputs = inputs.len(), asked = self.spent.asked, bytes = self.spent.bytes,
            wasted = self.spent.wasted, later = self.later.len(),
            "prefetched a lock file's inputs"
        );
        Ok(())
    }

    /// The caches that do not have an input. Nobody else brings it there meanwhile.
    async fn lacking(
        &self,
        input: &LockedInput,
        lane: &Lane,
    ) -> Result<Vec<(&'a Arc<Cache>, Flight)>, MetadataError> {
        let mut lacking = Vec::new();
        // In the same order for all, so that no two wait for each other.
        for cache in &self.caches {
            let flight = self.service.prefetching.alone(cache, input.path.hash(), lane).await;
            if !self.has(cache, input.path.hash()).await? {
                lacking.push((*cache, flight));
            }
        }
        Ok(lacking)
    }

    async fn has(&self, cache: &Cache, hash: StorePathHash) -> Result<bool, MetadataError> {
        Ok(self.service.metadata.visible_paths(&cache.names(), &[hash]).await?.contains_key(&hash))
    }

    /// Notes what the inputs have cost, for when the job is tried again, also after this process has died.
    async fn note(&self) -> Result<(), MetadataError> {
        let Ok(work) = serde_json::from_str::<Work>(&self.job.work) else { return Ok(()) };
        self.service.metadata.note_job(self.job.id, &work.having_spent(&self.spent).json()).await
    }

    /// Brings one input from its host into these caches.
    async fn fetch(&mut self, input: &LockedInput, caches: Vec<(&Arc<Cache>, Flight)>, lane: &Lane) {
        if self.spent.is_over() {
            self.refuse(input, TOO_MUCH);
            return;
        }
        lane.turn().await;
        let fetched = match self.service.fetcher.fetch(input, &mut self.spent).await {
            Ok(fetched) => fetched,
            Err(error) if error.may_pass() => {
                self.later.push(format!("{}: {error}", shortened(&input.name)));
                return;
            }
            Err(error) => {
                self.refuse(input, &error.to_string());
                return;
            }
        };
        for (cache, flight) in caches {
            if let Err(error) = take(self.service, cache, input, &fetched, flight).await {
                self.later.push(format!("{}: {error}", shortened(&input.name)));
            }
        }
    }

    fn refuse(&mut self, input: &LockedInput, reason: &str) {
        self.named += 1;
        if self.named <= NAMED {
            self.pushed.warn("an input is not prefetched", &input.name, reason);
        }
    }
}

async fn take(
    service: &Arc<Service>,
    cache: &Arc<Cache>,
    input: &LockedInput,
    fetched: &Fetched,
    flight: Flight,
) -> Result<(), String> {
    let info = PathInfo {
        path: input.path.clone(),
        nar_hash: input.nar_hash,
        nar_size: fetched.nar_size,
        references: Vec::new(),
        deriver: None,
        ca: Some(ContentAddress::of_nar(input.nar_hash).to_string()),
        signatures: Vec::new(),
    };
    let mut nar = fetched.nar.try_clone().map_err(|error| error.to_string())?;
    nar.rewind().map_err(|error| error.to_string())?;
    take_nar(service, cache, &fetched.from, info, nar, flight).await.map_err(|error| error.to_string())
}
