//! Durable jobs: what is to be done after whoever asked for it was answered.
//!
//! A job is a row. It is stored in the transaction of what it follows from, claimed by one worker under a lease that
//! the worker lengthens while it lives, tried again with growing delays, and given up after [`MAX_ATTEMPTS`] into a
//! list that a person sees (`larderd jobs`). A process that dies loses none: the lease ends, and another goes on.
//!
//! So a job may be done more than once, and must be written so that this does no harm.

mod delay;
mod subject;
mod tidy;
mod work;
mod workers;

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::sync::watch;

pub use self::{
    work::Work,
    workers::{Performed, Workers},
};
use crate::{
    Service,
    clock::Clock,
    metadata::{Metadata, MetadataError},
    prefetch,
};

/// How often a job is tried before it is given up: for an hour and a half or so.
pub const MAX_ATTEMPTS: u32 = 10;
/// How long a worker may be silent before its job is another's.
pub const LEASE: Duration = Duration::from_secs(60);

/// A job's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct JobId(pub i64);

/// Random, so that no two are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerId(pub [u8; 16]);

/// Which of the jobs that are due goes first: the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(pub i32);

impl Priority {
    /// What takes no time to speak of, since it asks nobody: it has hands of its own, and waits for nothing that takes
    /// long.
    pub const BRIEF: Self = Self(20);
    /// What takes as long as GitHub takes to answer: it has hands of its own too.
    pub const ASKING: Self = Self(15);
    /// What somebody waits for.
    pub const WAITED: Self = Self(10);
    /// What an event asks for.
    pub const EVENT: Self = Self(0);
    /// What a schedule asks for, and nobody waits for.
    pub const SCHEDULE: Self = Self(-10);
}

/// The priorities of the jobs that there are hands for: from the lowest to the highest, for each kind of hands that has
/// some.
pub(crate) type Hands = [Option<RangeInclusive<Priority>>; 3];

/// A job that is to be stored.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The kind of work.
    pub kind: String,
    /// The work, as JSON.
    pub work: String,
    /// What it does: while one waits, another with the same key is not stored.
    pub key: String,
    /// What it is about: it ends older jobs that are about the same and have another key.
    pub subject: Option<String>,
    /// Where what its subject is about comes in an order of its own: it is not stored after one with a higher number.
    pub sequence: Option<i64>,
    /// Whether it goes before others.
    pub priority: Priority,
    /// When it may begin, in seconds since 1970.
    pub due_at: i64,
}

/// What became of a job that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It waits for its turn.
    Stored,
    /// It is not stored: one that does the same waits already.
    Waits,
    /// It is not stored: something newer about the same came before it.
    Late,
}

/// A job as its worker gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedJob {
    /// Its number.
    pub id: JobId,
    /// The kind of work.
    pub kind: String,
    /// The work, as JSON.
    pub work: String,
    /// How often it was begun, this time included.
    pub attempts: u32,
    /// When it was stored, in seconds since 1970.
    pub enqueued_at: i64,
    /// Whether it went before others.
    pub priority: Priority,
}

/// A job as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct JobRow {
    /// Its number.
    pub id: JobId,
    /// The kind of work.
    pub kind: String,
    /// What it does.
    pub key: String,
    /// How it stands.
    pub state: JobState,
    /// How often it was begun.
    pub attempts: u32,
    /// When it was stored, in seconds since 1970.
    pub enqueued_at: i64,
    /// When it may begin.
    pub due_at: i64,
    /// Why it failed the last time.
    pub error: Option<String>,
}

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Its time will come.
    Waiting,
    /// Somebody is at it.
    Running,
    /// It was given up.
    Failed,
}

/// The jobs in the database, and word of them in this process.
#[derive(Clone)]
pub struct Queue {
    metadata: Metadata,
    clock: Clock,
    /// Counts what happened, so that nobody has to look again and again.
    changes: watch::Sender<u64>,
}

impl Queue {
    /// The jobs of this database.
    pub fn new(metadata: Metadata, clock: Clock) -> Self {
        Self { metadata, clock, changes: watch::Sender::new(0) }
    }

    /// Stores a job.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn enqueue(&self, job: &NewJob) -> Result<(), MetadataError> {
        self.metadata.enqueue_job(job, self.clock.now()).await?;
        self.wake();
        Ok(())
    }

    /// Has the workers look: jobs were stored, or the clock was set.
    pub fn wake(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits until no job is due or under way.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn idle(&self) -> Result<(), MetadataError> {
        let mut changes = self.changes.subscribe();
        while self.metadata.jobs_under_way(self.clock.now()).await? > 0 {
            // It fails only if nobody can ever change anything, and we can.
            let _ = changes.changed().await;
        }
        Ok(())
    }
}

/// Starts to do the service's jobs.
pub(crate) async fn start(service: &Arc<Service>) -> Workers {
    for always in [Work::Tidy, Work::AskForMissed] {
        if let Err(error) = service.queue.enqueue(&always.job(service.clock.now())).await {
            tracing::error!(%error, ?always, "what is done again and again cannot be begun");
        }
    }
    for scheduled in &service.config.prefetch.schedules {
        if let Err(error) = prefetch::schedule(service, scheduled).await {
            tracing::error!(%error, repository = %scheduled.repository, "nothing can be prefetched by the clock");
        }
    }
    let performing = service.clone();
    Workers::start(service.queue.clone(), move |job| {
        let service = performing.clone();
        async move {
            let done = Work::perform(&service, &job).await;
            let counters = &service.stats.counters;
            if done.is_ok() { &counters.jobs_done } else { &counters.jobs_failed }.one();
            done
        }
    })
}
