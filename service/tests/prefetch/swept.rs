//! Prefetches of what a sweep is just taking.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use larder_protocol::{StorePath, StorePathHash, api::Permission, prefetch::PrefetchState};
use larder_service::{metadata::MetadataError, retention::SweepReport, retention::sweep};
use tokio::sync::Semaphore;

use crate::{
    nar::{TestNar, contents},
    upstream::{Reply, UpstreamCache, nar_file},
    world::World,
};

const DAY: i64 = 24 * 3600;
/// How many moments of a sweep are tried.
const MOMENTS: u8 = 12;

/// The first of three refers to the others.
fn closure(number: u8) -> [TestNar; 3] {
    let own = |which: u8| {
        let mut hash = [number; 20];
        hash[0] = which;
        StorePath::new(StorePathHash(hash), "x").unwrap()
    };
    let of = |which: u8, references: &[&StorePath]| {
        let seed = u64::from(number) * 10 + u64::from(which);
        TestNar::new(own(which), &contents(seed, 60_000, &[]), references)
    };
    let low = of(1, &[]);
    let middle = of(2, &[&low.info.path]);
    let top = of(3, &[&middle.info.path, &low.info.path]);
    [top, middle, low]
}

/// What is here, and goes with the next sweep.
async fn let_go(world: &mut World, nars: &[&TestNar]) {
    world.complete(nars).await;
    world.pass(8 * DAY).await;
    sweep(&world.service).await.unwrap();
    world.pass(DAY + 1).await;
    // The last token is over.
    world.token = world.token_for("main", &[Permission::Push, Permission::Read]).await;
}

/// Polls a sweep so often. Whether it is over.
async fn poll<F>(sweep: &mut Pin<&mut F>, mut polls: u32) -> bool
where
    F: Future<Output = Result<SweepReport, MetadataError>>,
{
    std::future::poll_fn(|context| {
        if polls == 0 {
            return Poll::Ready(false);
        }
        polls -= 1;
        sweep.as_mut().poll(context).map(|swept| swept.is_ok())
    })
    .await
}

#[tokio::test]
async fn what_is_prefetched_while_a_sweep_takes_it_is_whole_and_stays() {
    let upstream = UpstreamCache::start().await;
    let mut world = World::new(&[upstream.configured()]).await;
    let closures: Vec<_> = (0..=2 * MOMENTS).map(closure).collect();
    closures.iter().flatten().for_each(|nar| upstream.has(nar, "none"));
    let_go(&mut world, &[&closures[0][0]]).await;
    let (service, mut polls) = (world.service.clone(), 0);
    let mut counted = pin!(sweep(&service));
    while !poll(&mut counted, 1).await {
        polls += 1;
    }
    assert!(world.narinfo("main", &closures[0][0]).await.is_none(), "it is not taken");
    let moments = (1..=polls).step_by((polls / u32::from(MOMENTS)).max(1) as usize);
    for (moment, nars) in moments.zip(&closures[1..]) {
        let all: Vec<&TestNar> = nars.iter().collect();
        let_go(&mut world, &[&nars[0]]).await;
        let mut swept = pin!(sweep(&service));
        if !poll(&mut swept, moment).await {
            let wanted = [&nars[0]];
            let (swept, told) = tokio::join!(swept, world.prefetch(&wanted));
            swept.unwrap();
            assert_eq!(told.state, PrefetchState::Complete, "after {moment} of {polls} polls: {told:?}");
            assert!(world.has(&all).await, "after {moment} of {polls} polls");
        }
        world.complete(&[&nars[0]]).await;
        for _ in 0..2 {
            world.pass(DAY + 1).await;
            sweep(&world.service).await.unwrap();
        }
        assert!(world.has(&all).await, "after {moment} of {polls} polls and more sweeps");
    }
    world.end().await;
}

/// What a prefetch has found here, and what it has fetched already, is leased until all the rest has come.
#[tokio::test]
async fn what_a_prefetch_waits_with_is_taken_by_no_sweep() {
    let upstream = UpstreamCache::start().await;
    let mut world = World::new(&[upstream.configured()]).await;
    let nars = closure(1);
    let [top, middle, low] = &nars;
    nars.iter().for_each(|nar| upstream.has(nar, "none"));
    let_go(&mut world, &[low]).await;
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    upstream.nar(middle, |bytes| Reply::Gated(gate, bytes));
    drop(upstream.asked());
    let asked = world.begin(&[&top.info.path]).await;
    let mut fetched = Vec::new();
    while !fetched.contains(&nar_file(middle)) {
        fetched.extend(upstream.asked());
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        sweep(&world.service).await.unwrap();
    }
    opened.add_permits(10);
    world.pass(0).await;
    assert_eq!(world.tell(&asked.id).await.state, PrefetchState::Complete);
    assert!(world.has(&[top, middle, low]).await);
    fetched.extend(upstream.asked());
    assert!(!fetched.contains(&nar_file(low)), "it was here all the time");
    world.end().await;
}
