//! An object that is missing behind its row: its paths are absent as soon as somebody has missed it, and come anew.

use std::{fs, time::Duration};

use larder_tests::{
    bucket::Bucket,
    package::{Node, Package, noise},
    world::World,
};
use reqwest::StatusCode;

use crate::{assert_reads, world};

/// The objects of frames.
async fn frames(bucket: &Bucket) -> Vec<String> {
    bucket.objects().by_age("frames").await
}

/// Takes away those that came since there were these.
async fn lose_newer_than(before: &[String], bucket: &Bucket) {
    for object in frames(bucket).await.iter().filter(|object| !before.contains(object)) {
        bucket.objects().delete(object).await;
    }
}

async fn nar_status(world: &World, url: &str) -> StatusCode {
    world.get(url).await.status()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_misses_is_absent_soon_and_accepted_anew() {
    let bucket = Bucket::start().await;
    let world = world(&bucket).await;
    let (lost, kept) = (Package::noise("lost", 700_000), Package::noise("kept", 300_000));
    let client = world.client().await;
    client.push(&[&kept]).await.unwrap();
    let before = frames(&bucket).await;
    client.push(&[&lost]).await.unwrap();
    let narinfo = world.narinfo(&lost.info.path).await.unwrap();
    lose_newer_than(&before, &bucket).await;
    assert_eq!(nar_status(&world, &narinfo.url).await, StatusCode::NOT_FOUND);
    while world.narinfo(&lost.info.path).await.is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.service().metadata.count_waiting().await.unwrap(), 1, "it is reported");
    assert_reads(&world, &kept).await;
    assert_eq!(client.push(&[&lost]).await.unwrap().published, 1);
    assert_reads(&world, &lost).await;
    assert_eq!(world.service().metadata.count_waiting().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_shares_what_is_lost_is_told_to_come_again_and_brings_it() {
    let bucket = Bucket::start().await;
    let world = world(&bucket).await;
    let client = world.client().await;
    let (shared, kept) = (noise(700_000), Package::noise("kept", 300_000));
    let one = Package::new("one", &Node::File(shared.clone()));
    let other = Package::new("other", &Node::File([shared, noise(100_000)].concat()));
    client.push(&[&kept]).await.unwrap();
    let before = frames(&bucket).await;
    client.push(&[&one]).await.unwrap();
    lose_newer_than(&before, &bucket).await;
    let opened = client.open(&[&other]).await.unwrap();
    let refused = client.send(opened.push, &[&other]).await.unwrap_err();
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    // Chunk by chunk becomes missing, and comes.
    while client.send(opened.push, &[&other]).await.map_or(true, |answer| !answer.rejected.is_empty()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.commit(opened.push).await.unwrap().published, 1);
    assert_reads(&world, &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_says_that_nothing_is_there_makes_nothing_absent_for_good() {
    let bucket = Bucket::start().await;
    let world = world(&bucket).await;
    let package = Package::noise("package", 700_000);
    world.client().await.push(&[&package]).await.unwrap();
    let narinfo = world.narinfo(&package.info.path).await.unwrap();
    let (folder, away) = (bucket.folder("larder"), bucket.folder("away"));
    fs::rename(&folder, &away).unwrap();
    assert_eq!(nar_status(&world, &narinfo.url).await, StatusCode::NOT_FOUND);
    // Until it was looked at.
    let other = |request: &String| request.starts_with("HEAD ") && !request.contains("/frames/");
    while !bucket.take_requests().iter().any(other) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while world.service().metadata.next_verification().await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fs::rename(&away, &folder).unwrap();
    assert_reads(&world, &package).await;
}
