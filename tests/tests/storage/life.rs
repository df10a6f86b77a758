//! What comes into a bucket, is read from there, moves in it, is damaged, and goes.

use larder_service::{
    retention::sweep,
    verification::{Scope, verify},
};
use larder_tests::{
    bucket::Bucket,
    larder::Push,
    nix::Nix,
    package::{Node, Package, noise},
    source_store::{SourceStore, tree},
};

use crate::world;

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// Two paths of some megabytes, more than one object takes.
async fn source() -> SourceStore {
    let library = tree("library", Node::File(noise(9_000_000)));
    let contents = [noise(2_000_000), library.0.info.path.absolute().into_bytes()].concat();
    let (package, node) = tree("program", Node::directory([("program", Node::File(contents))]));
    let program = (package.referring_to([&library.0]), node);
    SourceStore::new([library, program]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closure_goes_into_a_bucket_and_nix_reads_it_from_there() {
    let bucket = Bucket::start().await;
    let world = world(&bucket).await;
    let token = world.client().await.token().to_owned();
    let source = source().await;
    let report = source.push(Push::with_token(&world.url(), &token)).report().await;
    assert_eq!(report.published, 2);
    // Frames, in one large object; recipes; the push's record.
    let objects = bucket.objects().sizes().await;
    assert_eq!(objects.len(), 3, "{objects:?}");
    assert!(!bucket.has_parts().await);
    assert!(!world.data_dir().join("objects").exists());
    for nix in [Nix::Installed, Nix::V2_26] {
        source.assert_read_back(&world.reader().await, nix).await;
    }
    // It is all in there, and the database knows where.
    let again = source.push(Push::with_token(&world.url(), &token)).report().await;
    assert_eq!((again.published, again.sent_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_bucket_is_merged_verified_and_mended() {
    let bucket = Bucket::start().await;
    let world = world(&bucket).await;
    let packages: Vec<Package> = (0..9).map(|n| Package::noise(&format!("package-{n}"), 200_000)).collect();
    let client = world.client().await;
    for package in &packages {
        client.push(&[package]).await.unwrap();
    }
    let before = bucket.objects().sizes().await.len();
    world.advance(DAY + 1);
    let report = sweep(world.service()).await.unwrap();
    assert!(report.compaction.written > 0, "{report:?}");
    world.advance(HOUR + 1);
    sweep(world.service()).await.unwrap();
    let left = bucket.objects().sizes().await;
    assert!(left.len() < before, "{before} objects became {left:?}");
    let found = verify(world.service(), Scope::All).await.unwrap();
    assert!(found.is_right() && found.findings.is_empty() && found.nars == 9, "{found:?}");

    // One that is gone behind its row, and one that nobody knows.
    let objects = bucket.objects();
    let frames = objects.by_age("frames").await.remove(0);
    objects.write("frames/stray", objects.read(&frames).await).await;
    objects.delete(&frames).await;
    let found = verify(world.service(), Scope::All).await.unwrap();
    assert_eq!((found.unreferenced, found.waiting.len()), (1, 9), "{found:?}");
    assert_eq!(world.narinfo(&packages[0].info.path).await, None);
    let client = world.client().await;
    let packages: Vec<&Package> = packages.iter().collect();
    assert_eq!(client.push(&packages).await.unwrap().published, 9);
    assert!(world.narinfo(&packages[0].info.path).await.is_some());
    let found = verify(world.service(), Scope::All).await.unwrap();
    assert_eq!((found.lost, found.withdrawn, found.waiting.len()), (0, 0, 0), "{found:?}");
}
