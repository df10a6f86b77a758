//! A job is one worker's for as long as its lease says.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use larder_service::queue::{JobState, MAX_ATTEMPTS};

use crate::world::{NOW, World, gated, job, open};

#[tokio::test]
async fn a_job_under_way_stays_its_workers_however_much_else_happens() {
    let world = World::new().await;
    let (workers, mut begun, gate) = gated(&world.queue);
    world.enqueue("long", None).await;
    assert_eq!(begun.recv().await.unwrap().work, "\"long\"");
    for number in 0..3 {
        world.pass(30);
        let other = number.to_string();
        world.enqueue(&other, None).await;
        // That it was begun shows that the workers looked.
        assert_eq!(begun.recv().await.unwrap().work, format!("{other:?}"));
    }
    let (_, state, attempts) = world.states().await.into_iter().find(|(key, ..)| key == "long").unwrap();
    assert_eq!((state, attempts), (JobState::Running, 1));
    gate.add_permits(4);
    world.queue.idle().await.unwrap();
    assert!(world.states().await.is_empty());
    workers.end().await;
    assert!(begun.recv().await.is_none(), "it was begun twice");
}

/// A process that dies is a runtime that ends: nothing more of it runs, and nothing is put in order. Its workers outlive
/// it here, since workers that are dropped put back what they are at.
#[test]
fn what_a_dead_process_was_at_is_done_by_another() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dying = runtime();
    let (world, _workers) = dying.block_on(async {
        let world = World::new().await;
        world.enqueue("long", None).await;
        let (workers, mut begun, _gate) = gated(&world.queue);
        assert_eq!(begun.recv().await.unwrap().attempts, 1);
        (world, workers)
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
        let _workers = runtime.block_on(async {
            let (metadata, queue) = open(directory.path(), &time).await;
            if attempt == 1 {
                queue.enqueue(&job("deadly", None)).await.unwrap();
            }
            let (workers, mut begun, _gate) = gated(&queue);
            if attempt <= MAX_ATTEMPTS {
                assert_eq!(begun.recv().await.unwrap().attempts, attempt);
            } else {
                queue.idle().await.unwrap();
                assert_eq!(metadata.jobs().await.unwrap()[0].state, JobState::Failed);
            }
            workers
        });
        // None of its workers goes on beside the next one's.
        runtime.shutdown_timeout(Duration::from_secs(60));
        time.fetch_add(61, Ordering::SeqCst);
    }
}
