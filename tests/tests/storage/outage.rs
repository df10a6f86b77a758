//! A bucket that is gone, or does not answer: reading fails no build, pushing goes on later, nothing hangs.

use std::time::Duration;

use larder_protocol::api::PushId;
use larder_service::config::{BucketWaits, Config, StorageConfig};
use larder_tests::{
    bucket::Bucket,
    client::Client,
    package::{Package, upload_body},
    world::{Scene, World},
};
use reqwest::{
    Response, StatusCode,
    header::{RANGE, RETRY_AFTER},
};

use crate::{assert_reads, limits, world};

async fn ready(world: &World) -> StatusCode {
    reqwest::get(format!("{}/readyz", world.url())).await.unwrap().status()
}

/// Sends a package's frames once, whatever the answer.
async fn upload(world: &World, client: &Client, push: PushId, package: &Package) -> Response {
    let url = format!("{}/api/v1/caches/main/pushes/{push}/frames", world.url());
    let request = reqwest::Client::new().post(url).bearer_auth(client.token());
    request.body(upload_body(&package.cut().1)).send().await.unwrap()
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
    let refused = upload(&world, &client, opened.push, &later).await;
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

/// As little patience with a bucket as a test has.
fn hurried(config: &mut Config) {
    let StorageConfig::Bucket(bucket) = &mut config.storage else { panic!("no bucket") };
    bucket.waits.request = bucket.waits.read;
    bucket.waits.retry = Duration::from_secs(1);
    bucket.waits.read_on = Duration::from_secs(1);
}

/// Reads an answer to its end, and tells how it ended.
async fn read(mut answer: Response) -> (Vec<u8>, reqwest::Result<()>) {
    let mut bytes = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return (bytes, Ok(())),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_stalls_keeps_everybody_for_some_seconds_only() {
    let bucket = Bucket::start().await;
    let scene = Scene { limits: limits(&bucket, ""), change: hurried, ..Scene::default() };
    let world = World::with(scene).await;
    // More than what is read ahead and what connections hold; more than what goes to a bucket at once.
    let (large, later) = (Package::noise("large", 48_000_000), Package::noise("later", 6_000_000));
    let client = world.client().await;
    client.push(&[&large]).await.unwrap();
    let narinfo = world.narinfo(&large.info.path).await.unwrap();
    let opened = client.open(&[&later]).await.unwrap();
    let being_sent = world.get(&narinfo.url).await;
    assert_eq!(being_sent.status(), StatusCode::OK);
    let length = being_sent.content_length().unwrap();

    bucket.stall();
    let (absent, refused, (mut bytes, end), ready) = tokio::join!(
        world.get(&narinfo.url),
        upload(&world, &client, opened.push, &later),
        read(being_sent),
        ready(&world),
    );
    assert_eq!(world.narinfo(&large.info.path).await.as_ref(), Some(&narinfo));
    bucket.resume();
    assert_eq!(absent.status(), StatusCode::NOT_FOUND);
    assert_eq!(ready, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(RETRY_AFTER));
    // Whoever reads cannot take what was cut off for the whole, and gets the rest as Nix does.
    assert!(end.is_err(), "{} of {length} bytes, and a good end", bytes.len());
    assert!((1..length).contains(&(bytes.len() as u64)), "{} of {length} bytes", bytes.len());
    let url = format!("{}/main/{}", world.url(), narinfo.url);
    let rest = reqwest::Client::new().get(url).header(RANGE, format!("bytes={}-", bytes.len()));
    let rest = rest.send().await.unwrap();
    assert_eq!(rest.status(), StatusCode::PARTIAL_CONTENT);
    bytes.extend(rest.bytes().await.unwrap());
    assert!(zstd::stream::decode_all(&bytes[..]).unwrap() == large.nar);

    client.send(opened.push, &[&later]).await.unwrap();
    assert_eq!(client.commit(opened.push).await.unwrap().published, 1);
    assert_reads(&world, &later).await;
}

/// `larder` waits for a minute for an answer, and so do nginx and others where nothing else is said.
#[test]
fn whoever_pushes_hears_from_the_service_that_its_bucket_stalls() {
    let BucketWaits { request, retry, read, .. } = BucketWaits::default();
    assert!(request + retry < Duration::from_secs(60) && read < request);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_that_is_being_sent_waits_for_its_bucket() {
    let mut bucket = Bucket::start().await;
    let world = world(&bucket).await;
    // More than what is read ahead and what connections hold.
    let package = Package::noise("package", 48_000_000);
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
