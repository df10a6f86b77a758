//! What a push brings, seen from outside.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use larder_protocol::api::ErrorCode;
use larder_tests::{
    package::{Node, Package},
    world::World,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_path_is_served_signed_and_whole() {
    let world = World::new().await;
    let package = Package::noise("tool-1.0", 700_000);
    let committed = world.client().await.push(&[&package]).await.unwrap();
    assert_eq!(committed.published, 1);

    let narinfo = world.narinfo(&package.info.path).await.unwrap();
    assert_eq!(narinfo.nar_hash, package.info.nar_hash);
    assert_eq!(narinfo.compression.as_deref(), Some("zstd"));
    assert_eq!(narinfo.signatures, committed.signatures[&package.info.path]);
    let nar = world.get(&narinfo.url).await;
    assert_eq!(nar.content_length(), narinfo.file_size);
    assert_eq!(zstd::decode_all(&nar.bytes().await.unwrap()[..]).unwrap(), package.nar);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_asked_for_again() {
    let world = World::new().await;
    let leaf = Package::noise("leaf", 10_000);
    let top = Package::new("top", &Node::Link(leaf.info.path.absolute().into_bytes())).referring_to([&leaf]);
    let client = world.client().await;
    client.push(&[&leaf, &top]).await.unwrap();
    let again = client.open(&[&leaf, &top]).await.unwrap();
    assert!(again.missing.is_empty());
    let committed = again.committed.unwrap();
    assert_eq!(committed.published, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_reference_is_named_and_nothing_is_published() {
    let world = World::new().await;
    let absent = Package::noise("absent", 1000);
    let top = Package::noise("top", 1000).referring_to([&absent]);
    let client = world.client().await;
    let opened = client.open(&[&top]).await.unwrap();
    client.send(opened.push, &[&top]).await.unwrap();
    let refusal = client.commit(opened.push).await.unwrap_err();
    assert_eq!(refusal.answer.error, ErrorCode::Invalid);
    assert_eq!(refusal.answer.missing_references, std::slice::from_ref(&absent.info.path));
    assert!(world.narinfo(&top.info.path).await.is_none());
}
