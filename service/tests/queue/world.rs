//! A queue of its own, with a clock that is set.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use larder_service::{
    clock::Clock,
    config::DatabaseConfig,
    metadata::Metadata,
    queue::{ClaimedJob, JobState, NewJob, Performed, Priority, Queue, Workers},
};
use tokio::sync::{Semaphore, mpsc};

use crate::test_servers;

pub const NOW: i64 = 1_800_000_000;
/// Longer than any delay or lease.
pub const LONG: i64 = 2 * 60 * 60;

pub struct World {
    pub metadata: Metadata,
    pub queue: Queue,
    pub time: Arc<AtomicI64>,
    pub directory: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicI64::new(NOW));
        let (metadata, queue) = open(directory.path(), &time).await;
        Self { metadata, queue, time, directory }
    }

    pub fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
        self.queue.wake();
    }

    pub async fn enqueue(&self, key: &str, subject: Option<&str>) {
        self.queue.enqueue(&job(key, subject)).await.unwrap();
    }

    pub async fn states(&self) -> Vec<(String, JobState, u32)> {
        let jobs = self.metadata.jobs().await.unwrap();
        jobs.into_iter().map(|job| (job.key, job.state, job.attempts)).collect()
    }
}

pub async fn open(directory: &Path, time: &Arc<AtomicI64>) -> (Metadata, Queue) {
    let metadata = match test_servers::database(directory).await {
        DatabaseConfig::File => Metadata::open(&directory.join("larder.db")).await.unwrap(),
        DatabaseConfig::Server(server) => Metadata::open_on(&server).await.unwrap(),
    };
    let queue = Queue::new(metadata.clone(), Clock::Set(time.clone()));
    (metadata, queue)
}

pub fn job(key: &str, subject: Option<&str>) -> NewJob {
    NewJob {
        kind: "test".to_owned(),
        work: format!("{key:?}"),
        key: key.to_owned(),
        subject: subject.map(str::to_owned),
        sequence: None,
        priority: Priority::EVENT,
        due_at: NOW,
    }
}

/// Workers that tell what they begin, and end a job for each permit of the gate.
pub fn gated(queue: &Queue) -> (Workers, mpsc::UnboundedReceiver<ClaimedJob>, Arc<Semaphore>) {
    let (begun, receiver) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let workers = Workers::start(queue.clone(), move |job| {
        begun.send(job).unwrap();
        let gate = gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(Performed::Done)
        }
    });
    (workers, receiver, opened)
}
