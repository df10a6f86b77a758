//! Whoever reads, pushes, sweeps or dies while frames move: nothing is lost, and nothing is left.

use std::{
    pin::{Pin, pin},
    task::Poll,
};

use larder_protocol::{StorePath, StorePathHash};
use larder_service::{config::Period, retention::sweep};

use crate::{
    compaction::{compressed, half_dead_of, push_into_one_object},
    nar::{TestNar, contents},
    races::{cut_off, meanwhile},
    roots::nar,
    world::{DAY, HOUR, World},
};

/// How many moments of a sweep are tried.
const MOMENTS: u32 = 24;

async fn world() -> World {
    World::with(|config| {
        config.retention.abandon_after = Period::days(3);
        let rules = &mut config.caches[0].retention;
        rules.keep_days = 0;
        rules.keep_runs = 1;
        rules.idle_refs = Period::days(1000);
    })
    .await
}

/// A path of its own for each number and name.
fn own(number: u8, name: &str) -> StorePath {
    let mut hash = [number; 20];
    hash[..3].copy_from_slice(&name.as_bytes()[..3]);
    StorePath::new(StorePathHash(hash), name).unwrap()
}

/// A world in which the next sweep takes something and then compacts.
async fn about_to_move(world: &World, number: u8) -> TestNar {
    let kept = half_dead_of(world, number).await;
    world.sweep().await;
    world.pass(DAY + 1);
    kept
}

/// How often such a sweep is polled, and a bit more.
async fn polls(world: &World, number: u8) -> u32 {
    about_to_move(world, number).await;
    let mut polls = 0;
    let mut sweep = Box::pin(sweep(&world.service));
    let report = std::future::poll_fn(|context| {
        polls += 1;
        sweep.as_mut().poll(context)
    })
    .await
    .unwrap();
    assert_eq!(report.compaction.replaced, 1, "{report:?}");
    polls + polls / 10
}

/// Some moments of a sweep that takes so many polls. Compaction comes last, and gets most of them.
fn moments(polls: u32) -> impl Iterator<Item = (u8, u32)> {
    let first = (1..polls / 2).step_by((polls / 2 / (MOMENTS / 4)).max(1) as usize);
    let last = (polls / 2..=polls).step_by((polls / 2 / (MOMENTS * 3 / 4)).max(1) as usize);
    (1..).zip(first.chain(last))
}

/// Lets all go that can.
async fn settle(world: &World) {
    for _ in 0..4 {
        world.sweep().await;
        world.pass(2 * DAY);
    }
    world.sweep().await;
    world.pass(HOUR);
    world.sweep().await;
}

#[tokio::test]
async fn a_compaction_killed_anywhere_loses_nothing_and_leaves_nothing() {
    let mut world = world().await;
    let polls = polls(&world, 0).await;
    let mut all = Vec::new();
    for (number, polls) in moments(polls) {
        let kept = about_to_move(&world, number).await;
        let before = compressed(&world, &kept).await;
        cut_off(sweep(&world.service), polls).await;
        world.restart().await;
        assert_eq!(compressed(&world, &kept).await, before, "after {polls} polls");
        world.assert_storage_fits().await;
        all.push((kept, before));
    }
    settle(&world).await;
    for (kept, before) in &all {
        assert_eq!(compressed(&world, kept).await, *before);
    }
    let zeroth = half_dead_of(&World::new().await, 0).await;
    let last = nar(99, &[]);
    let rest: Vec<&TestNar> = all.iter().map(|(kept, _)| kept).chain([&zeroth, &last]).collect();
    world.assert_nothing_else(&rest).await;
}

#[tokio::test]
async fn what_moves_is_read_whole_at_any_moment() {
    let world = world().await;
    let polls = polls(&world, 0).await;
    for (number, polls) in moments(polls) {
        let kept = about_to_move(&world, number).await;
        let before = compressed(&world, &kept).await;
        let url = world.narinfo(&kept).await.unwrap().url;
        let (_, (status, bytes)) = meanwhile(world.sweep(), polls, world.get(&url)).await;
        assert_eq!(status, 200, "after {polls} polls");
        assert!(bytes == before, "after {polls} polls");
        // And the other way round: the reader waits anywhere while all moves, and the old files go.
        let again = about_to_move(&world, number + 100).await;
        let before = compressed(&world, &again).await;
        let url = world.narinfo(&again).await.unwrap().url;
        let moving = async {
            world.sweep().await;
            world.pass(HOUR);
            world.sweep().await;
        };
        let reading = async {
            let (status, bytes) = world.get(&url).await;
            assert_eq!(status, 200);
            assert!(bytes == before);
        };
        meanwhile(reading, u32::from(number), moving).await;
    }
}

/// A push that is told that a chunk is there, just when it moves.
#[tokio::test]
async fn a_push_of_what_shares_chunks_with_what_moves_is_whole() {
    let world = world().await;
    let polls = polls(&world, 0).await;
    let mut all = Vec::new();
    for (number, polls) in moments(polls) {
        let kept = about_to_move(&world, number).await;
        let shared = contents(1000 + 2 * u64::from(number), 1_500_000, &[]);
        let new = TestNar::new(own(number, "new"), &[&shared[..], b"and more"].concat(), &[]);
        let job = world.job("shares", number.into()).await;
        let push = async {
            let opened = world.open(&job, &[&new]).await;
            assert!(world.missing(&job, &opened, &new).await <= 2, "most of it is here");
            world.send(&job, &opened, &[&new]).await;
            world.commit(&job, &opened).await.unwrap();
        };
        meanwhile(world.sweep(), polls, push).await;
        assert!(world.has(&new).await && world.has(&kept).await, "after {polls} polls");
        all.push((kept, new));
    }
    settle(&world).await;
    for (kept, _) in &all {
        assert!(world.has(kept).await);
    }
    assert!(world.has(&all.last().unwrap().1).await);
    world.assert_storage_fits().await;
}

/// Begins a sweep and leaves it where frames are being copied: the part of a file is there.
async fn until_copying<F: Future>(world: &World, mut sweep: Pin<&mut F>) {
    let objects = world.objects();
    std::future::poll_fn(|context| {
        assert!(sweep.as_mut().poll(context).is_pending(), "nothing was copied");
        if objects.have_part_of_a_file() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// A push uploads again what was condemned and is just being copied, and is never heard of again: what it revived goes
/// when the push is given up, wherever it lies by then.
#[tokio::test]
async fn what_is_revived_while_it_moves_and_never_used_goes() {
    let world = world().await;
    let of = |name, seed, length| TestNar::new(own(1, name), &contents(seed, length, &[]), &[]);
    let (kept, condemned, dead) =
        (of("kept", 1, 600_000), of("condemned", 2, 300_000), of("dead", 3, 1_800_000));
    let ([first, second], last) = ([of("first", 4, 1000), of("second", 5, 1000)], nar(99, &[]));
    push_into_one_object(&world, &world.job("dead", 1).await, &[&dead, &condemned, &kept]).await;
    world.push(&world.job("condemned", 1).await, &[&condemned]).await;
    world.push(&world.job("kept", 1).await, &[&kept]).await;
    // What is condemned while this one is open stays,
    let holds_dead = world.job("first", 1).await;
    let holding_dead = world.open(&holds_dead, &[&first]).await;
    world.push(&world.job("dead", 2).await, &[&last]).await;
    world.sweep().await;
    world.pass(DAY + 1);
    world.sweep().await;
    // and while this one is open, what is condemned later.
    world.open(&world.job("second", 1).await, &[&second]).await;
    world.push(&world.job("condemned", 2).await, &[&last]).await;
    world.sweep().await;
    world.pass(DAY + 1);
    assert_eq!(world.sweep().await.compaction.replaced, 0);
    world.send(&holds_dead, &holding_dead, &[&first]).await;
    world.commit(&holds_dead, &holding_dead).await.unwrap();

    let silent = world.job("silent", 1).await;
    let again = of("again", 2, 300_000);
    let opened = world.open(&silent, &[&again]).await;
    assert!(world.missing(&silent, &opened, &again).await > 1);
    let mut sweep = pin!(world.sweep());
    until_copying(&world, sweep.as_mut()).await;
    assert_eq!(world.upload(&silent, &opened, &again.chunks[..1]).await, 200);
    assert_eq!(sweep.await.compaction.written, 1);
    settle(&world).await;
    world.assert_nothing_else(&[&kept, &first, &last]).await;
    assert!(world.has(&kept).await);
}

/// Another service sweeps and compacts the same, from beginning to end, while this one has copied some of it.
#[tokio::test]
async fn what_another_has_moved_meanwhile_stays_where_it_is() {
    let world = world().await;
    let other = world.beside().await;
    let kept = about_to_move(&world, 1).await;
    let before = compressed(&world, &kept).await;
    let mut sweep = pin!(world.sweep());
    until_copying(&world, sweep.as_mut()).await;
    assert_eq!(other.sweep().await.compaction.replaced, 1);
    // Nothing lies in what this one writes: the other has given it up.
    let report = sweep.await;
    assert_eq!(report.compaction.replaced, 0, "{report:?}");
    assert!(compressed(&world, &kept).await == before);
    settle(&other).await;
    assert!(compressed(&world, &kept).await == before);
    world.assert_nothing_else(&[&kept, &nar(99, &[])]).await;
    other.service.metadata.close().await;
}

/// Two services on the same data, as replicas would be: one compacts while the other sweeps and compacts too.
#[tokio::test]
async fn two_that_move_the_same_at_once_lose_nothing() {
    let world = world().await;
    let other = world.beside().await;
    let polls = polls(&world, 0).await;
    let mut all = Vec::new();
    for (number, polls) in moments(polls).step_by(2) {
        let kept = about_to_move(&world, number).await;
        let before = compressed(&world, &kept).await;
        meanwhile(world.sweep(), polls, other.sweep()).await;
        assert!(compressed(&world, &kept).await == before, "after {polls} polls");
        world.pass(HOUR);
        other.sweep().await;
        assert!(compressed(&world, &kept).await == before, "after {polls} polls");
        world.assert_storage_fits().await;
        all.push(kept);
    }
    settle(&world).await;
    let zeroth = half_dead_of(&World::new().await, 0).await;
    let last = nar(99, &[]);
    let rest: Vec<&TestNar> = all.iter().chain([&zeroth, &last]).collect();
    world.assert_nothing_else(&rest).await;
    other.service.metadata.close().await;
}
