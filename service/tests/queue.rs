//! The queue, as whoever stores jobs sees it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use larder_service::{
    clock::Clock,
    metadata::Metadata,
    queue::{ClaimedJob, JobState, MAX_ATTEMPTS, NewJob, Performed, Priority, Queue, Workers},
};
use tokio::sync::{Semaphore, mpsc};

const NOW: i64 = 1_800_000_000;
/// Longer than any delay or lease.
const LONG: i64 = 2 * 60 * 60;

struct World {
    metadata: Metadata,
    queue: Queue,
    time: Arc<AtomicI64>,
    directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicI64::new(NOW));
        let (metadata, queue) = open(directory.path(), &time).await;
        Self { metadata, queue, time, directory }
    }

    fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
        self.queue.wake();
    }

    async fn enqueue(&self, key: &str, subject: Option<&str>) {
        self.queue.enqueue(&job(key, subject)).await.unwrap();
    }

    async fn states(&self) -> Vec<(String, JobState, u32)> {
        let jobs = self.metadata.jobs().await.unwrap();
        jobs.into_iter().map(|job| (job.key, job.state, job.attempts)).collect()
    }
}

async fn open(directory: &Path, time: &Arc<AtomicI64>) -> (Metadata, Queue) {
    let metadata = Metadata::open(&directory.join("larder.db")).await.unwrap();
    let queue = Queue::new(metadata.clone(), Clock::Set(time.clone()));
    (metadata, queue)
}

fn job(key: &str, subject: Option<&str>) -> NewJob {
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
fn gated(queue: &Queue) -> (Workers, mpsc::UnboundedReceiver<ClaimedJob>, Arc<Semaphore>) {
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

#[tokio::test]
async fn a_job_is_done_when_it_is_due_and_leaves_nothing() {
    let world = World::new().await;
    world.queue.enqueue(&NewJob { due_at: NOW + 100, ..job("later", None) }).await.unwrap();
    world.enqueue("now", None).await;
    let done = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = done.clone();
    let workers = Workers::start(world.queue.clone(), move |job| {
        noted.lock().unwrap().push(job.work);
        async { Ok(Performed::Done) }
    });
    world.queue.idle().await.unwrap();
    assert_eq!(*done.lock().unwrap(), ["\"now\""]);
    world.pass(100);
    world.queue.idle().await.unwrap();
    assert_eq!(*done.lock().unwrap(), ["\"now\"", "\"later\""]);
    assert!(world.states().await.is_empty());
    workers.end().await;
}

#[tokio::test]
async fn what_is_to_be_done_again_waits_for_its_time() {
    let world = World::new().await;
    world.enqueue("hourly", None).await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let workers = Workers::start(world.queue.clone(), move |_| {
        let number = i64::try_from(counted.fetch_add(1, Ordering::SeqCst)).unwrap();
        async move { Ok(Performed::Again(NOW + (number + 1) * 3600)) }
    });
    world.queue.idle().await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    world.pass(3600);
    world.queue.idle().await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2);
    assert_eq!(world.states().await, [("hourly".to_owned(), JobState::Waiting, 0)]);
    workers.end().await;
}

#[tokio::test]
async fn what_fails_is_tried_again_later_and_given_up_into_a_list() {
    let world = World::new().await;
    world.enqueue("hard", None).await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let workers = Workers::start(world.queue.clone(), move |job| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match job.attempts {
                1 => panic!("as a bug would"),
                _ => Err(format!("no luck {}", "x".repeat(5000))),
            }
        }
    });
    world.queue.idle().await.unwrap();
    world.pass(6);
    world.queue.idle().await.unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 1, "it was tried again at once");
    for _ in 1..MAX_ATTEMPTS {
        world.pass(LONG);
        world.queue.idle().await.unwrap();
    }
    assert_eq!(world.states().await, [("hard".to_owned(), JobState::Failed, MAX_ATTEMPTS)]);
    world.pass(LONG);
    world.queue.idle().await.unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 10, "it was not given up");
    let given_up = world.metadata.jobs().await.unwrap().remove(0);
    let error = given_up.error.unwrap();
    assert!(error.starts_with("no luck") && error.len() <= 1000, "{error}");
    workers.end().await;

    // Somebody has mended the cause.
    assert_eq!(world.metadata.retry_failed_jobs(Some(given_up.id), NOW).await.unwrap(), 1);
    let workers = Workers::start(world.queue.clone(), |_| async { Ok(Performed::Done) });
    world.queue.idle().await.unwrap();
    assert!(world.states().await.is_empty());
    assert_eq!(world.metadata.retry_failed_jobs(None, NOW).await.unwrap(), 0);
    workers.end().await;
}

/// A process that dies is a runtime that ends: nothing more of it runs, and nothing is put in order.
#[test]
fn what_a_dead_process_was_at_is_done_by_another() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dying = runtime();
    let world = dying.block_on(async {
        let world = World::new().await;
        world.enqueue("long", None).await;
        let (_workers, mut begun, _gate) = gated(&world.queue);
        assert_eq!(begun.recv().await.unwrap().attempts, 1);
        world
    });
    dying.shutdown_background();

    runtime().block_on(async {
        let (metadata, queue) = open(world.directory.path(), &world.time).await;
        let (workers, mut begun, gate) = gated(&queue);
        // While the lease lasts, it may still be under way. Another job shows that the workers looked.
        queue.enqueue(&job("other", None)).await.unwrap();
        assert_eq!(begun.recv().await.unwrap().work, "\"other\"");
        world.time.fetch_add(61, Ordering::SeqCst);
        queue.wake();
        let again = begun.recv().await.unwrap();
        assert_eq!((again.work.as_str(), again.attempts), ("\"long\"", 2));
        gate.add_permits(2);
        queue.idle().await.unwrap();
        assert!(metadata.jobs().await.unwrap().is_empty());
        workers.end().await;
    });
}

/// One that takes its process with it, each time, must end on the list and not go on for ever.
#[test]
fn a_job_that_kills_every_worker_is_given_up() {
    let time = Arc::new(AtomicI64::new(NOW));
    let directory = tempfile::tempdir().unwrap();
    for attempt in 1..=MAX_ATTEMPTS + 1 {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (metadata, queue) = open(directory.path(), &time).await;
            if attempt == 1 {
                queue.enqueue(&job("deadly", None)).await.unwrap();
            }
            let (_workers, mut begun, _gate) = gated(&queue);
            if attempt <= MAX_ATTEMPTS {
                assert_eq!(begun.recv().await.unwrap().attempts, attempt);
            } else {
                queue.idle().await.unwrap();
                assert_eq!(metadata.jobs().await.unwrap()[0].state, JobState::Failed);
            }
        });
        runtime.shutdown_background();
        time.fetch_add(61, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_newer_job_about_the_same_ends_the_older_ones() {
    let world = World::new().await;
    let (workers, mut begun, gate) = gated(&world.queue);
    world.enqueue("prefetch main at 1", Some("prefetch main")).await;
    assert_eq!(begun.recv().await.unwrap().work, "\"prefetch main at 1\"");
    world
        .queue
        .enqueue(&NewJob { due_at: NOW + 1, ..job("prefetch main at 2", Some("prefetch main")) })
        .await
        .unwrap();
    world.enqueue("prefetch other", Some("prefetch other")).await;
    assert_eq!(begun.recv().await.unwrap().work, "\"prefetch other\"");
    world.enqueue("prefetch main at 3", Some("prefetch main")).await;
    assert_eq!(begun.recv().await.unwrap().work, "\"prefetch main at 3\"");
    // The first stopped though nobody let it through, the second never began.
    gate.add_permits(10);
    world.queue.idle().await.unwrap();
    assert!(world.states().await.is_empty());
    workers.end().await;
    assert!(begun.recv().await.is_none());
}

#[tokio::test]
async fn of_one_key_one_waits_and_one_is_under_way() {
    let world = World::new().await;
    for _ in 0..3 {
        world.enqueue("same", None).await;
    }
    assert_eq!(world.states().await.len(), 1);
    let (workers, mut begun, gate) = gated(&world.queue);
    begun.recv().await.unwrap();
    // What the one under way has seen may be old by now: one more must follow it, but not beside it.
    world.enqueue("same", None).await;
    world.enqueue("same", None).await;
    world.enqueue("other", None).await;
    assert_eq!(begun.recv().await.unwrap().work, "\"other\"");
    let states = world.states().await;
    assert_eq!(states.iter().filter(|(key, ..)| key == "same").count(), 2, "{states:?}");
    gate.add_permits(2);
    assert_eq!(begun.recv().await.unwrap().work, "\"same\"");
    gate.add_permits(10);
    world.queue.idle().await.unwrap();
    workers.end().await;
    assert!(begun.recv().await.is_none());
}

#[tokio::test]
async fn so_many_are_done_at_once_and_no_more() {
    let world = World::new().await;
    for number in 0..40 {
        world.enqueue(&number.to_string(), None).await;
    }
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (now.clone(), most.clone());
    let workers = Workers::start(world.queue.clone(), move |_| {
        let (now, most) = counts.clone();
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(Performed::Done)
        }
    });
    world.queue.idle().await.unwrap();
    assert!((1..=4).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    workers.end().await;
}

#[tokio::test]
async fn the_end_puts_back_what_was_under_way() {
    let world = World::new().await;
    world.enqueue("long", None).await;
    let (workers, mut begun, _gate) = gated(&world.queue);
    begun.recv().await.unwrap();
    workers.end().await;
    assert_eq!(world.states().await, [("long".to_owned(), JobState::Waiting, 0)]);
}

#[tokio::test]
async fn what_is_more_urgent_goes_first() {
    let world = World::new().await;
    for (key, priority, due_at) in [
        ("schedule", Priority::SCHEDULE, NOW - 9),
        ("event", Priority::EVENT, NOW),
        ("older", Priority::EVENT, NOW - 5),
    ] {
        world.queue.enqueue(&NewJob { priority, due_at, ..job(key, None) }).await.unwrap();
    }
    let (workers, mut begun, gate) = gated(&world.queue);
    for key in ["older", "event", "schedule"] {
        assert_eq!(begun.recv().await.unwrap().work, format!("{key:?}"));
    }
    gate.add_permits(10);
    world.queue.idle().await.unwrap();
    workers.end().await;
}

#[tokio::test]
async fn there_are_always_hands_for_what_somebody_waits_for_and_for_what_is_brief() {
    let world = World::new().await;
    let (workers, mut begun, gate) = gated(&world.queue);
    let enqueue = async |kind: &str, priority| {
        for number in 0..5 {
            let job = NewJob { priority, ..job(&format!("{kind} {number}"), None) };
            world.queue.enqueue(&job).await.unwrap();
        }
    };
    for (kind, priority) in [
        ("schedule", Priority::SCHEDULE),
        ("event", Priority::EVENT),
        ("waited", Priority::WAITED),
        ("brief", Priority::BRIEF),
    ] {
        enqueue(kind, priority).await;
        for _ in 0..2 {
            assert_eq!(begun.recv().await.unwrap().priority, priority);
        }
    }
    let states = world.states().await;
    assert_eq!(states.iter().filter(|(_, state, _)| *state == JobState::Running).count(), 8);
    gate.add_permits(20);
    world.queue.idle().await.unwrap();
    workers.end().await;
}

#[tokio::test]
async fn what_comes_late_ends_nothing_newer() {
    let world = World::new().await;
    let enqueue = async |key: &str, sequence: i64| {
        let job = NewJob { sequence: Some(sequence), ..job(key, Some("prefetch main")) };
        world.queue.enqueue(&job).await.unwrap();
    };
    let waiting = async || world.states().await.into_iter().map(|(key, ..)| key).collect::<Vec<_>>();
    enqueue("at 2", 2).await;
    enqueue("at 1", 1).await;
    assert_eq!(waiting().await, ["at 2"]);
    enqueue("at 3", 3).await;
    assert_eq!(waiting().await, ["at 3"]);
    let workers = Workers::start(world.queue.clone(), |_| async { Ok(Performed::Done) });
    world.queue.idle().await.unwrap();
    workers.end().await;
    // It is done, and what comes late is late.
    enqueue("at 2", 2).await;
    assert_eq!(waiting().await, [""; 0]);
    enqueue("at 3", 3).await;
    assert_eq!(waiting().await, ["at 3"]);
}
