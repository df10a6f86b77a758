//! Pushes and sweeps at the same time, and sweeps that are cut off.

use std::{
    pin::pin,
    task::{Context, Poll},
};

use larder_protocol::{StorePath, StorePathHash, api::ErrorAnswer};
use larder_service::{config::Period, trust::Rank};
use tokio::sync::oneshot;

use crate::{
    nar::{TestNar, contents, path},
    roots::nar,
    world::{DAY, Pusher, World},
};

/// Nothing but runs counts, and silent pushes are waited for.
async fn world() -> World {
    World::with(|config| {
        config.retention.abandon_after = Period::days(100);
        let rules = &mut config.caches[0].retention;
        rules.keep_days = 0;
        rules.keep_runs = 1;
    })
    .await
}

/// Polls a future at most so often, then drops it. Whether it ended.
pub async fn cut_off(future: impl Future, mut polls: u32) -> bool {
    let mut future = Box::pin(future);
    std::future::poll_fn(move |context| {
        if future.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        polls = polls.saturating_sub(1);
        if polls == 0 { Poll::Ready(false) } else { Poll::Pending }
    })
    .await
}

/// Runs both, the second from when the first was polled so often. Whether it was.
pub async fn meanwhile<T>(first: impl Future, polls: u32, second: impl Future<Output = T>) -> (bool, T) {
    let (begin, begun) = oneshot::channel::<()>();
    let mut begin = Some(begin);
    let mut first = pin!(first);
    let mut left = polls;
    let mut was_cut = false;
    let first = std::future::poll_fn(|context: &mut Context<'_>| {
        let polled = first.as_mut().poll(context);
        left = left.saturating_sub(1);
        if polled.is_ready() || left == 0 {
            was_cut |= polled.is_pending() && begin.is_some();
            drop(begin.take());
        }
        polled
    });
    let second = async {
        let _ = begun.await;
        second.await
    };
    let (_, result) = tokio::join!(first, second);
    (was_cut, result)
}

/// Some first polls, then fewer and fewer of them.
pub fn next(polls: u32) -> u32 {
    polls + 1 + polls / 5
}

/// Each visible path is there with all that it refers to, to the last byte.
async fn assert_complete(world: &World, nars: &[&TestNar]) {
    for nar in nars {
        if world.has(nar).await {
            for reference in &nar.info.references {
                let base = nars.iter().find(|base| base.info.path == *reference).unwrap();
                assert!(world.has(base).await, "{} is seen without {reference}", nar.info.path);
            }
        }
    }
}

/// A closure of three that nothing keeps since more than a grace. What keeps another is pushed by another run.
async fn dying(world: &World, run: u64, seed: u8) -> [TestNar; 3] {
    let low = nar(seed, &[]);
    let middle = nar(seed + 1, &[&low]);
    let top = nar(seed + 2, &[&middle, &low]);
    world.push(&world.job("topic", run).await, &[&top, &middle, &low]).await;
    world.push(&world.job("topic", run + 1).await, &[&nar(255, &[])]).await;
    world.sweep().await;
    world.pass(DAY + 1);
    [top, middle, low]
}

#[tokio::test]
async fn a_sweep_killed_anywhere_leaves_what_is_whole_and_the_next_finishes_it() {
    let mut world = world().await;
    let (mut polls, mut run, mut seed) = (1, 1, 0u8);
    loop {
        let nars = dying(&world, run, seed).await;
        let ended = cut_off(larder_service::retention::sweep(&world.service), polls).await;
        world.restart().await;
        let [top, middle, low] = &nars;
        assert_complete(&world, &[top, middle, low]).await;
        // Nobody notes that they were read just now.
        world.restart().await;
        world.pass(3600);
        world.sweep().await;
        world.sweep().await;
        assert_eq!(world.visible(&[top, middle, low]).await, [false; 3], "after {polls} polls");
        (polls, run, seed) = (next(polls), run + 2, (seed + 3) % 240);
        if ended {
            break;
        }
    }
    assert!(polls > 100, "the sweep ended after {polls} polls");
    // Nothing is left of all that but what the last run keeps.
    world.push(&world.job("topic", run).await, &[&nar(255, &[])]).await;
    world.sweep_all().await;
    let left = world.count_objects().await;
    let mut fresh = self::world().await;
    fresh.push(&fresh.job("topic", 1).await, &[&nar(255, &[])]).await;
    assert_eq!(left, fresh.count_objects().await);
    fresh.restart().await;
}

/// A push of what a sweep is just taking, begun at any moment of the sweep.
#[tokio::test]
async fn a_push_of_what_is_being_swept_ends_with_all_of_it() {
    let world = world().await;
    let (mut polls, mut run, mut seed) = (1, 1, 0u8);
    loop {
        let [top, middle, low] = dying(&world, run, seed).await;
        let job = world.job("topic", run + 2).await;
        // Named by its root alone, where that is there: what it needs must stay with it.
        let push = async {
            let opened = world.open(&job, &[&top]).await;
            match opened.committed {
                Some(_) => {}
                None => world.push(&job, &[&top, &middle, &low]).await,
            }
        };
        let (was_cut, ()) = meanwhile(world.sweep(), polls, push).await;
        let closure = [&top, &middle, &low];
        assert_complete(&world, &closure).await;
        assert_eq!(world.visible(&closure).await, [true; 3], "after {polls} polls");
        world.sweep().await;
        world.pass(DAY + 1);
        world.sweep().await;
        assert_eq!(world.visible(&closure).await, [true; 3], "after {polls} polls and another sweep");
        assert_complete(&world, &closure).await;
        (polls, run, seed) = (next(polls), run + 4, (seed + 3) % 240);
        if !was_cut {
            break;
        }
    }
    assert!(polls > 100, "the sweep ended after {polls} polls");
}

/// A push of higher rank that replaces what a sweep is just taking, begun at any moment of the sweep.
#[tokio::test]
async fn what_replaces_a_path_that_is_being_swept_stays() {
    let world = world().await;
    let (mut polls, mut run, mut seed) = (1, 1, 0u8);
    let mut replaced = [0, 0];
    loop {
        let [top, middle, low] = dying(&world, run, seed).await;
        // The same path, with other contents.
        let rebuilt =
            TestNar::new(middle.info.path.clone(), &[b"rebuilt", &[seed][..]].concat(), &[&low.info.path]);
        let job = world.job_of_rank("main", run + 2, Rank::PROTECTED).await;
        let push = async {
            let opened = world.open(&job, &[&rebuilt, &low]).await;
            match opened.committed {
                Some(committed) => committed,
                None => {
                    world.send(&job, &opened, &[&rebuilt, &low]).await;
                    world.commit(&job, &opened).await.unwrap()
                }
            }
        };
        let (was_cut, committed) = meanwhile(world.sweep(), polls, push).await;
        replaced[committed.replacements.len()] += 1;
        for _ in 0..2 {
            assert!(world.has(&rebuilt).await, "after {polls} polls");
            assert_complete(&world, &[&low]).await;
            assert!(world.has(&low).await);
            if world.has(&top).await {
                assert!(world.has(&low).await);
            }
            world.pass(DAY + 1);
            world.sweep().await;
        }
        (polls, run, seed) = (next(polls), run + 4, (seed + 3) % 240);
        if !was_cut {
            break;
        }
    }
    assert!(replaced[0] > 0 && replaced[1] > 0, "{replaced:?}");
}

/// A pin of what a sweep is just taking.
#[tokio::test]
async fn a_pin_of_what_is_being_swept_holds_or_is_refused() {
    let world = world().await;
    let anna = world.person().await;
    let (mut polls, mut run, mut seed) = (1, 1, 0u8);
    let mut held = [0, 0];
    loop {
        let [top, middle, low] = dying(&world, run, seed).await;
        let (was_cut, status) =
            meanwhile(world.sweep(), polls, world.pin(&anna, "web", &top.info.path, None, 1)).await;
        let closure = [&top, &middle, &low];
        assert!(status == 204 || status == 422, "{status}");
        held[usize::from(status == 204)] += 1;
        world.pass(DAY + 1);
        world.sweep().await;
        assert_eq!(world.visible(&closure).await, [status == 204; 3], "after {polls} polls");
        assert_complete(&world, &closure).await;
        (polls, run, seed) = (next(polls), run + 2, (seed + 3) % 240);
        if !was_cut {
            break;
        }
    }
    assert!(held[0] > 0 && held[1] > 0, "{held:?}");
}

/// A commit of what refers to a path that a sweep is just taking.
#[tokio::test]
async fn a_commit_that_refers_to_what_is_being_swept_holds_it_or_is_refused() {
    let world = world().await;
    let (mut polls, mut run, mut seed) = (1, 1, 0u8);
    let mut committed = [0, 0];
    loop {
        let [_, middle, low] = dying(&world, run, seed).await;
        let mut hash = [250; 20];
        hash[0] = seed;
        let path = StorePath::new(StorePathHash(hash), "new").unwrap();
        let top = TestNar::new(path, &[seed], &[&middle.info.path]);
        let job = world.job("other", run).await;
        let opened = world.open(&job, &[&top]).await;
        if opened.committed.is_none() {
            world.send(&job, &opened, &[&top]).await;
        }
        let (was_cut, outcome) = meanwhile(world.sweep(), polls, world.commit(&job, &opened)).await;
        match outcome {
            Ok(_) => {
                assert_eq!(world.visible(&[&top, &middle, &low]).await, [true; 3], "after {polls} polls");
                world.pass(DAY + 1);
                world.sweep().await;
                assert_complete(&world, &[&top, &middle, &low]).await;
                assert!(world.has(&top).await);
                committed[0] += 1;
            }
            Err((status, body)) => {
                assert_eq!(status, 422, "{body:?}");
                let error: ErrorAnswer = serde_json::from_slice(&body).unwrap();
                assert_eq!(error.missing_references, [middle.info.path.clone()]);
                committed[1] += 1;
            }
        }
        (polls, run, seed) = (next(polls), run + 2, (seed + 3) % 240);
        if !was_cut {
            break;
        }
    }
    assert!(committed[0] > 0 && committed[1] > 0, "{committed:?}");
}

/// Two paths that share most of their chunks.
fn alike() -> (TestNar, TestNar) {
    let shared = contents(7, 900_000, &[]);
    let old = TestNar::new(path(1, "old"), &shared, &[]);
    let new = TestNar::new(path(2, "new"), &[&shared[..], b"and more"].concat(), &[]);
    (old, new)
}

/// Has a path swept while these pushes are open.
async fn sweep_away(world: &World, gone: &TestNar) {
    world.push(&world.job("topic", 1000).await, &[&nar(99, &[])]).await;
    for _ in 0..3 {
        world.sweep().await;
        world.pass(DAY + 1);
    }
    assert!(!world.has(gone).await);
}

#[tokio::test]
async fn a_chunk_that_was_said_to_be_there_stays_until_the_push_ends() {
    let world = world().await;
    let (old, new) = alike();
    world.push(&world.job("topic", 1).await, &[&old]).await;
    let job: Pusher = world.job("topic", 2000).await;
    let opened = world.open(&job, &[&new]).await;
    let missing = world.missing(&job, &opened, &new).await;
    assert!(missing < new.chunks.len());
    sweep_away(&world, &old).await;
    // The same, and what is sent is only what was missing.
    assert_eq!(world.missing(&job, &opened, &new).await, missing);
    let known: Vec<_> = old.chunks.iter().map(|chunk| chunk.id).collect();
    let rest: Vec<_> = new.chunks.iter().filter(|chunk| !known.contains(&chunk.id)).cloned().collect();
    assert_eq!(rest.len(), missing);
    assert_eq!(world.upload(&job, &opened, &rest).await, 200);
    assert!(world.send_recipes(&job, &opened, &[&new]).await.unwrap().rejected.is_empty());
    world.sweep().await;
    world.commit(&job, &opened).await.unwrap();
    world.sweep_all().await;
    assert!(world.has(&new).await);
}

#[tokio::test]
async fn an_upload_revives_what_was_condemned() {
    let world = world().await;
    let (old, new) = alike();
    world.push(&world.job("topic", 1).await, &[&old]).await;
    // It never goes on; as long as it is open, no chunk goes that it may have been told of.
    let idle = world.job("topic", 2000).await;
    let idle_push = world.open(&idle, &[&new]).await;
    sweep_away(&world, &old).await;
    assert!(world.missing(&idle, &idle_push, &new).await < new.chunks.len());

    let job = world.job("topic", 3000).await;
    let opened = world.open(&job, &[&new]).await;
    assert_eq!(world.missing(&job, &opened, &new).await, new.chunks.len(), "condemned is missing");
    let files = world.count_objects().await;
    assert_eq!(world.upload(&job, &opened, &new.chunks).await, 200);
    assert!(world.count_objects().await > files);
    world.pass(101 * DAY);
    assert!(world.send_recipes(&job, &opened, &[&new]).await.unwrap().rejected.is_empty());
    world.sweep().await;
    assert_eq!(world.commit(&idle, &idle_push).await.unwrap_err().0, 404, "it was silent for too long");
    world.commit(&job, &opened).await.unwrap();
    world.sweep_all().await;
    assert!(world.has(&new).await);
}

/// A reader under way is served to the end, though its path goes meanwhile.
#[tokio::test]
async fn a_nar_that_is_being_read_is_read_to_its_end() {
    use http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    let world = world().await;
    let large = TestNar::new(path(1, "large"), &contents(3, 6_000_000, &[]), &[]);
    world.push(&world.job("topic", 1).await, &[&large]).await;
    let url = world.narinfo(&large).await.unwrap().url;
    let request = Request::get(format!("/main/{url}")).body(axum::body::Body::empty()).unwrap();
    let answer = larder_service::router(world.service.clone()).oneshot(request).await.unwrap();
    let mut body = answer.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    world.push(&world.job("topic", 2).await, &[&nar(9, &[])]).await;
    world.sweep().await;
    world.pass(DAY + 1);
    world.sweep().await;
    world.pass(3599);
    world.sweep().await;
    assert!(!world.has(&large).await);
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(crate::nar::decompress(&[&first[..], &rest[..]].concat()) == large.bytes);
}

/// A push whose path has the very NAR that a sweep is just taking with another path: the NAR's row is there for both, or
/// it is missing and sent again.
#[tokio::test]
async fn a_nar_that_a_push_reuses_while_a_sweep_takes_it_stays() {
    let world = world().await;
    let (mut polls, mut run, mut seed) = (1, 1, 0u8);
    let mut reused = [0, 0];
    loop {
        let bytes = contents(1000 + u64::from(seed), 60_000, &[]);
        let old = TestNar::new(path(seed, "old"), &bytes, &[]);
        let own = |first| {
            let mut hash = [seed; 20];
            hash[0] = first;
            StorePath::new(StorePathHash(hash), "new").unwrap()
        };
        let new = TestNar::new(own(253), &bytes, &[]);
        assert_eq!(old.info.nar_hash, new.info.nar_hash);
        world.push(&world.job("topic", run).await, &[&old]).await;
        world.push(&world.job("topic", run + 1).await, &[&nar(255, &[])]).await;
        world.sweep().await;
        world.pass(DAY + 1);
        // It is open when the sweep begins, or opened at any moment of it; and commits when the sweep is over, or at once.
        let job = world.job("other", run).await;
        let other = TestNar::new(own(254), &[seed], &[]);
        let push = async {
            let opened = world.open(&job, &[&new, &other]).await;
            reused[usize::from(!opened.missing.contains(&new.info.path.hash()))] += 1;
            world.send(&job, &opened, &[&new, &other]).await;
            opened
        };
        let (was_cut, opened) = meanwhile(world.sweep(), polls, push).await;
        if run % 2 == 0 {
            world.sweep().await;
            world.pass(DAY + 1);
            world.sweep().await;
        }
        world.commit(&job, &opened).await.unwrap();
        assert_complete(&world, &[&new, &other]).await;
        assert_eq!(world.visible(&[&new]).await, [true], "after {polls} polls");
        world.sweep().await;
        world.pass(DAY + 1);
        world.sweep().await;
        assert!(world.has(&new).await, "after {polls} polls and more sweeps");
        (polls, run, seed) = (next(polls), run + 3, (seed + 1) % 240);
        if !was_cut {
            break;
        }
    }
    assert!(reused[0] > 0 && reused[1] > 0, "{reused:?}");
}
