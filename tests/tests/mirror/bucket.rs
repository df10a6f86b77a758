use larder_tests::{
    bucket::Bucket,
    nix::{Nix, Reader, ScratchStore, run},
    package::Package,
    source_store::path_of,
    world::reader,
};

use super::scene::{Scenery, assert_right, files};

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_in_a_bucket_is_the_same_as_in_a_folder() {
    let scenery = Scenery::start().await;
    let bucket = Bucket::start().await;
    // More than is sent at once.
    let base = Package::noise("base", 12_000_000);
    let stays = Package::noise("stays", 100_000).referring_to([&base]);
    let goes = Package::noise("goes", 100_000).referring_to([&base]);
    scenery.push("main", &[&base, &stays]).await;
    scenery.push("topic", &[&base, &goes]).await;
    let mirror = async || {
        let mut mirror = scenery.command();
        mirror.envs(bucket.environment()).args(["mirror", "--to", &bucket.url("mirror")]);
        run(&mut mirror).await.expect_success()
    };
    assert!(mirror().await.contains("3 paths in s3://"));
    // The server keeps its objects as files.
    let folder = bucket.folder("mirror");
    assert_eq!(assert_right(&folder), 3);
    let before = files(&folder);
    assert!(mirror().await.ends_with("; nothing changed\n"));
    assert_eq!(files(&folder), before, "something was written again");

    scenery.larderd(&["roots", "drop", "acme/flake", "--ref", "refs/heads/topic"]).await.expect_success();
    assert!(mirror().await.contains("1 removed"));
    assert_eq!(assert_right(&folder), 2);
    mirror().await;
    assert_eq!(files(&folder).keys().filter(|name| name.ends_with(".nar.zst")).count(), 2);
    let substituters = vec![format!("file://{}", folder.display())];
    let reader = Reader { substituters, ..reader(&scenery.larderd.url(), "main").await };
    let store = ScratchStore::new(Nix::Installed);
    store.copy_from(&reader, &[path_of(&stays.info.path)]).await.expect_success();
    store.verify().await;
}
