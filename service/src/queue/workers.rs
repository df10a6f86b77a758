//! Who does the jobs: so many at once, each under its lease.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    sync::watch,
    task::{Id, JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{ClaimedJob, Hands, JobId, LEASE, MAX_ATTEMPTS, Priority, Queue, WorkerId, delay};
use crate::{metadata::MetadataError, random::random_bytes};

/// How many brief jobs are done at once.
const BRIEF_AT_ONCE: usize = 2;
/// How many jobs that ask GitHub are.
const ASKING_AT_ONCE: usize = 2;
/// How many others are.
const AT_ONCE: usize = 6;
/// How many of them nobody may be waiting for: there are always hands for what somebody waits for.
const NOT_WAITED_FOR: usize = 4;
/// How many of them a schedule may ask for.
const SCHEDULED: usize = 2;
/// How often somebody looks for jobs that another process stored.
const LOOK: Duration = Duration::from_secs(5);

/// How a job ended, other than badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Performed {
    /// It is done.
    Done,
    /// It is done, and to be done again at that time.
    Again(i64),
}

/// The workers of this process.
pub struct Workers {
    stop: watch::Sender<bool>,
    dispatcher: JoinHandle<()>,
}

impl Workers {
    /// Starts to do the jobs of `queue`, each by `perform`. A reason for its failure is shown to people, and to
    /// nobody else.
    pub fn start<P, F>(queue: Queue, perform: P) -> Self
    where
        P: Fn(ClaimedJob) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Performed, String>> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let dispatcher = tokio::spawn(dispatch(queue, Arc::new(perform), stopped));
        Self { stop, dispatcher }
    }

    /// Ends the jobs under way and puts them back, as if they had not begun: whoever works next goes on with them.
    pub async fn end(self) {
        let _ = self.stop.send(true);
        let _ = self.dispatcher.await;
    }
}

async fn dispatch<P, F>(queue: Queue, perform: Arc<P>, mut stop: watch::Receiver<bool>)
where
    P: Fn(ClaimedJob) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Performed, String>> + Send + 'static,
{
    let mut running = Running::default();
    let mut changes = queue.changes.subscribe();
    while !*stop.borrow() {
        changes.mark_unchanged();
        let pause = match begin(&queue, &perform, &mut running, &stop).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::error!(%error, "no job could be begun");
                LOOK
            }
        };
        tokio::select! {
            _ = stop.changed() => break,
            _ = changes.changed() => {}
            () = running.ended() => {}
            () = sleep(pause) => {}
        }
    }
    // Those under way know, and put back what they were at.
    while running.jobs.join_next().await.is_some() {}
}

/// Begins as many jobs as are due and there are hands for, and says how long nothing else will be due.
async fn begin<P, F>(
    queue: &Queue,
    perform: &Arc<P>,
    running: &mut Running,
    stop: &watch::Receiver<bool>,
) -> Result<Duration, MetadataError>
where
    P: Fn(ClaimedJob) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Performed, String>> + Send + 'static,
{
    let now = queue.clock.now();
    // With the same clock as what follows: no worker of this process takes another's job, however late it is.
    running.renew(queue, now).await?;
    while let Some(hands) = running.hands() {
        // Asked first, since it takes no lock.
        match queue.metadata.next_job_due_at().await? {
            Some(due) if due <= now => {}
            due => {
                let until = due.map_or(LOOK.as_secs(), |due| due.abs_diff(now));
                return Ok(LOOK.min(Duration::from_secs(until)));
            }
        }
        let Ok(worker) = random_bytes().map(WorkerId) else { return Ok(LOOK) };
        if queue.metadata.end_lost_jobs(now, MAX_ATTEMPTS).await? {
            queue.wake();
        }
        let lease_ends_at = lease_from(now);
        let Some(job) = queue.metadata.claim_job(worker, now, lease_ends_at, &hands).await? else {
            break;
        };
        let under_way = UnderWay { job: job.id, worker, priority: job.priority, lease_ends_at };
        let work = perform(job.clone());
        running.begin(under_way, carry_out(queue.clone(), worker, job, work, stop.clone()));
    }
    Ok(LOOK)
}

/// A job under way.
struct UnderWay {
    job: JobId,
    worker: WorkerId,
    priority: Priority,
    lease_ends_at: i64,
}

/// The jobs under way.
#[derive(Default)]
struct Running {
    jobs: JoinSet<()>,
    under_way: HashMap<Id, UnderWay>,
}

impl Running {
    /// Of which priorities a job must be for there to be hands for it; nothing if there are none at all.
    fn hands(&self) -> Option<Hands> {
        let below = |bound| self.under_way.values().filter(|job| job.priority < bound).count();
        let (others, not_brief) = (below(Priority::ASKING), below(Priority::BRIEF));
        let (asking, brief) = (not_brief - others, self.under_way.len() - not_brief);
        let lowest = if below(Priority::WAITED) >= NOT_WAITED_FOR {
            Priority::WAITED
        } else if below(Priority::EVENT) >= SCHEDULED {
            Priority::EVENT
        } else {
            Priority(i32::MIN)
        };
        let hands = [
            (others < AT_ONCE).then_some(lowest..=Priority(Priority::ASKING.0 - 1)),
            (asking < ASKING_AT_ONCE).then_some(Priority::ASKING..=Priority(Priority::BRIEF.0 - 1)),
            (brief < BRIEF_AT_ONCE).then_some(Priority::BRIEF..=Priority(i32::MAX)),
        ];
        hands.iter().any(Option::is_some).then_some(hands)
    }

    fn begin(&mut self, under_way: UnderWay, work: impl Future<Output = ()> + Send + 'static) {
        let id = self.jobs.spawn(work).id();
        self.under_way.insert(id, under_way);
    }

    /// Lengthens the leases that have lost a third of their time. Whose job is another's by now finds that out itself.
    async fn renew(&mut self, queue: &Queue, now: i64) -> Result<(), MetadataError> {
        let lease_ends_at = lease_from(now);
        for job in self.under_way.values_mut() {
            if lease_ends_at.saturating_sub(job.lease_ends_at) >= (LEASE / 3).as_secs().cast_signed() {
                queue.metadata.renew_job(job.job, job.worker, lease_ends_at).await?;
                job.lease_ends_at = lease_ends_at;
            }
        }
        Ok(())
    }

    /// Waits until one has ended; for ever while there is none.
    async fn ended(&mut self) {
        let id = match self.jobs.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => std::future::pending().await,
        };
        self.under_way.remove(&id);
    }
}

fn lease_from(now: i64) -> i64 {
    now.saturating_add(LEASE.as_secs().cast_signed())
}

async fn carry_out(
    queue: Queue,
    worker: WorkerId,
    job: ClaimedJob,
    work: impl Future<Output = Result<Performed, String>> + Send,
    mut stop: watch::Receiver<bool>,
) {
    tracing::debug!(job = job.id.0, kind = job.kind, attempt = job.attempts, "job begun");
    let work = AssertUnwindSafe(work).catch_unwind();
    let told_to_stop = async { drop(stop.wait_for(|stop| *stop).await) };
    let written = tokio::select! {
        done = work => {
            let done = done.unwrap_or_else(|_| Err("a fault in larderd; the log says where".to_owned()));
            write_down(&queue, worker, &job, done).await
        }
        () = lost(&queue, worker, &job) => {
            tracing::info!(job = job.id.0, kind = job.kind, "job ended: a newer one made it pointless, or it is another's");
            queue.metadata.finish_job(job.id, worker, queue.clock.now()).await
        }
        () = told_to_stop => {
            tracing::info!(job = job.id.0, kind = job.kind, "job put back");
            let (attempts, now) = (job.attempts.saturating_sub(1), queue.clock.now());
            queue.metadata.postpone_job(job.id, worker, now, attempts, None, now).await
        }
    };
    if let Err(error) = written {
        // Its lease ends, and it is done again.
        tracing::error!(%error, job = job.id.0, kind = job.kind, "how a job ended could not be written down");
    }
    queue.wake();
}

async fn write_down(
    queue: &Queue,
    worker: WorkerId,
    job: &ClaimedJob,
    done: Result<Performed, String>,
) -> Result<(), MetadataError> {
    let now = queue.clock.now();
    match done {
        Ok(Performed::Done) => queue.metadata.finish_job(job.id, worker, now).await,
        Ok(Performed::Again(at)) => queue.metadata.postpone_job(job.id, worker, at, 0, None, now).await,
        Err(reason) if job.attempts >= MAX_ATTEMPTS => {
            tracing::error!(job = job.id.0, kind = job.kind, reason, "job given up. See: larderd jobs list");
            queue.metadata.give_up_job(job.id, worker, &reason, now).await
        }
        Err(reason) => {
            let random = random_bytes().map_or(0, u16::from_le_bytes);
            let delay = delay::after(job.attempts, random);
            tracing::warn!(
                job = job.id.0,
                kind = job.kind,
                attempt = job.attempts,
                delay,
                reason,
                "job failed; it is tried again"
            );
            let due_at = now.saturating_add(delay);
            queue.metadata.postpone_job(job.id, worker, due_at, job.attempts, Some(&reason), now).await
        }
    }
}

/// Ends when the job is not this worker's any more.
async fn lost(queue: &Queue, worker: WorkerId, job: &ClaimedJob) {
    let mut changes = queue.changes.subscribe();
    loop {
        // Another process may have cancelled it, of which there is no word here.
        let _ = timeout(LEASE / 3, changes.changed()).await;
        match queue.metadata.is_job_of(job.id, worker).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::warn!(%error, job = job.id.0, "whose a job is could not be looked at"),
        }
    }
}
