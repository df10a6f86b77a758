//! Where objects lie: files, a bucket, memory; and what a service does whose bucket is gone, stalls, and comes back.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod configuration;
mod conformance;
mod hot_tier;
mod life;
mod lost;
mod outage;
mod requests;

use larder_tests::{
    bucket::Bucket,
    package::Package,
    world::{Scene, World},
};
use reqwest::StatusCode;

/// A service that keeps its objects in a bucket.
async fn world(bucket: &Bucket) -> World {
    world_with(bucket, "").await
}

/// The same, with more said of its storage.
async fn world_with(bucket: &Bucket, storage: &str) -> World {
    World::with(Scene { limits: limits(bucket, storage), ..Scene::default() }).await
}

/// What a service is told that keeps its objects in a bucket. It reads for readers and pushes alone: nothing is scrubbed.
fn limits(bucket: &Bucket, storage: &str) -> String {
    format!("{}{storage}\n[retention]\nscrub_every = \"never\"\n", bucket.configuration())
}

/// Reads a path's NAR as it is now.
async fn assert_reads(world: &World, package: &Package) {
    let narinfo = world.narinfo(&package.info.path).await.unwrap();
    let whole = world.get(&narinfo.url).await;
    assert_eq!(whole.status(), StatusCode::OK);
    let bytes = whole.bytes().await.unwrap();
    assert!(zstd::stream::decode_all(&bytes[..]).unwrap() == package.nar);
}
