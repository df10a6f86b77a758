//! Samples: what they count, and how they become fewer.

use larder_service::{
    metadata::{Metadata, Sample, Traffic},
    stats::{take_sample, thin},
};

use crate::{
    package,
    world::{DAY, HOUR, World},
};

const MINUTE: i64 = 60;

async fn newest(world: &World, cache: &str, repository: &str) -> Sample {
    let samples = world.service.metadata.samples(cache, repository, 0).await.unwrap();
    samples.last().unwrap_or_else(|| panic!("no sample of {cache:?} {repository:?}")).clone()
}

/// Chunks and their bytes, as the database counts them one by one and as samples tell them.
pub async fn counted_and_told(metadata: &Metadata) -> [(u64, u64); 2] {
    let (counted, told) = (metadata.count_chunks().await.unwrap(), metadata.stored().await.unwrap());
    let told = told.values().fold((0, 0), |sum, one| (sum.0 + one.chunks, sum.1 + one.chunk_bytes));
    [counted, told]
}

#[tokio::test]
async fn a_sample_says_what_is_there_and_what_was_read() {
    let world = World::new().await;
    let (base, other) = (package(1, &[]), package(4, &[]));
    let (top, next) = (package(2, &[&base]), package(3, &[&base]));
    world.push(&world.job("main", 1).await, &[&top, &base]).await;
    world.push(&world.job_of("acme/other", 43, "main", 2).await, &[&next, &base]).await;
    world.push(&world.person().await, &[&other]).await;
    assert!(world.has(&top).await && world.has(&top).await && world.has(&base).await);
    assert!(world.narinfo(&next).await.is_some());
    assert!(world.narinfo(&package(9, &[])).await.is_none());

    let whole = take_sample(&world.service).await.unwrap();
    let held = whole.held;
    let raw: u64 = [&base, &top, &next, &other].iter().map(|nar| nar.info.nar_size).sum();
    assert_eq!((held.paths, held.nars, held.closures, held.runs, held.raw_bytes), (4, 4, 2, 2, raw));
    assert_eq!((held.recent_pushes, held.recent_reads, held.leases, held.pins), (3, 3, 0, 0));
    assert!(held.chunks.unwrap() >= 4 && held.objects.unwrap() >= 3, "{held:?}");
    assert!(held.stored_bytes.unwrap() > held.packed_bytes, "with indexes and recipes");
    assert_eq!(held.shared_bytes, Some(0));
    let files = world.objects().sizes().await.values().sum();
    assert_eq!(held.stored_bytes, Some(files));
    assert_eq!((whole.traffic.hits, whole.traffic.misses, whole.traffic.reads), (4, 1, 3));

    let cache = newest(&world, "main", "").await;
    assert_eq!(cache.traffic, whole.traffic);
    assert_eq!(cache.held.chunks, held.chunks, "it shares chunks with no other");
    let flake = newest(&world, "main", "acme/flake").await;
    assert_eq!((flake.held.paths, flake.held.nars, flake.held.runs, flake.held.closures), (2, 2, 1, 1));
    assert_eq!((flake.traffic.hits, flake.traffic.reads), (3, 3));
    let nar_bytes = |nars: &[&crate::nar::TestNar]| nars.iter().map(|nar| nar.info.nar_size).sum::<u64>();
    assert!(flake.traffic.bytes_served > 2 * nar_bytes(&[&top]) / 2, "{flake:?}");
    let second = newest(&world, "main", "acme/other").await;
    assert_eq!((second.held.paths, second.traffic.hits, second.traffic.reads), (1, 1, 0));
    assert_eq!(newest(&world, "main", "-").await.held.paths, 1);
    let by: u64 = [&flake, &second].iter().map(|sample| sample.traffic.bytes_served).sum();
    assert_eq!(by, whole.traffic.bytes_served);

    // Within the same five minutes all is one sample; what was counted is not counted twice.
    assert!(world.narinfo(&next).await.is_some());
    world.pass(MINUTE);
    take_sample(&world.service).await.unwrap();
    take_sample(&world.service).await.unwrap();
    let samples = world.service.metadata.samples("", "", 0).await.unwrap();
    assert_eq!((samples.len(), samples[0].traffic.hits), (1, 5));
    world.pass(5 * MINUTE);
    assert_eq!(take_sample(&world.service).await.unwrap().traffic, Traffic::default());
}

/// The same contents under another name are stored once, and so are chunks that two NARs have in common.
#[tokio::test]
async fn what_is_shared_is_told() {
    let world = World::new().await;
    let long = crate::contents(7, 3_000_000, &[]);
    let one = crate::TestNar::new(crate::path(1, "x"), &long, &[]);
    let same = crate::TestNar::new(crate::path(2, "y"), &long, &[]);
    let mut changed = long.clone();
    changed.truncate(2_900_000);
    let similar = crate::TestNar::new(crate::path(3, "x"), &changed, &[]);
    for nar in [&one, &same, &similar] {
        world.push(&world.person().await, &[nar]).await;
    }
    let held = take_sample(&world.service).await.unwrap().held;
    assert_eq!((held.paths, held.nars), (3, 2));
    let (shared, packed) = (held.shared_bytes.unwrap(), held.packed_bytes);
    assert!(shared > packed / 2 && shared < packed * 2 / 3 + 1, "{held:?}");
}

/// Millions of chunks are never counted for a sample; what is told instead is right after whatever happened to them.
#[tokio::test]
async fn chunks_are_told_as_they_are_after_pushes_and_sweeps() {
    let world = World::with(|config| config.caches[0].retention.keep_days = 0).await;
    let anna = world.person().await;
    let (one, two) = (package(1, &[]), package(2, &[]));
    world.push(&anna, &[&one]).await;
    world.push(&world.job("main", 1).await, &[&two]).await;
    // What is uploaded twice is there once.
    let opened = world.open(&anna, &[&package(3, &[])]).await;
    assert_eq!(world.upload(&anna, &opened, &one.chunks).await, 200);
    let [counted, told] = counted_and_told(&world.service.metadata).await;
    assert_eq!(counted, told);
    assert!(counted.0 >= 2);
    world.pass(DAY);
    world.sweep_all().await;
    let [after, told] = counted_and_told(&world.service.metadata).await;
    assert_eq!(after, told);
    assert!(after.0 < counted.0 && after.1 < counted.1, "{after:?} of {counted:?}");
}

#[tokio::test]
async fn samples_become_fewer_with_age_and_nothing_that_was_counted_is_lost() {
    let world = World::new().await;
    let nar = package(1, &[]);
    world.push(&world.job("main", 1).await, &[&nar]).await;
    world.pass(HOUR - world.now().rem_euclid(HOUR));
    let began = world.now();
    for _ in 0..26 * 12 {
        assert!(world.narinfo(&nar).await.is_some());
        take_sample(&world.service).await.unwrap();
        world.pass(5 * MINUTE);
    }
    let spans = async |cache: &str, repository: &str| {
        thin(&world.service).await.unwrap();
        let samples = world.service.metadata.samples(cache, repository, 0).await.unwrap();
        let of = |span| samples.iter().filter(|sample| sample.span == span).count();
        let hits: u64 = samples.iter().map(|sample| sample.traffic.hits).sum();
        assert!(samples.iter().all(|sample| sample.held.paths == 1), "{samples:?}");
        assert!(samples.is_sorted_by_key(|sample| sample.taken_at));
        (of(5 * MINUTE), of(HOUR), of(DAY), hits)
    };
    for (cache, repository) in [("", ""), ("main", ""), ("main", "acme/flake")] {
        assert_eq!(spans(cache, repository).await, (24 * 12, 2, 0, 26 * 12), "{cache} {repository}");
    }
    world.pass(DAY);
    assert_eq!(spans("", "").await, (0, 26, 0, 26 * 12));
    world.pass(32 * DAY);
    let days = (began + 26 * HOUR - 1).div_euclid(DAY) - began.div_euclid(DAY) + 1;
    assert_eq!(spans("", "").await, (0, 0, usize::try_from(days).unwrap(), 26 * 12));
    world.pass(5 * 365 * DAY);
    assert_eq!(spans("main", "acme/flake").await.3, 26 * 12);
    world.pass(6 * 365 * DAY);
    assert_eq!(spans("", "").await, (0, 0, 0, 0));
}

/// What cannot be written is counted with the next sample.
#[tokio::test]
async fn what_a_restart_interrupts_is_not_counted_twice() {
    let mut world = World::new().await;
    let nar = package(1, &[]);
    world.push(&world.job("main", 1).await, &[&nar]).await;
    assert!(world.narinfo(&nar).await.is_some());
    let service = world.service.clone();
    world.restart().await;
    assert!(take_sample(&service).await.is_err(), "its database is closed");
    assert!(world.narinfo(&nar).await.is_some());
    take_sample(&world.service).await.unwrap();
    assert_eq!(newest(&world, "", "").await.traffic.hits, 1);
}
