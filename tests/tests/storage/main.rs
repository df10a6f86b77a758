//! Where objects lie: files, a bucket, memory; and what a service does whose bucket is gone, stalls, and comes back.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod configuration;
mod conformance;
mod hot_tier;
mod life;
mod outage;
mod requests;

use larder_tests::{
    bucket::Bucket,
    world::{Scene, World},
};

/// A service that keeps its objects in a bucket.
async fn world(bucket: &Bucket) -> World {
    world_with(bucket, "").await
}

/// The same, with more said of its storage. It reads for readers and pushes alone: nothing is scrubbed.
async fn world_with(bucket: &Bucket, storage: &str) -> World {
    let limits = format!("{}{storage}\n[retention]\nscrub_every = \"never\"\n", bucket.configuration());
    World::with(Scene { limits, ..Scene::default() }).await
}
