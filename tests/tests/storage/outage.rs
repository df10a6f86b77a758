//! A bucket that is gone, or does not answer: reading fails no build, pushing goes on later, nothing hangs.

use larder_tests::{
    bucket::Bucket,
    package::{Package, upload_body},
    world::World,
};
use reqwest::{StatusCode, header::RETRY_AFTER};

use crate::{assert_reads, world};

async fn ready(world: &World) -> StatusCode {
    reqwest::get(format!("{}/readyz", world.url())).await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_gone_breaks_no_build_and_loses_nothing() {
    let mut bucket = Bucket::start().await;
    let world = world(&bucket).await;
    let (here, later) = (Package::noise("here", 3_000_000), Package::noise("later", 3_000_000));
    let client = world.client().await;
    client.push(&[&here]).await.unwrap();
    let narinfo = world.narinfo(&here.info.path).await.unwrap();
    assert_eq!(ready(&world).await, StatusCode::OK);
    let opened = client.open(&[&later]).await.unwrap();

    bucket.kill().await;
    let nar = world.get(&narinfo.url).await;
    assert_eq!(nar.status(), StatusCode::NOT_FOUND, "a NAR that cannot be served whole");
    assert_eq!(world.narinfo(&here.info.path).await, Some(narinfo));
    assert_eq!(ready(&world).await, StatusCode::SERVICE_UNAVAILABLE);
    let refused = reqwest::Client::new()
        .post(format!("{}/api/v1/caches/main/pushes/{}/frames", world.url(), opened.push))
        .bearer_auth(client.token())
        .body(upload_body(&later.cut().1))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(RETRY_AFTER));

    // When it is back, the push goes on, and nobody has to restart anything.
    bucket.start_again().await;
    client.send(opened.push, &[&later]).await.unwrap();
    assert_eq!(client.commit(opened.push).await.unwrap().published, 1);
    assert_eq!(ready(&world).await, StatusCode::OK);
    for package in [&here, &later] {
        assert_reads(&world, package).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_stalls_keeps_a_reader_for_some_seconds_only() {
    let bucket = Bucket::start().await;
    let world = world(&bucket).await;
    let package = Package::noise("package", 3_000_000);
    world.client().await.push(&[&package]).await.unwrap();
    let narinfo = world.narinfo(&package.info.path).await.unwrap();
    bucket.stall();
    let stalled = world.get(&narinfo.url).await;
    bucket.resume();
    assert_eq!(stalled.status(), StatusCode::NOT_FOUND);
    assert_reads(&world, &package).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_that_is_being_sent_waits_for_its_bucket() {
    let mut bucket = Bucket::start().await;
    let world = world(&bucket).await;
    // More than what is read ahead and what connections hold.
    let package = Package::noise("package", 24_000_000);
    world.client().await.push(&[&package]).await.unwrap();
    let narinfo = world.narinfo(&package.info.path).await.unwrap();
    let mut answer = world.get(&narinfo.url).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let mut bytes = answer.chunk().await.unwrap().unwrap().to_vec();
    bucket.kill().await;
    let (rest, ()) = tokio::join!(answer.bytes(), bucket.start_again());
    bytes.extend(rest.unwrap());
    assert!(zstd::stream::decode_all(&bytes[..]).unwrap() == package.nar);
}
