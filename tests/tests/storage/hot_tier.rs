//! Copies of a bucket's objects on a disk: they are right or not there, few enough, and no push and no reader depends on
//! them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use larder_service::{retention::sweep, stats::metrics};
use larder_tests::{bucket::Bucket, package::Package, small_disk::SmallDisk, world::World};
use reqwest::StatusCode;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::world_with;

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// A service that keeps its objects in a bucket, and copies of them in a folder.
async fn world(bucket: &Bucket, folder: &Path, max_size: &str) -> World {
    let hot_tier = format!("hot_tier = {{ folder = \"{}\", max_size = \"{max_size}\" }}", folder.display());
    world_with(bucket, &hot_tier).await
}

fn copies(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Reads a NAR as Nix does, and tells how often the bucket was asked for it.
async fn assert_reads(world: &World, bucket: &Bucket, package: &Package) -> usize {
    let narinfo = world.narinfo(&package.info.path).await.unwrap();
    bucket.take_requests();
    let answer = world.get(&narinfo.url).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let bytes = answer.bytes().await.unwrap();
    assert!(zstd::stream::decode_all(&bytes[..]).unwrap() == package.nar);
    frames_asked(bucket)
}

fn frames_asked(bucket: &Bucket) -> usize {
    let asked = bucket.take_requests();
    asked.iter().filter(|request| request.starts_with("GET ") && request.contains("/frames/")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_is_verified_and_served_from_the_hot_tier() {
    let (mut bucket, folder) = (Bucket::start().await, TempDir::new().unwrap());
    let world = world(&bucket, &folder.path().join("copies"), "1 GB").await;
    let package = Package::noise("package", 7_000_000);
    world.client().await.push(&[&package]).await.unwrap();
    assert_eq!(frames_asked(&bucket), 0, "verified by what is near");
    bucket.stall();
    assert_eq!(assert_reads(&world, &bucket, &package).await, 0);
    bucket.kill().await;
    assert_eq!(assert_reads(&world, &bucket, &package).await, 0);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    let server = tokio::spawn(metrics::serve(world.service().clone(), listener));
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    server.abort();
    let value = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    };
    assert_eq!(value("larder_hot_tier_reads_total{result=\"miss\"}"), 0);
    assert!(value("larder_hot_tier_reads_total{result=\"hit\"}") > 0);
    assert!(value("larder_hot_tier_bytes") > 7_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_dropped_and_the_bucket_is_read() {
    let (bucket, folder) = (Bucket::start().await, TempDir::new().unwrap());
    let world = world(&bucket, folder.path(), "1 GB").await;
    let client = world.client().await;
    let block = (64 << 10) + 16;
    let damages: [fn(&mut Vec<u8>, usize); 6] = [
        |copy, _| copy[200_000] ^= 1,
        |copy, block| drop(copy.drain(..block)),
        |copy, _| copy.truncate(150_000),
        |copy, block| copy.truncate(2 * block),
        |copy, _| copy.clear(),
        |copy, _| copy.truncate(1),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let package = Package::noise(&format!("package-{number}"), 300_000);
        client.push(&[&package]).await.unwrap();
        assert_eq!(assert_reads(&world, &bucket, &package).await, 0);
        let [file] = &copies(folder.path())[..] else { panic!("one object has one copy") };
        let mut copy = fs::read(file).unwrap();
        damage(&mut copy, block);
        fs::write(file, copy).unwrap();
        assert!(assert_reads(&world, &bucket, &package).await > 0, "damage {number}");
        assert!(!file.exists(), "damage {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_fetched_when_more_was_read_of_it_than_it_has() {
    let (mut bucket, folder) = (Bucket::start().await, TempDir::new().unwrap());
    let world = world(&bucket, folder.path(), "1 GB").await;
    let package = Package::noise("package", 6_000_000);
    world.client().await.push(&[&package]).await.unwrap();
    let [copy] = &copies(folder.path())[..] else { panic!("one object has one copy") };
    let whole = fs::read(copy).unwrap();
    fs::remove_file(copy).unwrap();
    assert!(assert_reads(&world, &bucket, &package).await > 0);
    assert!(copies(folder.path()).is_empty(), "it was read once");
    assert!(assert_reads(&world, &bucket, &package).await > 0);
    while !copy.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(fs::read(copy).unwrap() == whole);
    bucket.kill().await;
    assert_eq!(assert_reads(&world, &bucket, &package).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hot_tier_keeps_what_was_used_last_and_no_more_than_it_may() {
    let (bucket, folder) = (Bucket::start().await, TempDir::new().unwrap());
    let stranger = folder.path().join("somebody's");
    fs::write(&stranger, "file").unwrap();
    let mut world = world(&bucket, folder.path(), "3500 kB").await;
    let packages: Vec<Package> = (0..7).map(|n| Package::noise(&format!("package-{n}"), 1_000_000)).collect();
    let client = world.client().await;
    for package in &packages {
        client.push(&[package]).await.unwrap();
        assert_eq!(assert_reads(&world, &bucket, &packages[0]).await, 0, "it is used all the time");
        let held: u64 = copies(folder.path()).iter().map(|copy| copy.metadata().unwrap().len()).sum();
        assert!(held <= 3_500_000, "{held}");
    }
    assert!(assert_reads(&world, &bucket, &packages[1]).await > 0, "it was the first to go");
    assert!(stranger.exists());
    // Another service goes on with what it finds.
    world.restart().await;
    assert_eq!(assert_reads(&world, &bucket, &packages[6]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_tier_that_is_full_or_gone_fails_no_push_and_no_reader() {
    let (bucket, disk) = (Bucket::start().await, SmallDisk::new(4));
    let folder = disk.path().join("copies");
    let world = world(&bucket, &folder, "1 GB").await;
    let packages: Vec<Package> = (0..3).map(|n| Package::noise(&format!("package-{n}"), 2_500_000)).collect();
    let large = Package::noise("large", 6_000_000);
    let client = world.client().await;
    for package in packages.iter().chain([&large]) {
        client.push(&[package]).await.unwrap();
        assert_reads(&world, &bucket, package).await;
    }
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "no folder any more").unwrap();
    let package = Package::noise("package", 2_000_000);
    client.push(&[&package]).await.unwrap();
    for package in packages.iter().chain([&large, &package]) {
        assert!(assert_reads(&world, &bucket, package).await > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_with_its_object() {
    let (bucket, folder) = (Bucket::start().await, TempDir::new().unwrap());
    let world = world(&bucket, folder.path(), "1 GB").await;
    let client = world.client().await;
    for n in 0..9 {
        client.push(&[&Package::noise(&format!("package-{n}"), 100_000)]).await.unwrap();
    }
    assert_eq!(copies(folder.path()).len(), 9);
    world.advance(DAY + 1);
    assert!(sweep(world.service()).await.unwrap().compaction.written > 0);
    world.advance(HOUR + 1);
    sweep(world.service()).await.unwrap();
    let frames = bucket.objects().by_age("frames").await.len();
    assert_eq!(copies(folder.path()).len(), frames);
    assert!(frames < 9);
}
