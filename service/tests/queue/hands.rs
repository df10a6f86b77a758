//! How many jobs are done at once, and which go first.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use larder_service::queue::{JobState, NewJob, Performed, Priority, Work, Workers};

use crate::world::{NOW, World, gated, job};

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
async fn there_are_always_hands_for_what_somebody_waits_for_what_asks_github_and_what_is_brief() {
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
        ("asking", Priority::ASKING),
        ("brief", Priority::BRIEF),
    ] {
        enqueue(kind, priority).await;
        for _ in 0..2 {
            assert_eq!(begun.recv().await.unwrap().priority, priority);
        }
    }
    let states = world.states().await;
    assert_eq!(states.iter().filter(|(_, state, _)| *state == JobState::Running).count(), 10);
    gate.add_permits(25);
    world.queue.idle().await.unwrap();
    workers.end().await;
}

#[tokio::test]
async fn what_has_hands_of_its_own_takes_none_of_others() {
    let world = World::new().await;
    let (workers, mut begun, gate) = gated(&world.queue);
    for (priority, hands) in [(Priority::BRIEF, 2), (Priority::ASKING, 2), (Priority::SCHEDULE, 2)] {
        for number in 0..5 {
            let job = NewJob { priority, ..job(&format!("{priority:?} {number}"), None) };
            world.queue.enqueue(&job).await.unwrap();
        }
        for _ in 0..hands {
            assert_eq!(begun.recv().await.unwrap().priority, priority);
        }
    }
    gate.add_permits(15);
    world.queue.idle().await.unwrap();
    workers.end().await;
}

/// GitHub may take half a minute for each answer.
#[test]
fn what_asks_github_holds_no_hand_that_is_for_what_is_brief() {
    let (repository, sha) = ("acme/flake".parse().unwrap(), "1".repeat(40));
    for asking in [Work::Report { repository, sha }, Work::AskForMissed] {
        assert_eq!(asking.job(NOW).priority, Priority::ASKING, "{asking:?}");
    }
    assert_eq!(Work::Tidy.job(NOW).priority, Priority::BRIEF);
}
