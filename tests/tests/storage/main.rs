//! Where objects lie: files, a bucket, memory; and what a service does whose bucket is gone, stalls, and comes back.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod configuration;
mod conformance;
mod life;
mod outage;
mod requests;

use larder_tests::{
    bucket::Bucket,
    world::{Scene, World},
};

/// A service that keeps its objects in a bucket.
async fn world(bucket: &Bucket) -> World {
    World::with(Scene { limits: bucket.configuration(), ..Scene::default() }).await
}
