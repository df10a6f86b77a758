//! What becomes of a job.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use larder_service::queue::{JobState, MAX_ATTEMPTS, NewJob, Performed, Workers};

use crate::world::{LONG, NOW, World, gated, job};

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
async fn the_end_puts_back_what_was_under_way() {
    let world = World::new().await;
    world.enqueue("long", None).await;
    let (workers, mut begun, _gate) = gated(&world.queue);
    begun.recv().await.unwrap();
    workers.end().await;
    assert_eq!(world.states().await, [("long".to_owned(), JobState::Waiting, 0)]);
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
